//! What Prometheus and probes would read.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pcqa::metrics::{Kind, TABLE};
use pcqa::proto::score_stream_request::Media;
use pcqa::proto::{ScoreImageRequest, ScoreStreamRequest};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::house::{House, PATIENCE, server};
use crate::media::{clip, encoded, picture, png};

const PROMPT: &str = "a lighthouse";

/// What a server without TLS and without keys has nothing to say of.
const ABSENT: [&str; 2] = ["pcqa_tls_certificate_expiry_timestamp_seconds", "pcqa_key_limited_total"];

/// A page of metrics.
struct Page(String);

impl Page {
    async fn of(house: &House) -> Self {
        let (head, body) = get(&admin(house), "GET", "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        Self(body)
    }

    fn series(&self) -> impl Iterator<Item = (&str, f64)> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series, value.parse().unwrap())
        })
    }

    /// The sum over all series that begin so.
    fn sum(&self, begin: &str) -> f64 {
        self.series().filter(|(series, _)| series.starts_with(begin)).map(|(_, value)| value).sum()
    }

    fn value(&self, series: &str) -> f64 {
        let found = self.series().find(|(found, _)| *found == series);
        found.unwrap_or_else(|| panic!("no {series} in\n{}", self.0)).1
    }
}

/// The address of the port for those who watch.
fn admin(house: &House) -> String {
    let log = house.log();
    let line = log.lines().find(|line| line.contains("serving metrics")).expect("metrics are served");
    line.split_once("address=").unwrap().1.trim().to_owned()
}

/// Head and body of the answer.
async fn get(address: &str, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: pcqa\r\n\r\n").as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let (head, body) = page.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{page}"));
    (head.to_owned(), body.to_owned())
}

/// Waits until a page of metrics is as `wanted`.
async fn until(house: &House, what: &str, wanted: impl Fn(&Page) -> bool) -> Page {
    let begin = Instant::now();
    loop {
        let page = Page::of(house).await;
        if wanted(&page) {
            return page;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}:\n{}", page.0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A picture that takes a while to decode.
fn large() -> Vec<u8> {
    encoded(&picture(3000, 2000, 1), image::ImageFormat::Png)
}

async fn from(house: &House, source: &'static str) {
    let message = ScoreImageRequest { prompt: PROMPT.to_owned(), image: png(1).into(), ..Default::default() };
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-pcqa-source", source.parse().unwrap());
    house.client().score_image(request).await.unwrap();
}

/// One item of a stream, whose id is a file's name.
async fn streamed(house: &House) {
    let item = ScoreStreamRequest {
        item_id: "lighthouse.png".to_owned(),
        prompt: PROMPT.to_owned(),
        media: Some(Media::Image(png(2).into())),
        ..Default::default()
    };
    let mut answers = house.client().score_stream(tokio_stream::iter([item])).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

#[tokio::test]
async fn every_metric_of_the_table_is_told_and_no_prompt_or_name_is() {
    let flags = ["--metrics-listen=127.0.0.1:0", "--metrics-sources=nightly,web", "--max-queue-frames=32"];
    let house = House::start(&[&flags[..], &["--max-rank-images=16"]].concat()).await;
    for source in ["nightly", "lighthouse keeper"] {
        from(&house, source).await;
    }
    house.image(PROMPT, b"no picture".to_vec()).await.unwrap_err();
    house.video(PROMPT, clip(20)).await.unwrap();
    house.video(PROMPT, b"no video".to_vec()).await.unwrap_err();
    streamed(&house).await;
    let refused = refused(&house).await;
    cancelled(&house).await;

    let page = until(&house, "the line is empty again", |page| page.value("pcqa_calls_in_progress") == 0.0).await;
    let of_calls = |rpc, code, source| {
        page.value(&format!(r#"pcqa_requests_total{{rpc="{rpc}",code="{code}",source="{source}"}}"#))
    };
    assert_eq!(of_calls("ScoreImage", "Ok", "nightly"), 1.0);
    assert_eq!(of_calls("ScoreImage", "Ok", "other"), 1.0);
    assert_eq!(of_calls("ScoreImage", "InvalidArgument", ""), 1.0);
    assert_eq!(of_calls("ScoreStream", "Ok", ""), 1.0);
    assert_eq!(page.sum(r#"pcqa_text_cache_requests_total{outcome="miss"}"#), 1.0, "one prompt");
    assert!(page.sum(r#"pcqa_text_cache_requests_total{outcome="hit"}"#) >= 1.0);
    assert_eq!(page.value(r#"pcqa_decode_failures_total{track="image",kind="unknown_format"}"#), 1.0);
    assert_eq!(page.sum(r#"pcqa_decode_failures_total{track="video""#), 1.0);
    assert_eq!(page.value(r#"pcqa_stage_seconds_count{track="video",stage="vision"}"#), 1.0);
    assert_eq!(page.value(r#"pcqa_score_z_count{track="video"}"#), 1.0);
    let scored = page.value(r#"pcqa_score_z_count{track="image"}"#);
    assert_eq!(page.value(r#"pcqa_score_disagreement_count{track="image"}"#), scored);
    assert_eq!(page.sum("pcqa_items_refused_total"), refused as f64);
    assert_eq!(page.sum("pcqa_batch_fill_ratio_count"), page.sum("pcqa_batches_total"));
    for idle in ["pcqa_queue_items", "pcqa_queue_frames", "pcqa_queue_oldest_age_seconds", "pcqa_in_flight_bytes"] {
        assert_eq!(page.value(idle), 0.0, "{idle}");
    }
    assert!(page.value("pcqa_connections") >= 1.0);
    assert!(page.value(r#"pcqa_device_busy_seconds_total{device="cpu"}"#) > 0.0);
    let memory = |state| page.value(&format!(r#"pcqa_device_memory_bytes{{device="cpu",state="{state}"}}"#));
    assert!(memory("used") > 1e6 && memory("used") < memory("total"));
    let model = house.model().await;
    let served = format!(r#"name="{}",version="{}",digest="{}""#, model.name, model.version, model.digest);
    assert_eq!(page.value(&format!("pcqa_model_info{{{served}}}")), 1.0);
    assert_eq!(page.sum(r#"pcqa_build_info{version="0.1.0",libtorch="2."#), 1.0);

    assert_named_as_in_the_table(&page);
    assert!(!page.0.contains("lighthouse"), "{}", page.0);
}

/// More than there is room for at once; how many were refused. Meanwhile somebody stands in line.
async fn refused(house: &House) -> usize {
    let picture = large();
    let load = join_all((0..40).map(|_| house.image(PROMPT, picture.clone())));
    let busy = until(house, "nobody stands in line", |page| page.value("pcqa_queue_oldest_age_seconds") > 0.0);
    let (scored, busy) = tokio::join!(load, busy);
    assert!(busy.value("pcqa_queue_items") >= 1.0 && busy.value("pcqa_queue_frames") >= 1.0, "{}", busy.0);
    assert!(busy.value("pcqa_calls_in_progress") >= 1.0 && busy.value("pcqa_in_flight_bytes") > 0.0, "{}", busy.0);
    let codes = scored.into_iter().filter_map(Result::err).map(|status| status.code());
    let refused = codes.inspect(|code| assert_eq!(*code, Code::ResourceExhausted)).count();
    assert!(refused > 0, "there was room for all");
    refused
}

/// A caller that goes away.
async fn cancelled(house: &House) {
    let before = Page::of(house).await.value("pcqa_items_cancelled_total");
    let call = house.image(PROMPT, large());
    let sent = until(house, "the item has no place", |page| page.value("pcqa_queue_items") == 1.0);
    tokio::select! {
        _ = call => panic!("it was scored before it could be cancelled"),
        _ = sent => {}
    }
    let is_counted = |page: &Page| page.value("pcqa_items_cancelled_total") == before + 1.0;
    let page = until(house, "the caller's leaving is not counted", is_counted).await;
    assert_eq!(page.sum(r#"pcqa_requests_total{rpc="ScoreImage",code="Cancelled""#), 1.0);
}

fn assert_named_as_in_the_table(page: &Page) {
    for metric in TABLE {
        let has = |line: String| page.0.lines().any(|found| found == line);
        if ABSENT.contains(&metric.name) {
            assert!(!page.0.contains(metric.name), "{} is there after all", metric.name);
            continue;
        }
        assert!(has(format!("# HELP {} {}", metric.name, metric.help)), "{} has no help in\n{}", metric.name, page.0);
        assert!(has(format!("# TYPE {} {}", metric.name, metric.kind.name())), "{} has no type", metric.name);
    }
    for (series, _) in page.series() {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let is_it = |metric: &&pcqa::metrics::Metric| match metric.kind {
            Kind::Histogram(_) => {
                let rest = name.strip_prefix(metric.name);
                rest.is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
            }
            _ => name == metric.name,
        };
        let metric = TABLE.iter().find(is_it).unwrap_or_else(|| panic!("{series} is not in the table"));
        for label in metric.labels {
            let value =
                labels.split_once(&format!("{}=\"", label.name)).map(|(_, rest)| rest.split('"').next().unwrap());
            let value = value.unwrap_or_else(|| panic!("{series} has no {}", label.name));
            assert!(label.values.is_empty() || label.values.contains(&value), "{series}: {}", label.name);
        }
        let of_histogram = usize::from(name.ends_with("_bucket"));
        assert_eq!(labels.matches("=\"").count(), metric.labels.len() + of_histogram, "{series}");
    }
}

#[tokio::test]
async fn probes_are_answered_whatever_else_is_done_to_their_port() {
    let house = House::start(&["--metrics-listen=127.0.0.1:0", "--drain-wait-seconds=60"]).await;
    let address = admin(&house);
    for path in ["/livez", "/readyz"] {
        let (head, body) = get(&address, "GET", path).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert_eq!(body, "ok\n");
        let (head, body) = get(&address, "HEAD", path).await;
        assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{path}: {head}");
    }
    for path in ["/", "/metrics/", "/favicon.ico", "//livez"] {
        assert!(get(&address, "GET", path).await.0.starts_with("HTTP/1.1 404"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let (head, _) = get(&address, method, "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 405") && head.contains("allow: GET, HEAD"), "{method}: {head}");
    }

    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
    let mut ended = tokio::time::timeout(PATIENCE, slow.read_u8()).await.expect("a slow peer is waited for");
    while ended.is_ok() {
        ended = slow.read_u8().await;
    }
    let mut long = TcpStream::connect(&address).await.unwrap();
    let head = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(1 << 20));
    let _ = long.write_all(head.as_bytes()).await;
    let mut said = Vec::new();
    let _ = long.read_to_end(&mut said).await;
    assert!(!said.starts_with(b"HTTP/1.1 200"), "a head of a megabyte is taken");

    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    assert!(get(&address, "GET", "/livez").await.0.starts_with("HTTP/1.1 200"));
    assert_eq!(Page::of(&house).await.value("pcqa_ready"), 1.0);
    house.image(PROMPT, png(1)).await.unwrap();
    drop(crowd);

    house.signal(Signal::TERM);
    until(&house, "a draining server is ready", |page| page.value("pcqa_ready") == 0.0).await;
    assert!(get(&address, "GET", "/readyz").await.0.starts_with("HTTP/1.1 503"));
    assert!(get(&address, "GET", "/livez").await.0.starts_with("HTTP/1.1 200"));
}

#[test]
fn the_table_can_be_printed() {
    let output = server().arg("metrics").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(TABLE.iter().all(|metric| text.contains(metric.name) && text.contains(metric.help)), "{text}");
}
