//! Where the time went: the stages of every score add up to its total.

use futures_util::future::join_all;
use pcqa::proto::score_stream_request::Media;
use pcqa::proto::score_stream_response::Outcome;
use pcqa::proto::{Score, ScoreStreamRequest};

use crate::house::House;
use crate::media::{clip, encoded, picture, png};

const PROMPT: &str = "a lighthouse";

/// How much may be missing: a twentieth of the total, and what a thread needs to wake up.
const SLACK: (f64, f64) = (0.05, 0.001);

#[tokio::test]
async fn the_stages_of_every_score_add_up_to_its_total() {
    let house = House::start(&[]).await;
    let large = encoded(&picture(1500, 1000, 1), image::ImageFormat::Png);
    let clip = clip(20);
    let mut scores = Vec::new();
    for count in [1, 16] {
        let images = join_all((0..count).map(|_| house.image(PROMPT, large.clone()))).await;
        let videos = join_all((0..count).map(|_| house.video(PROMPT, clip.clone()))).await;
        scores.extend(images.into_iter().map(|score| ("image", count, score.unwrap())));
        scores.extend(videos.into_iter().map(|score| ("video", count, score.unwrap())));
        for (name, media) in [
            ("image in a stream", Media::Image(large.clone().into())),
            ("video in a stream", Media::Video(clip.clone().into())),
        ] {
            scores.extend(stream(&house, vec![media; count]).await.into_iter().map(|score| (name, count, score)));
        }
        let ranked = house.rank(PROMPT, (0..count as u32).map(png).collect()).await.unwrap();
        scores.extend(ranked.into_iter().map(|image| ("ranked image", count, image.score.unwrap())));
    }
    let sums: Vec<_> = scores.iter().map(|(name, count, score)| (name, count, Sum::of(score))).collect();
    for (name, count, Sum { stages, total, .. }) in &sums {
        let missing = total - stages;
        assert!(missing >= -1e-6, "{name}, {count} at once: {stages} s of stages in {total} s");
        println!("{name}, {count} at once: {:.2} ms missing of {:.1} ms", missing * 1e3, total * 1e3);
        assert!(missing <= total * SLACK.0 + SLACK.1, "{name}, {count} at once: {stages} s of stages in {total} s");
    }
    let streamed = sums.iter().filter(|(name, ..)| name.contains("stream"));
    assert!(streamed.into_iter().all(|(.., sum)| sum.receive < 0.1 * sum.total + SLACK.1));
}

async fn stream(house: &House, media: Vec<Media>) -> Vec<Score> {
    let item = |media| ScoreStreamRequest { prompt: PROMPT.to_owned(), media: Some(media), ..Default::default() };
    let requests = tokio_stream::iter(media.into_iter().map(item).collect::<Vec<_>>());
    let mut answers = house.client().score_stream(requests).await.unwrap().into_inner();
    let mut scores = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.outcome.unwrap() {
            Outcome::Score(score) => scores.push(score),
            Outcome::Error(error) => panic!("{error:?}"),
        }
    }
    scores
}

/// Seconds of a score's timings.
struct Sum {
    stages: f64,
    receive: f64,
    total: f64,
}

impl Sum {
    fn of(score: &Score) -> Self {
        let seconds = |duration: &Option<prost_types::Duration>| {
            let duration = duration.as_ref().unwrap();
            duration.seconds as f64 + f64::from(duration.nanos) * 1e-9
        };
        let times = score.timings.as_ref().unwrap();
        let receive = seconds(&times.receive);
        let others = [&times.decode, &times.resize, &times.queue, &times.text, &times.vision, &times.head];
        let others: f64 = others.into_iter().map(seconds).sum();
        Self { stages: receive + others, receive, total: seconds(&times.total) }
    }
}
