//! Another bundle under load: nobody notices but by the version, and a broken one changes nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pcqa::model::Bundle;
use pcqa::proto::{RankImagesRequest, Score, ScoreImageRequest};
use rustix::process::Signal;

use crate::house::{House, PATIENCE};
use crate::media::png;

/// The demo bundle with another version and every MOS lower by `lower`.
fn bundle(directory: &Path, version: &str, lower: f64) {
    fs::create_dir(directory).unwrap();
    let demo = Bundle::demo().unwrap();
    for name in demo.manifest().files.keys() {
        fs::write(directory.join(name), demo.file(name).unwrap().bytes()).unwrap();
    }
    let mut manifest: toml::Table = include_str!("../../src/model/demo/bundle.toml").parse().unwrap();
    manifest.insert("version".to_owned(), version.into());
    let mean = &mut manifest["mos"]["mean"];
    *mean = (mean.as_float().unwrap() - lower).into();
    fs::write(directory.join("bundle.toml"), manifest.to_string()).unwrap();
}

/// Turns the link in one step.
fn serve(link: &Path, target: &str) {
    let next = link.with_extension("next");
    std::os::unix::fs::symlink(target, &next).unwrap();
    fs::rename(&next, link).unwrap();
}

async fn logged(house: &House, what: &str, times: usize) {
    let begin = Instant::now();
    while house.log().matches(what).count() < times {
        assert!(begin.elapsed() < PATIENCE, "no {what:?} in\n{}", house.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Images one by one and two at once, until told to stop; every score. Panics where a request failed or was mixed.
async fn load(house: &House, seed: u32, stop: Arc<AtomicBool>) -> Vec<Score> {
    let mut client = house.another_client();
    let mut scores = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let prompt = "a lighthouse".to_owned();
        let request = ScoreImageRequest { prompt: prompt.clone(), image: png(seed).into(), ..Default::default() };
        scores.push(client.score_image(request).await.expect("a request was lost").into_inner().score.unwrap());
        let images = vec![png(seed).into(), png(seed).into()];
        let request = RankImagesRequest { prompt, images, ..Default::default() };
        let ranked = client.rank_images(request).await.expect("a request was lost").into_inner().ranked;
        let of_one: Vec<Score> = ranked.into_iter().filter_map(|image| image.score).collect();
        assert_eq!(of_one[0].model_version, of_one[1].model_version, "one request, one bundle");
        scores.extend(of_one);
    }
    scores
}

#[tokio::test]
async fn a_bundle_is_swapped_under_load_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("served");
    bundle(&directory.path().join("one"), "one", 0.0);
    bundle(&directory.path().join("two"), "two", 1.0);
    bundle(&directory.path().join("broken"), "broken", 2.0);
    fs::write(directory.path().join("broken/head_image_eva02.safetensors"), "no weights").unwrap();
    serve(&link, "one");
    let house = House::start(&[&format!("--bundle={}", link.display()), "--watch-bundle"]).await;
    assert_eq!(house.model().await.version, "one");

    let stop = Arc::new(AtomicBool::new(false));
    let change = async {
        serve(&link, "two");
        house.signal(Signal::HUP);
        logged(&house, "serving another bundle", 1).await;
        assert_eq!(house.model().await.version, "two");
        assert_eq!(house.image("a lighthouse", png(9)).await.unwrap().model_version, "two");
        logged(&house, "the bundle before is let go", 1).await;

        // Noticed without a signal.
        serve(&link, "broken");
        logged(&house, "the one before it still is", 1).await;
        assert!(house.log().contains("head_image_eva02.safetensors"), "{}", house.log());
        assert_eq!(house.model().await.version, "two");
        serve(&link, "one");
        logged(&house, "serving another bundle", 2).await;
        logged(&house, "the bundle before is let go", 2).await;
        assert_eq!(house.model().await.version, "one");
        stop.store(true, Ordering::Relaxed);
    };
    let loads = futures_util::future::join_all((0..4).map(|seed| load(&house, seed, stop.clone())));
    let ((), scored) = tokio::join!(change, loads);
    for scores in scored {
        let of = |version: &str| -> Vec<f64> {
            scores.iter().filter(|score| score.model_version == version).map(|score| score.mos).collect()
        };
        let (one, two) = (of("one"), of("two"));
        assert!(!one.is_empty() && !two.is_empty() && one.len() + two.len() == scores.len());
        for mos in &two {
            assert!((one[0] - mos - 1.0).abs() < 1e-3, "a score and its version are of one bundle: {} {mos}", one[0]);
        }
        assert!(one.iter().all(|mos| (one[0] - mos).abs() < 1e-3));
    }
}

#[tokio::test]
async fn a_change_while_the_first_bundle_loads_is_not_missed() {
    for by_signal in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("served");
        bundle(&directory.path().join("one"), "one", 0.0);
        bundle(&directory.path().join("two"), "two", 1.0);
        // Its manifest is a pipe, so that loading lasts until somebody writes.
        let pipe = directory.path().join("one/bundle.toml");
        let manifest = fs::read(&pipe).unwrap();
        fs::remove_file(&pipe).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        serve(&link, "one");
        let bundle = format!("--bundle={}", link.display());
        let flags: &[&str] = if by_signal { &[&bundle] } else { &[&bundle, "--watch-bundle"] };
        let house = House::until(flags, "listening").await;
        let written = tokio::task::spawn_blocking(move || {
            // Opens once the server is there to read.
            let mut file = fs::OpenOptions::new().write(true).open(pipe).unwrap();
            serve(&link, "two");
            std::io::Write::write_all(&mut file, &manifest).map(|()| file)
        });
        let file = written.await.unwrap().unwrap();
        if by_signal {
            house.signal(Signal::HUP);
        }
        drop(file);
        logged(&house, "serving another bundle", 1).await;
        assert_eq!(house.model().await.version, "two");
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_reload_is_clean() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("served");
    bundle(&directory.path().join("one"), "one", 0.0);
    bundle(&directory.path().join("two"), "two", 1.0);
    serve(&link, "one");
    let house = House::start(&[&format!("--bundle={}", link.display())]).await;
    house.image("a lighthouse", png(1)).await.unwrap();
    serve(&link, "two");
    house.signal(Signal::HUP);
    logged(&house, "version=\"two\"", 1).await;
    house.signal(Signal::TERM);
    let (status, log) = house.ended();
    assert!(status.code() == Some(0) && log.contains("drained"), "{status:?}\n{log}");
}
