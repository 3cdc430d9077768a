//! Good requests of every RPC.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use image::ImageFormat;
use pcqa::proto::score_stream_request::Media;
use pcqa::proto::score_stream_response::Outcome;
use pcqa::proto::{Dtype, ScoreStreamRequest, Track};

use crate::house::{House, assert_same};
use crate::media::{clip, encoded, picture, png};

const PROMPT: &str = "a chequered harlequin, watching the sea";

#[tokio::test]
async fn a_score_is_eq_4_of_its_experts_and_the_same_every_time() {
    let house = House::start(&[]).await;
    let model = house.model().await;
    for (track, score, frames) in [
        (Track::Image, house.image(PROMPT, png(1)).await.unwrap(), 1),
        (Track::Video, house.video(PROMPT, clip(3)).await.unwrap(), 3),
        (Track::Video, house.video(PROMPT, clip(40)).await.unwrap(), 16),
    ] {
        let experts: Vec<_> = model.experts.iter().filter(|expert| expert.track() == track).collect();
        let names: Vec<_> = experts.iter().map(|expert| &expert.name).collect();
        assert_eq!(score.experts.iter().map(|e| &e.expert).collect::<Vec<_>>(), names);
        for (said, expert) in score.experts.iter().zip(experts) {
            assert!((said.z - (said.raw - expert.mu) / expert.sigma).abs() < 1e-9);
        }
        let count = score.experts.len() as f64;
        let mean = score.experts.iter().map(|e| e.z).sum::<f64>() / count;
        let variance = score.experts.iter().map(|e| (e.z - mean).powi(2)).sum::<f64>() / count;
        let mos = model.mos.as_ref().unwrap();
        assert!((score.z - mean).abs() < 1e-9);
        assert!((score.disagreement - variance.sqrt()).abs() < 1e-9);
        assert!((score.mos - (mos.mean + mos.std * score.z)).abs() < 1e-9);
        assert_eq!(score.frames_used, frames);
        assert_eq!(score.model_version, model.version);
        assert!(!score.prompt_truncated);
        assert_eq!(score.batch_frames, frames);
    }
    let first = house.image(PROMPT, png(1)).await.unwrap();
    let again = join_all((0..8).map(|_| house.image(PROMPT, png(1)))).await;
    for score in again {
        assert_same(&score.unwrap(), &first);
    }
    assert_ne!(house.image(PROMPT, png(2)).await.unwrap().z, first.z);
    assert_ne!(house.image("something else", png(1)).await.unwrap().z, first.z);
}

#[tokio::test]
async fn every_image_format_is_scored_and_long_prompts_are_flagged() {
    let house = House::start(&[]).await;
    let reference = house.image(PROMPT, png(1)).await.unwrap();
    let picture = picture(96, 64, 1);
    for format in [ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        let score = house.image(PROMPT, encoded(&picture, format)).await.unwrap();
        assert_same(&score, &reference);
    }
    for format in [ImageFormat::Jpeg, ImageFormat::Gif] {
        house.image(PROMPT, encoded(&picture, format)).await.unwrap();
    }
    let long = "word ".repeat(200);
    let score = house.image(&long, png(1)).await.unwrap();
    assert!(score.prompt_truncated);
    let longer = house.image(&(long + "and more"), png(1)).await.unwrap();
    assert_same(&longer, &score);
    assert!(!house.log().contains("harlequin"), "prompts are not logged");
}

#[tokio::test]
async fn a_stream_scores_many_items_and_a_bad_one_disturbs_nobody() {
    let house = House::start(&["--max-stream-in-flight=3"]).await;
    let items = [
        ("good", PROMPT, Some(Media::Image(png(1).into()))),
        ("no media", PROMPT, None),
        ("not an image", PROMPT, Some(Media::Image("text".into()))),
        ("clip", PROMPT, Some(Media::Video(clip(3).into()))),
        ("no prompt", " \t", Some(Media::Image(png(1).into()))),
        ("image as video", PROMPT, Some(Media::Video(png(1).into()))),
        ("other", PROMPT, Some(Media::Image(png(2).into()))),
        ("good", PROMPT, Some(Media::Image(png(1).into()))),
    ];
    let item = |(id, prompt, media): (&str, &str, Option<Media>)| ScoreStreamRequest {
        item_id: id.to_owned(),
        prompt: prompt.to_owned(),
        media,
        ..Default::default()
    };
    let mut requests: Vec<_> = items.into_iter().map(item).collect();
    requests.push(item((&"x".repeat(257), PROMPT, None)));
    let mut answers = house.client().score_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut outcomes: BTreeMap<String, Vec<Outcome>> = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        outcomes.entry(answer.item_id).or_default().push(answer.outcome.unwrap());
    }
    for (id, media) in [("good", png(1)), ("other", png(2))] {
        let unary = house.image(PROMPT, media).await.unwrap();
        for outcome in &outcomes[id] {
            match outcome {
                Outcome::Score(score) => assert_same(score, &unary),
                Outcome::Error(error) => panic!("{id}: {error:?}"),
            }
        }
    }
    assert_eq!(outcomes["good"].len(), 2);
    assert!(matches!(&outcomes["clip"][0], Outcome::Score(score) if score.frames_used == 3));
    // An id over the limit comes back as its first 256 bytes.
    let long_id = "x".repeat(256);
    for (id, field) in [
        ("no media", "media"),
        ("not an image", "image"),
        ("no prompt", "prompt"),
        ("image as video", "video"),
        (&long_id, "item_id"),
    ] {
        match &outcomes[id][0] {
            Outcome::Error(error) => assert_eq!((error.code, error.field.as_str()), (3, field), "{error:?}"),
            score => panic!("{id}: {score:?}"),
        }
    }
}

#[tokio::test]
async fn ranking_is_best_first_and_equal_to_scoring_each() {
    let house = House::start(&[]).await;
    let images: Vec<_> = (0..6).map(png).chain([png(0)]).collect();
    let ranked = house.rank(PROMPT, images.clone()).await.unwrap();
    let mut indices: Vec<_> = ranked.iter().map(|image| image.index).collect();
    let scores: Vec<_> = ranked.iter().map(|image| image.score.clone().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a.mos >= b.mos), "{scores:?}");
    for (index, score) in indices.iter().zip(&scores) {
        let alone = house.image(PROMPT, images[*index as usize].clone()).await.unwrap();
        assert_same(score, &alone);
    }
    let place = |index: u32| indices.iter().position(|found| *found == index).unwrap();
    assert_eq!(place(6).abs_diff(place(0)), 1, "equal images stand side by side: {indices:?}");
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn get_model_tells_the_bundle_and_the_limits_in_force() {
    let flags = [
        "--max-message-bytes=60000000",
        "--max-prompt-bytes=1001",
        "--max-image-bytes=1002",
        "--max-image-pixels=1003",
        "--max-video-bytes=1004",
        "--max-video-pixels=1005",
        "--max-video-seconds=10.5",
        "--max-video-frames=1007",
        "--max-rank-images=8",
        "--max-batch-frames=24",
    ];
    let house = House::start(&flags).await;
    let model = house.model().await;
    let limits = model.limits.as_ref().unwrap();
    let found = [
        limits.max_message_bytes,
        limits.max_prompt_bytes,
        limits.max_image_bytes,
        limits.max_image_pixels,
        limits.max_video_bytes,
        limits.max_video_pixels,
        limits.max_video_frames,
        limits.max_rank_images.into(),
        limits.max_frames_used.into(),
        limits.max_batch_frames.into(),
    ];
    assert_eq!(found, [60_000_000, 1001, 1002, 1003, 1004, 1005, 1007, 8, 16, 24]);
    assert_eq!(limits.max_video_seconds, 10.5);
    assert_eq!(model.digest.len(), 64);
    assert_eq!(model.device, "cpu");
    assert_eq!(model.dtype(), Dtype::F32);
    assert!(!model.tta);
    assert!(!model.experts.is_empty() && model.experts.iter().all(|expert| expert.sigma > 0.0));
    assert!(!model.text_towers.is_empty() && model.text_towers.iter().all(|tower| tower.embedding_dim > 0));
    assert_eq!(house.log().contains("untrained"), !model.trained, "an untrained bundle is called so");
}
