//! Too much, too late, and callers that go away.

use std::time::Duration;

use futures_util::future::join_all;
use image::{DynamicImage, ImageFormat};
use pcqa::proto::ScoreStreamRequest;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use crate::house::{House, PATIENCE, comes_back_later};
use crate::media::{encoded, png};

const PROMPT: &str = "a lighthouse";

#[tokio::test]
async fn a_deadline_that_passes_while_decoding_is_deadline_exceeded() {
    let house = House::start(&["--default-timeout-seconds=0.001"]).await;
    // No machine decodes twelve megapixels in a millisecond.
    let large = encoded(&DynamicImage::new_rgb8(4000, 3000), ImageFormat::Png);
    let status = house.image(PROMPT, large).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("deadline"), "{status:?}");
}

#[tokio::test]
async fn a_deadline_for_a_whole_stream_ends_it() {
    let house = House::start(&[]).await;
    let (items, requests) = tokio::sync::mpsc::channel::<ScoreStreamRequest>(1);
    let mut request = Request::new(ReceiverStream::new(requests));
    request.set_timeout(Duration::from_secs(5));
    let mut answers = house.client().score_stream(request).await.unwrap().into_inner();
    let ended = tokio::time::timeout(PATIENCE, answers.message()).await.expect("the stream outlives its deadline");
    assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
    drop(items);
}

#[tokio::test]
async fn calls_over_the_limit_are_told_when_to_come_back_and_cancelled_ones_free_their_place() {
    let mut house = House::start(&["--max-calls=1"]).await;
    let (items, requests) = tokio::sync::mpsc::channel::<ScoreStreamRequest>(1);
    let answers = house.client().score_stream(ReceiverStream::new(requests)).await.unwrap();
    let refused = house.image(PROMPT, png(1)).await.unwrap_err();
    assert!(comes_back_later(&refused), "{refused:?}");
    assert_eq!(refused.message(), "calls in progress: 1, the limit is 1");

    drop(answers);
    drop(items);
    let scored = tokio::time::timeout(PATIENCE, async {
        while let Err(status) = house.image(PROMPT, png(1)).await {
            assert!(comes_back_later(&status), "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    scored.await.expect("the cancelled call kept its place");
    assert!(house.running());
}

#[tokio::test]
async fn a_full_queue_sheds_load_politely_and_recovers() {
    let house = House::start(&["--max-queue-frames=32", "--max-rank-images=16", "--tta"]).await;
    let images: Vec<_> = (0..16).map(png).collect();
    let calls = join_all((0..12).map(|_| house.rank(PROMPT, images.clone()))).await;
    let refused: Vec<_> = calls.iter().filter_map(|call| call.as_ref().err()).collect();
    assert!(refused.iter().all(|status| comes_back_later(status)), "{refused:?}");
    house.rank(PROMPT, images).await.unwrap();
}

#[tokio::test]
async fn callers_that_give_up_leave_a_service_that_works() {
    let mut house = House::start(&["--max-queue-frames=32", "--max-rank-images=16"]).await;
    for patience in 0..20 {
        let given_up = tokio::time::timeout(
            Duration::from_millis(patience * 5),
            join_all((0..4).map(|_| house.rank(PROMPT, (0..8).map(png).collect()))),
        );
        let _ = given_up.await;
    }
    let scored = tokio::time::timeout(PATIENCE, async {
        while let Err(status) = house.rank(PROMPT, (0..16).map(png).collect()).await {
            assert!(comes_back_later(&status), "{status:?}");
        }
    });
    scored.await.expect("the cancelled items kept their places");
    assert!(house.running());
}
