//! What Prometheus would read.

use std::net::TcpListener;

use pcqa::metrics::TABLE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::house::House;
use crate::media::png;

#[tokio::test]
async fn what_happens_is_counted_under_the_names_of_the_table_and_no_prompt_is_told() {
    // Free a moment ago.
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let house = House::start(&[&format!("--metrics-listen={listen}")]).await;
    for _ in 0..2 {
        house.image("a lighthouse", png(1)).await.unwrap();
    }
    house.image("a lighthouse", b"no picture".to_vec()).await.unwrap_err();

    let page = scrape(&listen.to_string()).await;
    let value = |series: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse::<f64>().unwrap()
    };
    assert_eq!(value(r#"pcqa_requests_total{rpc="ScoreImage",code="Ok"}"#), 2.0);
    assert_eq!(value(r#"pcqa_requests_total{rpc="ScoreImage",code="InvalidArgument"}"#), 1.0);
    assert_eq!(value(r#"pcqa_text_cache_requests_total{outcome="hit"}"#), 1.0);
    assert_eq!(value(r#"pcqa_text_cache_requests_total{outcome="miss"}"#), 1.0);
    assert_eq!(value(r#"pcqa_batches_total{track="image",reason="alone"}"#), 2.0);
    assert_eq!(value(r#"pcqa_stage_seconds_count{track="image",stage="vision"}"#), 2.0);
    assert_eq!(value("pcqa_queue_frames"), 0.0);

    assert!(!page.contains("lighthouse"));
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        assert!(TABLE.iter().any(|metric| line.starts_with(metric.name)), "{line}");
    }
    for metric in TABLE.iter().filter(|metric| page.contains(metric.name)) {
        assert!(page.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{}", metric.name);
    }
}

async fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: pcqa\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}
