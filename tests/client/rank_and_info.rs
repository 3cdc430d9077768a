//! `pcqa rank` and `pcqa info`.

use super::fake::{Server, model, score_of};
use super::{Files, MP4, PNG, cells, objects, records};
use pcqa::proto::{Limits, ModelInfo};

#[test]
fn images_are_shown_best_first() {
    let (server, files) = (Server::start(), Files::new());
    let [long, short, middle] = [("a.png", 30), ("b.png", 10), ("c.png", 20)]
        .map(|(name, length)| files.media(name, PNG, length).to_str().unwrap().to_owned());
    files.media("d.mp4", MP4, 10);
    let folder = files.path().to_str().unwrap();

    let ran = server.pcqa(["rank", folder, "--prompt", "p"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(server.seen.lock().unwrap().calls, [("RankImages", 3)], "a folder gives its images only");
    let rows = cells(&ran.stdout);
    let places: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(places, [("1", short.as_str()), ("2", middle.as_str()), ("3", long.as_str())]);
    assert_eq!(rows[0][2..], ["1.405", "-1.095", "-1.195", "-1.295", "-1.395", "0.316"]);

    let ran = server.pcqa(["rank", &long, &short, &middle, "--prompt", "p", "--output", "csv"]);
    let rows = records(&ran.stdout);
    assert_eq!(rows.iter().map(|row| &row["path"]).collect::<Vec<_>>(), [&short, &middle, &long]);
    assert_eq!(rows.iter().map(|row| row["place"].as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!(rows[2]["mos"].parse::<f64>().unwrap(), score_of("p", 30, false).mos);

    let ran = server.pcqa(["rank", &long, &short, "--prompt", "p", "--output", "jsonl"]);
    let rows = objects(&ran.stdout);
    assert_eq!((&rows[0]["place"], rows[0]["path"].as_str()), (&1.into(), Some(short.as_str())));
    assert_eq!(rows.len(), 2);
}

#[test]
fn an_image_at_fault_is_called_by_its_name() {
    let (server, files) = (Server::start(), Files::new());
    let [a, b] = ["a.png", "b.png"].map(|name| files.media(name, PNG, 10).to_str().unwrap().to_owned());
    let ran = server.pcqa(["rank", &a, &b, "--prompt", "second is bad"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.stderr, format!("error: {b}: INVALID_ARGUMENT: could not be decoded: no pixels\n"));

    let video = files.media("c.mp4", MP4, 20).to_str().unwrap().to_owned();
    let ran = server.pcqa(["rank", &a, &video, "missing.png", "--prompt", "p"]);
    assert_eq!(ran.code, Some(1));
    let expected = format!(
        "error: {video}: INVALID_ARGUMENT: is a video; only images are ranked\n\
         error: missing.png: UNREADABLE: No such file or directory (os error 2)\n"
    );
    assert_eq!(ran.stderr, expected);
}

#[test]
fn limits_are_checked_before_anything_is_sent() {
    let limits = Limits { max_rank_images: 4, max_message_bytes: 1000, ..model().limits.unwrap() };
    let server = Server::serving(ModelInfo { limits: Some(limits), ..model() });
    let files = Files::new();
    let paths: Vec<String> =
        (0..5).map(|index| files.media(&format!("{index}.png"), PNG, 400).to_str().unwrap().to_owned()).collect();
    let rank = |count: usize| {
        let paths = paths[..count].iter().map(String::as_str);
        server.pcqa(["rank", "--prompt", "p"].into_iter().chain(paths))
    };
    let ran = rank(5);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "error: INVALID_ARGUMENT: 5 images, the server ranks at most 4 in one call\n");
    let ran = rank(3);
    let last = &paths[2];
    let expected = format!(
        "error: INVALID_ARGUMENT: the images up to {last} have 1200 bytes, the server takes 1000 in one call; \
         rank fewer images at once\n"
    );
    assert_eq!((ran.code, ran.stderr), (Some(1), expected));
    assert!(server.seen.lock().unwrap().calls.is_empty());
    assert_eq!(rank(2).code, Some(0));
}

#[test]
fn a_busy_server_is_asked_to_rank_again() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let ran = server.pcqa(["rank", image.to_str().unwrap(), "--prompt", "busy twice"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(server.seen.lock().unwrap().tries["busy twice"], 3);
}

#[test]
fn info_is_a_page_for_people() {
    let ran = Server::start().pcqa(["info"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let has_line = |words: &str| {
        ran.stdout.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").contains(words))
    };
    for words in [
        "model demo",
        "version 1.2",
        "trained yes",
        "MOS scale AIGC, 0 to 5, mean 2.5, std 1",
        "text towers dfn (1024 dimensions)",
        "arithmetic f32 on cpu",
        "| eva | image | eva02 | 448 x 448 | 0.25 | 0.75 |",
        "| evit-v | video | efficientvit | 448 x 448 | 0.25 | 0.75 |",
        "message 64.00 MiB (67108864 bytes)",
        "video length 900 s",
        "images ranked at once 4 images",
    ] {
        assert!(has_line(words), "{words}: {}", ran.stdout);
    }
    let untrained = Server::serving(ModelInfo { trained: false, name: "a\u{1b}[2J".to_owned(), ..model() });
    let page = untrained.pcqa(["info"]).stdout;
    assert!(page.contains("untrained, scores show the path and mean nothing") && !page.contains('\u{1b}'), "{page}");
}

#[test]
fn info_as_json_has_the_fields_of_the_api() {
    let ran = Server::start().pcqa(["info", "--output", "json"]);
    let page: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(page["name"], "demo");
    assert_eq!((&page["trained"], &page["tta"], &page["dtype"]), (&true.into(), &false.into(), &"f32".into()));
    assert_eq!(page["experts"].as_array().unwrap().len(), 5);
    assert_eq!((&page["experts"][3]["track"], &page["experts"][3]["sigma"]), (&"video".into(), &0.75.into()));
    assert_eq!((&page["mos"]["max"], &page["limits"]["max_rank_images"]), (&5.0.into(), &4.into()));
}

#[test]
fn a_server_that_does_not_state_its_limits_is_not_trusted() {
    let ran = Server::serving(ModelInfo { limits: None, ..model() }).pcqa(["info"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.ends_with("does not state its limits\n"), "{}", ran.stderr);
}
