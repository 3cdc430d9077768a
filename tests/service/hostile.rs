//! Callers that harm, by intent or by mistake. None of them costs another caller a request.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use image::{DynamicImage, ImageFormat};
use pcqa::proto::score_stream_request::Media;
use pcqa::proto::score_stream_response::Outcome;
use pcqa::proto::scoring_service_client::ScoringServiceClient;
use pcqa::proto::{Priority, RankImagesRequest, ScoreImageRequest, ScoreStreamRequest, ScoreVideoRequest};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::house::{House, PATIENCE, comes_back_later};
use crate::media::{clip, encoded, ffmpeg, picture, png};
use crate::raw::{self, Wire};

const PROMPT: &str = "a lighthouse";

/// Another caller, on a connection of its own, who scores one image after another.
struct Bystander {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Bystander {
    fn of(house: &House) -> Self {
        let (mut client, stop) = (house.another_client(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut scored = 0;
            while !stopped.load(Ordering::Relaxed) {
                client.score_image(image(png(1))).await.expect("the bystander lost a request");
                scored += 1;
            }
            scored
        });
        Self { stop, task }
    }

    /// Panics where a request was lost; one more is scored now.
    async fn stays_unharmed(self, house: &House) {
        house.another_client().score_image(image(png(2))).await.expect("the next caller lost a request");
        self.stop.store(true, Ordering::Relaxed);
        let scored = tokio::time::timeout(PATIENCE, self.task).await.expect("the bystander waits for ever").unwrap();
        assert!(scored > 0);
    }
}

#[tokio::test]
async fn ten_thousand_streams_on_one_connection() {
    let house = House::start(&[]).await;
    let bystander = Bystander::of(&house);
    let client = house.another_client();
    let opened = stream::iter(0..10_000).map(|_| {
        let mut client = client.clone();
        async move {
            let (items, requests) = tokio::sync::mpsc::channel::<ScoreStreamRequest>(1);
            let answers = client.score_stream(ReceiverStream::new(requests)).await;
            answers.map(|answers| (items, answers))
        }
    });
    let opened: Vec<_> = opened.buffer_unordered(2000).collect().await;
    let (open, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    for refused in refused.iter().filter_map(|refused| refused.as_ref().err()) {
        // Over the connection's own limit of streams HTTP/2 itself says that nobody has seen the request.
        let is_unseen = refused.code() == Code::Unavailable && format!("{refused:?}").contains("REFUSED_STREAM");
        assert!(comes_back_later(refused) || is_unseen, "{refused:?}");
    }
    // All but one place of the 1024, half of them: so many stay free for others.
    assert!((500..=512).contains(&open.len()), "{} streams are open", open.len());
    bystander.stays_unharmed(&house).await;
    drop(open);
    scored_at_last(client).await;
}

#[tokio::test]
async fn a_caller_who_sends_byte_by_byte() {
    let house = House::start(&[]).await;
    let bystander = Bystander::of(&house);
    let wire = Wire::connect(&house).await;
    let message = raw::score_image(PROMPT, encoded(&picture(1, 1, 0), ImageFormat::Png));
    let mut call = wire.open("ScoreImage", None).await;
    for byte in message {
        call.send(vec![byte]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(call.finish().await.code(), Code::Ok);

    let mut call = wire.open("ScoreImage", Some("200m")).await;
    call.send(raw::head(1000));
    call.send("and no more");
    assert_eq!(call.answer().await.code(), Code::DeadlineExceeded);
    bystander.stays_unharmed(&house).await;
}

#[tokio::test]
async fn messages_that_are_only_announced_cost_no_memory() {
    let house = House::start(&[]).await;
    let bystander = Bystander::of(&house);
    let before = house.memory();
    let wire = Wire::connect(&house).await;
    let mut calls = Vec::new();
    for _ in 0..200 {
        let mut call = wire.open("ScoreImage", None).await;
        call.send(raw::head(64 << 20));
        call.send("p");
        calls.push(call);
    }
    bystander.stays_unharmed(&house).await;
    // 12.5 GiB were announced.
    let grown = house.memory().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more");
}

#[tokio::test]
async fn a_caller_who_sends_more_than_may_be_held() {
    let house = House::start(&[
        "--max-message-bytes=1000000",
        "--max-image-bytes=900000",
        "--max-video-bytes=900000",
        "--max-in-flight-bytes=2000000",
    ])
    .await;
    let bystander = Bystander::of(&house);
    let wire = Wire::connect(&house).await;
    let mut calls = Vec::new();
    // The connection may have a million bytes: two of these.
    for _ in 0..3 {
        let mut call = wire.open("ScoreImage", None).await;
        call.send(raw::head(900_000));
        call.send(vec![0; 450_000]);
        calls.push(call);
    }
    // Which one is refused is a matter of how their bytes arrive.
    let answered = calls.into_iter().map(|call| Box::pin(call.answer()));
    let (refused, _, still_open) = futures_util::future::select_all(answered).await;
    assert!(comes_back_later(&refused), "{refused:?}");
    assert!(refused.message().contains("bytes of requests held"), "{refused:?}");
    bystander.stays_unharmed(&house).await;

    drop(still_open);
    scored_at_last(house.another_client()).await;
    let full = raw::score_image(PROMPT, padded_png(890_000));
    let end = Instant::now() + PATIENCE;
    loop {
        let mut call = wire.open("ScoreImage", None).await;
        call.send(full.clone());
        let status = call.finish().await;
        if status.code() == Code::Ok {
            break;
        }
        assert!(comes_back_later(&status) && Instant::now() < end, "{status:?}");
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_at_random() {
    let mut house = House::start(&["--max-queue-frames=256"]).await;
    let bystander = Bystander::of(&house);
    let client = house.another_client();
    let (clip, images) = (clip(20), (0..8).map(|seed| png(seed).into()).collect::<Vec<_>>());
    let calls = (0..400_u32).map(|number| {
        let (mut client, clip, images) = (client.clone(), clip.clone(), images.clone());
        let patience = Duration::from_millis(u64::from(number.wrapping_mul(2_654_435_761) >> 16) % 300);
        async move {
            let call = async {
                match number % 4 {
                    0 => drop(client.score_image(image(png(number))).await),
                    1 => drop(client.score_video(video(clip)).await),
                    2 => drop(client.rank_images(rank(images)).await),
                    _ => drop(streamed(&mut client, vec![Media::Image(png(number).into()); 4]).await),
                }
            };
            let _ = tokio::time::timeout(patience, call).await;
        }
    });
    stream::iter(calls).buffer_unordered(50).collect::<Vec<_>>().await;
    bystander.stays_unharmed(&house).await;
    // Every place is free again: half of them are one connection's to have.
    let images: Vec<_> = (0..32).map(|seed| png(seed).into()).collect();
    let all = tokio::time::timeout(PATIENCE, async {
        loop {
            let calls = join_all((0..4).map(|_| {
                let mut client = client.clone();
                let request = rank(images.clone());
                async move { client.rank_images(request).await }
            }));
            if calls.await.iter().all(Result::is_ok) {
                break;
            }
        }
    });
    all.await.expect("cancelled calls kept their places");
    assert!(house.running());
    assert!(!house.log().contains("internal error"), "{}", house.log());
}

#[tokio::test]
async fn a_caller_who_takes_its_calls_back_as_fast_as_it_makes_them() {
    let house = House::start(&[]).await;
    let bystander = Bystander::of(&house);
    let ended = tokio::time::timeout(PATIENCE, raw::reset_until_closed(&house, 100_000)).await;
    ended.expect("the connection is never closed");
    bystander.stays_unharmed(&house).await;
}

#[tokio::test]
async fn headers_without_end() {
    let house = House::start(&["--max-header-bytes=4096"]).await;
    let bystander = Bystander::of(&house);
    let mut request = tonic::Request::new(image(png(1)));
    request.metadata_mut().insert("x-long", "x".repeat(5000).parse().unwrap());
    house.another_client().score_image(request).await.unwrap_err();
    bystander.stays_unharmed(&house).await;
}

#[tokio::test]
async fn a_stream_that_repeats_its_ids() {
    let house = House::start(&[]).await;
    let bystander = Bystander::of(&house);
    let mut client = house.another_client();
    let items = (0..60).map(|number| item(&format!("id {}", number % 3), Media::Image(png(number).into())));
    let items = tokio_stream::iter(items.collect::<Vec<_>>());
    let mut answers = client.score_stream(items).await.unwrap().into_inner();
    let mut counts = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(matches!(answer.outcome, Some(Outcome::Score(_))), "{answer:?}");
        *counts.entry(answer.item_id).or_insert(0) += 1;
    }
    assert_eq!(counts, (0..3).map(|id| (format!("id {id}"), 20)).collect());
    bystander.stays_unharmed(&house).await;
}

#[tokio::test]
async fn short_items_and_long_ones_on_one_stream() {
    let house = House::start(&[]).await;
    let bystander = Bystander::of(&house);
    let long = clip(40);
    let media = (0..24).map(|number| match number % 3 {
        0 => Media::Video(long.clone().into()),
        _ => Media::Image(png(number).into()),
    });
    let frames = streamed(&mut house.another_client(), media.collect()).await.unwrap();
    assert_eq!(frames.iter().filter(|frames| **frames == 1).count(), 16);
    assert_eq!(frames.iter().filter(|frames| **frames == 16).count(), 8);
    bystander.stays_unharmed(&house).await;
}

#[tokio::test]
async fn deadlines_of_nothing_and_of_a_year() {
    let house = House::start(&[]).await;
    let bystander = Bystander::of(&house);
    let wire = Wire::connect(&house).await;
    let message = raw::score_image(PROMPT, png(1));
    for _ in 0..20 {
        for (timeout, code) in [
            ("0n", Code::DeadlineExceeded),
            ("1n", Code::DeadlineExceeded),
            ("0H", Code::DeadlineExceeded),
            ("1m", Code::DeadlineExceeded),
        ] {
            for rpc in ["ScoreImage", "ScoreStream"] {
                let mut call = wire.open(rpc, Some(timeout)).await;
                call.send(message.clone());
                assert_eq!(call.finish().await.code(), code, "{rpc} within {timeout}");
            }
        }
    }
    for timeout in ["8760H", "99999999H"] {
        let mut call = wire.open("ScoreImage", Some(timeout)).await;
        call.send(message.clone());
        assert_eq!(call.finish().await.code(), Code::Ok, "{timeout}");
    }
    bystander.stays_unharmed(&house).await;
}

#[tokio::test]
async fn a_flood_from_one_connection() {
    let house = House::start(&["--max-queue-frames=64", "--max-rank-images=32"]).await;
    let bystander = Bystander::of(&house);
    let client = house.another_client();
    let large = encoded(&DynamicImage::new_rgb8(2000, 1500), ImageFormat::Png);
    let flood = join_all((0..200).map(|_| {
        let (mut client, request) = (client.clone(), image(large.clone()));
        async move { client.score_image(request).await }
    }));
    let flood = flood.await;
    let refused: Vec<_> = flood.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!refused.is_empty() && refused.len() < flood.len(), "{} of {} refused", refused.len(), flood.len());
    assert!(refused.iter().all(|status| comes_back_later(status)), "{refused:?}");
    bystander.stays_unharmed(&house).await;
}

#[tokio::test]
async fn bulk_work_of_one_caller_waits_for_the_interactive_work_of_another() {
    let house = House::start(&["--decode-threads=1"]).await;
    let client = house.another_client();
    let large = encoded(&DynamicImage::new_rgb8(2000, 1500), ImageFormat::Png);
    let bulk = (0..60).map(|_| {
        let mut client = client.clone();
        let request = ScoreImageRequest { priority: Priority::Bulk.into(), ..image(large.clone()) };
        async move { client.score_image(request).await }
    });
    let mut bulk = stream::iter(bulk).buffer_unordered(60);
    bulk.next().await.unwrap().unwrap();
    let mut other = house.another_client();
    let mut interactive = pin!(other.score_image(image(png(1))));
    let mut done = 1;
    loop {
        tokio::select! {
            biased;
            Some(answer) = bulk.next() => {
                answer.unwrap();
                done += 1;
            }
            answer = &mut interactive => {
                answer.unwrap();
                break;
            }
        }
    }
    assert!(done < 60, "the interactive item came last");
    assert!(bulk.all(async |answer| answer.is_ok()).await);
}

#[tokio::test]
async fn a_video_call_that_is_hung_up_frees_its_worker() {
    let house = House::start(&["--decoder-workers=1"]).await;
    let source = "-f lavfi -i testsrc=size=960x720:rate=30 -t 30 -c:v libx264 -preset ultrafast -g 1000";
    let (long, short) = (ffmpeg(source, "mp4"), clip(1));
    let begin = Instant::now();
    house.video(PROMPT, long.clone()).await.unwrap();
    let whole = begin.elapsed();

    let begun = tokio::time::timeout(whole / 10, house.video(PROMPT, long)).await;
    assert!(begun.is_err(), "the long clip is no longer long");
    let begin = Instant::now();
    house.video(PROMPT, short).await.unwrap();
    let waited = begin.elapsed();
    assert!(waited < whole / 2, "{waited:?} for a clip behind one that was given up and takes {whole:?}");
}

fn image(image: Vec<u8>) -> ScoreImageRequest {
    ScoreImageRequest { prompt: PROMPT.to_owned(), image: image.into(), ..Default::default() }
}

fn video(video: Vec<u8>) -> ScoreVideoRequest {
    ScoreVideoRequest { prompt: PROMPT.to_owned(), video: video.into(), ..Default::default() }
}

fn rank(images: Vec<bytes::Bytes>) -> RankImagesRequest {
    RankImagesRequest { prompt: PROMPT.to_owned(), images, ..Default::default() }
}

fn item(id: &str, media: Media) -> ScoreStreamRequest {
    ScoreStreamRequest { item_id: id.to_owned(), prompt: PROMPT.to_owned(), media: Some(media), ..Default::default() }
}

/// A picture followed by bytes that no decoder looks at.
fn padded_png(length: usize) -> Vec<u8> {
    let mut bytes = png(1);
    bytes.resize(length, 0);
    bytes
}

/// Frames of each item's score.
async fn streamed(client: &mut ScoringServiceClient<Channel>, media: Vec<Media>) -> Result<Vec<u32>, Status> {
    let items: Vec<_> = media.into_iter().map(|media| item("", media)).collect();
    let mut answers = client.score_stream(tokio_stream::iter(items)).await?.into_inner();
    let mut frames = Vec::new();
    while let Some(answer) = answers.message().await? {
        match answer.outcome {
            Some(Outcome::Score(score)) => frames.push(score.frames_used),
            other => return Err(Status::unknown(format!("{other:?}"))),
        }
    }
    Ok(frames)
}

/// Asks until there is room.
async fn scored_at_last(mut client: ScoringServiceClient<Channel>) {
    let scored = tokio::time::timeout(PATIENCE, async {
        while let Err(status) = client.score_image(image(png(1))).await {
            assert!(comes_back_later(&status), "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    scored.await.expect("what was given up kept its place");
}
