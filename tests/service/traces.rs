//! What a collector of traces is sent, and what is in the log: ids that belong together, and never a prompt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use pcqa::proto::{RankImagesRequest, ScoreImageRequest, ScoreStreamRequest, ScoreVideoRequest, score_stream_request};
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::house::House;
use crate::media::{clip, png};

const PROMPT: &str = "a lighthouse";
const STAGES: [&str; 7] = ["receive", "decode", "resize", "queue", "text", "vision", "head"];

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// One that listens, and where.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// A caller's trace, sampled or not.
fn traced<M>(message: M, trace: u128, flags: &str) -> Request<M> {
    let mut request = Request::new(message);
    let parent = format!("00-{trace:032x}-00f067aa0ba902b7-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

fn image(bytes: Vec<u8>) -> ScoreImageRequest {
    ScoreImageRequest { prompt: PROMPT.to_owned(), image: bytes.into(), ..Default::default() }
}

fn number(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value {
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number),
        _ => None,
    }
}

// The collector goes on while the test waits for the server's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampled_calls_are_exported_whole_and_others_not_at_all() {
    let (collector, endpoint) = Collector::start().await;
    let house = House::start(&[&format!("--otlp-endpoint={endpoint}"), "--trace-sample-ratio=1"]).await;
    let mut client = house.client();
    client.score_image(traced(image(png(1)), 1, "01")).await.unwrap();
    let video = ScoreVideoRequest { prompt: PROMPT.to_owned(), video: clip(20).into(), ..Default::default() };
    client.score_video(traced(video, 2, "01")).await.unwrap();
    let images = (0..3).map(|seed| png(seed).into()).collect();
    let rank = RankImagesRequest { prompt: PROMPT.to_owned(), images, ..Default::default() };
    client.rank_images(traced(rank, 3, "01")).await.unwrap();
    client.score_image(traced(image(b"no picture".to_vec()), 4, "01")).await.unwrap_err();
    client.score_image(traced(image(png(1)), 5, "00")).await.unwrap();
    let item = ScoreStreamRequest {
        prompt: PROMPT.to_owned(),
        media: Some(score_stream_request::Media::Image(png(2).into())),
        ..Default::default()
    };
    let stream = traced(tokio_stream::iter([item.clone(), item]), 6, "01");
    let mut answers = client.score_stream(stream).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    client.score_image(image(png(1))).await.unwrap();
    drop(client);

    // The drain sends what is left.
    house.signal(Signal::TERM);
    let (status, log) = house.ended();
    assert!(status.success(), "{log}");
    let spans = collector.spans();
    assert_whole(&spans);
    assert_linked(&spans);

    let of = |trace: u128| spans.iter().filter(move |span| span.trace_id == trace.to_be_bytes());
    let names = |trace| of(trace).map(|span| span.name.as_str()).collect::<Vec<_>>();
    let items = |trace, name: &str| names(trace).iter().filter(|found| **found == name).count();
    assert_eq!((items(1, "image"), items(2, "video"), items(3, "image"), items(6, "image")), (1, 1, 3, 2));
    assert_eq!(items(1, "pcqa.v1.ScoringService/ScoreImage"), 1);
    assert_eq!(names(5), [""; 0], "its caller had decided otherwise");
    let failed: Vec<_> =
        of(4).filter(|span| span.status.as_ref().is_some_and(|s| s.code() == StatusCode::Error)).collect();
    assert_eq!(failed.len(), 2, "the call and its item failed: {failed:?}");
    assert!(failed.iter().any(|span| number(&span.attributes, "rpc.grpc.status_code") == Some(3)), "{failed:?}");
    let calls = spans.iter().filter(|span| span.name.starts_with("pcqa.v1")).count();
    assert_eq!(calls, 6, "five with a sampled parent and one without a parent");

    let everything = format!("{:?}", collector.0.lock().unwrap());
    assert!(!everything.contains("lighthouse"));
    for attribute in ["service.name", "pcqa-server", "service.version", env!("CARGO_PKG_VERSION")] {
        assert!(everything.contains(attribute), "{attribute}");
    }
}

/// Every span lies in its parent, and every scored item has all stages, one after the other.
fn assert_whole(spans: &[Span]) {
    let by_id: BTreeMap<&[u8], &Span> = spans.iter().map(|span| (&span.span_id[..], span)).collect();
    assert_eq!(by_id.len(), spans.len(), "ids are distinct");
    for span in spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        let is_call = span.name.starts_with("pcqa.v1");
        if is_call || span.name == "batch" {
            continue;
        }
        let parent = by_id.get(&span.parent_span_id[..]).unwrap_or_else(|| panic!("{span:?} has no parent"));
        assert_eq!(span.trace_id, parent.trace_id);
        let is_within = parent.start_time_unix_nano <= span.start_time_unix_nano
            && span.end_time_unix_nano <= parent.end_time_unix_nano;
        assert!(is_within, "{span:?}\nin {parent:?}");
    }
    let items = spans.iter().filter(|span| number(&span.attributes, "pcqa.frames").is_some() && span.name != "batch");
    for item in items {
        let mut stages: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == item.span_id).collect();
        stages.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
        let names: BTreeSet<&str> = stages.iter().map(|span| span.name.as_str()).collect();
        assert_eq!((stages.len(), names), (STAGES.len(), STAGES.into()), "{item:?}");
        let overlap = stages.windows(2).find(|two| two[0].end_time_unix_nano > two[1].start_time_unix_nano);
        assert!(overlap.is_none(), "{overlap:?}");
    }
}

/// Every scored item has its batch, which knows it.
fn assert_linked(spans: &[Span]) {
    let ids = |span: &Span| (span.trace_id.clone(), span.span_id.clone());
    let links = |span: &Span| span.links.iter().map(|link| (link.trace_id.clone(), link.span_id.clone())).collect();
    let batches: Vec<&Span> = spans.iter().filter(|span| span.name == "batch").collect();
    let mut linked: Vec<_> = Vec::new();
    for batch in &batches {
        let items: Vec<_> = links(batch);
        assert!(number(&batch.attributes, "pcqa.items").unwrap() >= items.len() as i64);
        assert!(batch.parent_span_id.is_empty() && !items.is_empty());
        linked.extend(items);
    }
    let scored = spans.iter().filter(|span| ["image", "video"].contains(&span.name.as_str()) && !span.links.is_empty());
    let scored: Vec<&Span> = scored.collect();
    assert_eq!(scored.len(), 1 + 1 + 3 + 2 + 1);
    let mut expected: Vec<_> = scored.iter().map(|item| ids(item)).collect();
    linked.sort();
    expected.sort();
    assert_eq!(linked, expected, "every item is in one batch");
    for item in scored {
        let [batch] = &links(item)[..] else { panic!("{item:?}") };
        let batch = batches.iter().find(|found| ids(found) == *batch).expect("its batch is exported");
        assert!(links(batch).contains(&ids(item)));
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_or_does_not_answer_disturbs_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [silent.local_addr().unwrap(), nobody] {
        let flags = [format!("--otlp-endpoint=http://{endpoint}"), "--trace-sample-ratio=1".to_owned()];
        let house = House::start(&[&flags[0], &flags[1]]).await;
        house.image(PROMPT, png(1)).await.unwrap();
        house.signal(Signal::TERM);
        let (status, log) = house.ended();
        assert!(status.success(), "{log}");
        assert!(log.contains("may be lost") || log.contains("ExportError"), "{log}");
    }
}

#[tokio::test]
async fn every_answer_and_every_line_of_the_log_has_the_id_of_its_call() {
    let flags = ["--log-format=json", "--log=info,pcqa=debug"];
    let house = House::until(&flags, r#""message":"ready""#).await;
    let mut client = house.client();
    let id = |metadata: &MetadataMap| metadata.get("x-request-id").unwrap().to_str().unwrap().to_owned();
    let with_id = |mut request: Request<ScoreImageRequest>, id: &str| {
        request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        request
    };
    let scored = client.score_image(with_id(traced(image(png(1)), 0xabc, "00"), r#"call "1""#)).await.unwrap();
    assert_eq!(id(scored.metadata()), r#"call "1""#);
    let refused = client.score_image(with_id(Request::new(image(Vec::new())), "call-2")).await.unwrap_err();
    assert_eq!(id(refused.metadata()), "call-2");
    let too_long = client.score_image(with_id(Request::new(image(png(1))), &"x".repeat(129))).await.unwrap();
    let made = id(too_long.metadata());
    assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    let stream = client.score_stream(tokio_stream::empty::<ScoreStreamRequest>()).await.unwrap();
    assert_ne!(id(stream.metadata()), made);
    let mut stream = stream.into_inner();
    while stream.message().await.unwrap().is_some() {}
    drop(client);

    house.signal(Signal::TERM);
    let (_, log) = house.ended();
    assert!(!log.contains("lighthouse"), "{log}");
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        assert!(["timestamp", "level", "target"].iter().all(|key| line[key].is_string()), "{line}");
        assert!(
            line["message"] != "answered" && line["message"] != "scored" || line["request_id"].is_string(),
            "{line}"
        );
    }
    let answered = |id: &str| {
        let is_it = |line: &&serde_json::Value| line["message"] == "answered" && line["request_id"] == *id;
        lines.iter().find(is_it).unwrap_or_else(|| panic!("no answer to {id} in\n{log}"))
    };
    assert_eq!(answered(r#"call "1""#)["code"], "Ok");
    assert_eq!(answered(r#"call "1""#)["trace_id"], format!("{:032x}", 0xabc));
    assert_eq!(answered("call-2")["code"], "InvalidArgument");
    assert!(answered("call-2")["trace_id"].is_null());
    assert_eq!(answered(&made)["rpc"], "ScoreImage");
}
