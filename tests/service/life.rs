//! Start, health, reflection, drain, end.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use pcqa::proto::score_stream_request::Media;
use pcqa::proto::score_stream_response::Outcome;
use pcqa::proto::{GetModelRequest, ScoreImageRequest, ScoreStreamRequest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::{v1, v1alpha};

use crate::house::{House, PATIENCE, server};
use crate::media::png;
use crate::raw::{self, Wire};
use crate::rolling::is_unsent;

const SERVICE: &str = "pcqa.v1.ScoringService";

#[tokio::test]
async fn health_knows_the_process_the_service_and_nothing_else() {
    let house = House::start(&[]).await;
    let mut health = HealthClient::new(house.channel.clone());
    for service in ["", SERVICE] {
        let answer = health.check(asking(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(health.check(asking("another")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn before_the_bundle_is_warm_health_says_so_and_nothing_is_scored() {
    let bundle = tempfile::tempdir().unwrap();
    // A pipe that nobody writes to: this bundle loads for ever.
    let made = std::process::Command::new("mkfifo").arg(bundle.path().join("bundle.toml")).status().unwrap();
    assert!(made.success());
    let house = House::until(&[&format!("--bundle={}", bundle.path().display())], "listening").await;
    let mut health = HealthClient::new(house.channel.clone());
    for (service, status) in [("", ServingStatus::Serving), (SERVICE, ServingStatus::NotServing)] {
        assert_eq!(health.check(asking(service)).await.unwrap().into_inner().status(), status, "{service:?}");
    }
    let refused = house.image("a lighthouse", png(1)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the model is loading"));
    house.signal(Signal::TERM);
    let (status, log) = house.ended();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
async fn a_connection_that_gives_no_sign_of_life_is_closed() {
    let house = House::start(&["--keepalive-interval-seconds=0.1", "--keepalive-timeout-seconds=0.1"]).await;
    let closed = tokio::time::timeout(PATIENCE, raw::say_hello_and_no_more(&house)).await;
    closed.expect("a connection that answers no ping stays for ever");
    for seed in 0..10 {
        house.image("a lighthouse", png(seed)).await.expect("one that answers is kept");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_that_never_says_a_word_is_closed() {
    let house = House::start(&[]).await;
    let closed = tokio::time::timeout(PATIENCE, raw::say_nothing(&house)).await;
    closed.expect("a connection that never speaks stays for ever");
}

#[tokio::test]
async fn sixty_four_videos_in_progress_are_finished_by_the_drain() {
    const EACH: usize = 16;
    let house = House::start(&["--max-queue-frames=4096", "--drain-grace-seconds=100"]).await;
    let video = crate::media::clip(20);
    let calls = (0..4).flat_map(|_| {
        // A connection each, as no single one may have that much.
        let client = house.another_client();
        (0..EACH).map(move |_| client.clone())
    });
    let calls: Vec<_> = calls
        .map(|mut client| {
            let (prompt, video) = ("a test card".to_owned(), video.clone().into());
            let request = pcqa::proto::ScoreVideoRequest { prompt, video, ..Default::default() };
            tokio::spawn(async move { client.score_video(request).await })
        })
        .collect();
    let begin = std::time::Instant::now();
    while !house.log().contains("scored") {
        assert!(begin.elapsed() < PATIENCE, "nothing was scored:\n{}", house.log());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    house.signal(Signal::TERM);
    for call in calls {
        call.await.unwrap().expect("a video was lost");
    }
    let (status, log) = house.ended();
    assert!(status.code() == Some(0) && log.contains("drained"), "{log}");
}

#[tokio::test]
async fn both_reflections_list_the_service_and_describe_it() {
    let house = House::start(&[]).await;

    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let ask = |question| v1::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(SERVICE.to_owned())),
    ];
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(house.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            assert!(list.service.iter().any(|service| service.name == SERVICE), "{list:?}");
        }
        other => panic!("{other:?}"),
    }
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::FileDescriptorResponse(files)) => assert!(!files.file_descriptor_proto.is_empty()),
        other => panic!("{other:?}"),
    }

    use v1alpha::server_reflection_request::MessageRequest as AlphaRequest;
    use v1alpha::server_reflection_response::MessageResponse as AlphaResponse;
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(AlphaRequest::ListServices(String::new())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(house.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::iter([question])).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(AlphaResponse::ListServicesResponse(list)) => {
            assert!(list.service.iter().any(|service| service.name == SERVICE), "{list:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_in_progress_is_finished_before_the_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let house = House::start(&["--drain-grace-seconds=600"]).await;
        let mut health = HealthClient::new(house.channel.clone());
        let mut watch = health.watch(asking(SERVICE)).await.unwrap().into_inner();
        assert_eq!(next(&mut watch).await.unwrap().status(), ServingStatus::Serving);
        let (items, requests) = tokio::sync::mpsc::channel(1);
        let mut answers = house.client().score_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
        items.send(item("before")).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().item_id, "before");

        house.signal(signal);
        assert_eq!(next(&mut watch).await.unwrap().status(), ServingStatus::NotServing);
        items.send(item("during")).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.item_id, "during");
        assert!(matches!(answer.outcome, Some(Outcome::Score(_))));
        drop(items);
        assert!(answers.message().await.unwrap().is_none());
        assert!(next(&mut watch).await.is_none(), "a watch does not hold up the drain");
        let (status, log) = house.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("drained"), "{log}");
    }
}

#[tokio::test]
async fn a_silent_connection_does_not_hold_up_the_drain() {
    let house = House::start(&["--drain-grace-seconds=600"]).await;
    let _silent = std::net::TcpStream::connect(&house.address).unwrap();
    house.signal(Signal::TERM);
    let (status, log) = house.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained"), "{log}");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_drain_whether_they_go_or_not() {
    let house = House::start(&["--drain-grace-seconds=600"]).await;
    house.image("a lighthouse", png(1)).await.unwrap();
    // One that honours GOAWAY, and one that does not even read it.
    let polite = Wire::connect(&house).await;
    assert!(polite.takes_calls().await);
    let mut rude = std::net::TcpStream::connect(&house.address).unwrap();
    std::io::Write::write_all(&mut rude, &raw::hello()).unwrap();
    house.signal(Signal::TERM);
    let (status, log) = tokio::task::spawn_blocking(|| house.ended()).await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained"), "{log}");
    assert!(!polite.takes_calls().await);
}

#[tokio::test]
async fn an_end_in_the_middle_of_scoring_is_no_crash() {
    for (grace, signals, code) in [("600", 2, 1), ("0.05", 1, 0)] {
        let house = House::start(&["--tta", &format!("--drain-grace-seconds={grace}")]).await;
        let load: Vec<_> = (0..8)
            .map(|_| {
                let mut client = house.client();
                let images = (0..16).map(|seed| png(seed).into()).collect();
                let request =
                    pcqa::proto::RankImagesRequest { prompt: "a lighthouse".to_owned(), images, ..Default::default() };
                tokio::spawn(async move { client.rank_images(request).await })
            })
            .collect();
        let begin = std::time::Instant::now();
        while !house.log().contains("scored") {
            assert!(begin.elapsed() < PATIENCE, "nothing was scored:\n{}", house.log());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        for _ in 0..signals {
            house.signal(Signal::TERM);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let (status, log) = house.ended();
        // On a fast machine the calls may all be answered before the end.
        let ended = status.code() == Some(code) || log.contains("drained");
        assert!(ended && status.code().is_some(), "{status:?}\n{log}");
        load.into_iter().for_each(|call| call.abort());
    }
}

#[tokio::test]
async fn calls_beyond_the_grace_are_cut_and_the_end_is_clean() {
    let house = House::start(&["--drain-grace-seconds=0.2"]).await;
    let (items, requests) = tokio::sync::mpsc::channel(1);
    let mut answers = house.client().score_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    items.send(item("one")).await.unwrap();
    answers.message().await.unwrap().unwrap();
    house.signal(Signal::TERM);
    let (status, log) = house.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("still in progress after the grace period"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let house = House::start(&["--drain-grace-seconds=600"]).await;
    let mut health = HealthClient::new(house.channel.clone());
    let mut watch = health.watch(asking(SERVICE)).await.unwrap().into_inner();
    next(&mut watch).await.unwrap();
    let (items, requests) = tokio::sync::mpsc::channel::<ScoreStreamRequest>(1);
    let _answers = house.client().score_stream(ReceiverStream::new(requests)).await.unwrap();
    house.signal(Signal::TERM);
    assert_eq!(next(&mut watch).await.unwrap().status(), ServingStatus::NotServing);
    house.signal(Signal::TERM);
    let (status, log) = house.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    drop(items);
}

#[tokio::test]
async fn calls_are_taken_while_load_balancers_catch_up() {
    let house = House::start(&["--drain-wait-seconds=600"]).await;
    let mut health = HealthClient::new(house.channel.clone());
    let mut watch = health.watch(asking(SERVICE)).await.unwrap().into_inner();
    next(&mut watch).await.unwrap();
    house.signal(Signal::TERM);
    assert_eq!(next(&mut watch).await.unwrap().status(), ServingStatus::NotServing);
    let request = ScoreImageRequest { prompt: "a lighthouse".to_owned(), image: png(1).into(), ..Default::default() };
    house.another_client().score_image(request).await.expect("a new connection is served");
    assert_eq!(health.check(asking(SERVICE)).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    house.signal(Signal::TERM);
    let (status, log) = house.ended();
    assert_eq!(status.code(), Some(1), "{log}");
}

#[tokio::test]
async fn after_the_wait_nobody_new_comes_in_and_the_end_is_clean() {
    let house = House::start(&["--drain-wait-seconds=0.2", "--drain-grace-seconds=600"]).await;
    let wire = Wire::connect(&house).await;
    let mut call = wire.open("ScoreImage", None).await;
    let message = raw::score_image("a lighthouse", png(1));
    call.send(message.slice(..10));
    let address = house.address.clone();
    house.signal(Signal::TERM);
    let begin = std::time::Instant::now();
    while wire.takes_calls().await || std::net::TcpStream::connect(&address).is_ok() {
        assert!(begin.elapsed() < PATIENCE, "the server takes calls for ever");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    call.send(message.slice(10..));
    assert_eq!(call.finish().await.code(), Code::Ok, "what was begun is finished");
    let (status, log) = house.ended();
    assert!(status.code() == Some(0) && log.contains("drained"), "{log}");
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_finishes_what_it_has_begun() {
    let house = House::start(&["--max-connection-age-seconds=0.2"]).await;
    let wire = Wire::connect(&house).await;
    let mut call = wire.open("ScoreImage", None).await;
    let message = raw::score_image("a lighthouse", png(1));
    call.send(message.slice(..10));
    let begin = std::time::Instant::now();
    while wire.takes_calls().await {
        assert!(begin.elapsed() < PATIENCE, "the connection takes calls for ever");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    call.send(message.slice(10..));
    assert_eq!(call.finish().await.code(), Code::Ok);
    // A client that honours GOAWAY does not notice; tonic leaves it to its caller to send again what it had not sent.
    for seed in 0..30 {
        let mut scored = house.image("a lighthouse", png(seed)).await;
        while scored.as_ref().is_err_and(is_unsent) {
            scored = house.image("a lighthouse", png(seed)).await;
        }
        scored.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_old_connection_is_cut_after_its_grace() {
    let flags = ["--max-connection-age-seconds=0.1", "--max-connection-age-grace-seconds=0.1"];
    let house = House::start(&flags).await;
    let (_items, requests) = tokio::sync::mpsc::channel::<ScoreStreamRequest>(1);
    let mut answers = house.client().score_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    tokio::time::timeout(PATIENCE, answers.message()).await.expect("the connection is never cut").unwrap_err();
}

#[tokio::test]
async fn more_connections_than_may_be_are_hung_up_on() {
    let house = House::start(&["--max-connections=4"]).await;
    house.image("a lighthouse", png(1)).await.unwrap();
    let idle = TcpStream::connect(&house.address).await.unwrap();
    for _ in 0..2 {
        let too_many = tokio::time::timeout(PATIENCE, raw::say_nothing(&house)).await;
        too_many.expect("a connection over the limit is not hung up on");
    }
    assert_eq!(house.log().matches("max_connections").count(), 1, "{}", house.log());
    house.image("a lighthouse", png(2)).await.expect("a connection within the limit lost a request");
    drop(idle);
    let begin = std::time::Instant::now();
    while let Err(refused) = house.another_client().get_model(GetModelRequest {}).await {
        assert!(begin.elapsed() < PATIENCE, "no connection became free: {refused}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let flags = ["--listen=127.0.0.1:0", "--log=info,pcqa=debug"];
    let mut process = server().args(flags).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("ready")));
    drop(lines);
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_start_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let cases: [(&[&str], &str); 3] = [
        (&[&listen], "listen: cannot bind"),
        (&["--listen=127.0.0.1:0", "--bundle=/does/not/exist"], "/does/not/exist"),
        (&["--listen=127.0.0.1:0", "--decoder=/does/not/exist"], "/does/not/exist"),
    ];
    for (flags, problem) in cases {
        let output = server().args(flags).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(problem), "{log}");
    }
}

fn asking(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn next(watch: &mut tonic::Streaming<HealthCheckResponse>) -> Option<HealthCheckResponse> {
    watch.message().await.unwrap()
}

fn item(id: &str) -> ScoreStreamRequest {
    ScoreStreamRequest {
        item_id: id.to_owned(),
        prompt: "a lighthouse".to_owned(),
        media: Some(Media::Image(png(1).into())),
        ..Default::default()
    }
}
