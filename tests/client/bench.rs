//! `pcqa bench`: what is sent, what is counted, and that waiting is not hidden.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pcqa::proto::{Limits, ModelInfo, Priority};
use serde_json::Value;

use super::fake::{Ran, Server, model, pcqa};
use super::{Files, MP4, PNG, cells};

/// Small pictures, no warm-up, and the prompts that the service obeys.
const BASICS: [&str; 7] = ["bench", "--size", "16", "--warm-up", "0", "--new-prompts", "0"];

fn bench(server: &Server, arguments: &[&str]) -> Ran {
    server.pcqa(BASICS.iter().chain(arguments))
}

/// The object of a run that went well.
fn figures(server: &Server, arguments: &[&str]) -> Value {
    let ran = bench(server, &[arguments, &["--json"]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn started(server: &Server, arguments: &[&str]) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_pcqa"))
        .env("PCQA_SERVER", server.address.to_string())
        .args(BASICS)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while server.seen.lock().unwrap().calls.is_empty() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What must hold of every result.
fn check_consistent(result: &Value) {
    let [requests, scores, errors, unanswered, not_sent] =
        ["requests", "scores", "errors", "unanswered", "not_sent"].map(|name| count(&result[name]));
    assert_eq!(requests, scores + errors + unanswered + not_sent, "{result:#}");
    assert_eq!(count(&result["latency_ms"]["count"]), scores);
    let codes = result["by_code"].as_object().unwrap();
    assert_eq!(codes.values().map(|code| count(&code["count"])).sum::<u64>(), errors);
    assert!(codes.values().all(|code| code["count"] == code["latency_ms"]["count"]));
    let offered = number(&result["offered_per_s"]) * number(&result["seconds"]);
    assert!((offered - requests as f64).abs() < 0.5, "{result:#}");
    for latency in codes.values().map(|code| &code["latency_ms"]).chain([&result["latency_ms"]]) {
        let rising = ["p50", "p90", "p99", "max"].map(|name| latency[name].as_f64().unwrap_or_default());
        assert!(rising.is_sorted(), "{latency}");
    }
}

#[test]
fn a_closed_loop_keeps_its_places_busy_and_counts_everything() {
    let server = Server::start();
    let found = figures(&server, &["--prompt", "every other busy", "--concurrency", "3", "--duration", "0.7"]);
    let result = &found["result"];
    check_consistent(result);
    let (requests, busy) = (count(&result["requests"]), &result["by_code"]["RESOURCE_EXHAUSTED"]);
    assert!(count(&busy["count"]).abs_diff(count(&result["scores"])) <= 3, "{result:#}");
    assert_eq!(busy["example"], "queue is full");
    assert_eq!((&result["seconds"], &found["interrupted"]), (&0.7.into(), &false.into()));
    assert_eq!((&result["batch_frames"], &result["batch_fill"]), (&4.0.into(), &(4.0 / 64.0).into()));
    let stages = &result["stages_ms"];
    assert_eq!((&stages["receive_ms"], &stages["total_ms"]), (&1213.0.into(), &1234.0.into()));
    let settings = &found["settings"];
    assert_eq!((&settings["mode"], &settings["concurrency"]), (&"closed".into(), &3.into()));
    assert_eq!((&found["media"]["images"], &found["media"]["sizes"][0]), (&16.into(), &16.into()));
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.calls.len() as u64, requests, "nothing is sent twice and nothing is left out");
    assert!(seen.in_flight.1 <= 3);
    assert_eq!(seen.timeout.as_deref(), Some("60000000u"));
}

#[test]
fn an_open_loop_shows_the_waiting_that_a_slow_server_causes() {
    let server = Server::start();
    let found = figures(&server, &["--prompt", "one at a time", "--rate", "100", "--duration", "2"]);
    let result = &found["result"];
    check_consistent(result);
    assert_eq!((&result["requests"], &result["scores"]), (&200.into(), &200.into()));
    assert_eq!(result["offered_per_s"], 100.0);
    assert!(number(&result["goodput_per_s"]) <= 51.0, "20 ms each: {result:#}");
    // The last of 200 is due after 2 s and served after 4 s at the earliest.
    assert!(number(&result["latency_ms"]["p99"]) >= 1900.0, "{result:#}");
}

#[test]
fn one_stall_is_felt_by_all_who_came_during_it() {
    let server = Server::start();
    let found = figures(&server, &["--prompt", "stalls once", "--rate", "100", "--duration", "3"]);
    let latency = &found["result"]["latency_ms"];
    assert_eq!(latency["count"], 300);
    assert!(number(&latency["p90"]) >= 500.0 && number(&latency["p99"]) >= 900.0, "{latency}");
}

#[test]
fn the_warm_up_is_sent_but_not_counted() {
    let server = Server::start();
    let arguments = ["bench", "--size", "16", "--rate", "50", "--warm-up", "1", "--duration", "0.5", "--json"];
    let ran = server.pcqa(arguments);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    check_consistent(&found["result"]);
    assert_eq!((&found["result"]["requests"], server.seen.lock().unwrap().calls.len()), (&25.into(), 75));
}

#[test]
fn refusals_are_counted_and_shown_by_code() {
    let (server, files) = (Server::start(), Files::new());
    files.media("a.png", PNG, 10);
    files.media("b.mp4", MP4, 20);
    let list = files.add("items.csv", "path,prompt\na.png,busy\na.png,refused\nb.mp4,fine\n");
    let ran = server.pcqa(
        ["bench", "--warm-up", "0", "--new-prompts", "0", "--rate", "100", "--duration", "1", "--from"]
            .iter()
            .map(|argument| argument.as_ref())
            .chain([list.as_os_str()]),
    );
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let rows = cells(&ran.stdout);
    let shown = |name: &str| rows.iter().find(|row| row[0] == name).unwrap()[1].parse::<usize>().unwrap();
    let seen = server.seen.lock().unwrap();
    let sent = |prompt: &str| seen.sent.iter().filter(|(sent, _)| sent == prompt).count();
    for (name, prompt) in [("scores", "fine"), ("RESOURCE_EXHAUSTED", "busy"), ("INVALID_ARGUMENT", "refused")] {
        assert_eq!(shown(name), sent(prompt), "{name}");
        assert!(sent(prompt) > 0);
    }
    assert!(seen.calls.contains(&("ScoreImage", 10)) && seen.calls.contains(&("ScoreVideo", 20)));
    assert!(ran.stdout.contains("\nINVALID_ARGUMENT, for example: image: could not be decoded\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("100 requests = "), "{}", ran.stdout);
}

#[test]
fn a_run_without_a_score_says_so() {
    let server = Server::start();
    let ran = bench(&server, &["--prompt", "never", "--rate", "20", "--duration", "0.5", "--timeout", "0.4", "--json"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "error: no request was answered with a score in the measured time\n");
    let result = &serde_json::from_str::<Value>(&ran.stdout).unwrap()["result"];
    check_consistent(result);
    let late = &result["by_code"]["DEADLINE_EXCEEDED"];
    assert_eq!((&late["count"], &result["latency_ms"]["p50"]), (&10.into(), &Value::Null));
    assert!(number(&late["latency_ms"]["p50"]) >= 400.0);
}

#[test]
fn a_seed_makes_the_same_load_again() {
    let sent = |seed: &str| {
        let server = Server::start();
        let arguments = ["--size", "16,24", "--rate", "40", "--duration", "1", "--warm-up", "0", "--seed", seed];
        let ran = server.pcqa(["bench"].iter().chain(&arguments));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        let mut sent = server.seen.lock().unwrap().sent.clone();
        // Forty requests at once may overtake each other.
        sent.sort();
        sent
    };
    let first = sent("1");
    assert_eq!(first.len(), 40);
    assert_eq!(first, sent("1"));
    let other = sent("2");
    let prompts = |sent: &[(String, u64)]| sent.iter().map(|(prompt, _)| prompt.clone()).collect::<BTreeSet<_>>();
    let (ours, theirs) = (prompts(&first), prompts(&other));
    let repeated: BTreeSet<_> = ours.iter().filter(|prompt| !is_new(prompt)).collect();
    assert!(ours.intersection(&theirs).all(|prompt| repeated.contains(prompt)), "new prompts are another seed's");
    let new = first.iter().filter(|(prompt, _)| is_new(prompt)).count();
    assert_eq!((new, ours.len() - repeated.len()), (20, 20), "half of the prompts are new, and no two are equal");
    let media: BTreeSet<_> = first.iter().map(|(_, hash)| hash).collect();
    assert_eq!(media.len(), 32, "sixteen pictures of each size, each sent before one is sent again");
}

/// Begins with eight hexadecimal digits and a number.
fn is_new(prompt: &str) -> bool {
    let digits = prompt.split_once('-').map(|(start, _)| start);
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[test]
fn a_server_that_dies_costs_errors_and_no_time() {
    let server = Server::start();
    let child = started(&server, &["--concurrency", "2", "--duration", "3", "--json"]);
    drop(server);
    let output = child.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    check_consistent(&found["result"]);
    let away = count(&found["result"]["by_code"]["UNAVAILABLE"]["count"]);
    // Each of two places tries ten times a second.
    assert!((1..=70).contains(&away), "{away}");
}

#[test]
fn an_interrupt_shows_what_there_is() {
    let server = Server::start();
    let arguments = ["--prompt", "never", "--concurrency", "5", "--duration", "600", "--json"];
    let child = started(&server, &arguments);
    std::thread::sleep(Duration::from_millis(300));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    check_consistent(&found["result"]);
    assert_eq!((&found["interrupted"], &found["result"]["unanswered"]), (&true.into(), &5.into()));
    assert!(number(&found["result"]["seconds"]) < 500.0);
}

#[test]
fn a_sweep_finds_the_saturation_and_draws_itself() {
    let awkward = ModelInfo { name: "<a> & \"b\" \u{1b}[2J \u{ffff}".to_owned(), ..model() };
    let (server, files) = (Server::serving(awkward), Files::new());
    let plot = files.path().join("sweep.svg");
    let plot = plot.to_str().unwrap();
    let arguments = ["--sweep", "--loads", "0.5,2", "--prompt", "one at a time", "--duration", "1", "--plot", plot];
    let found = figures(&server, &arguments);
    let saturation = number(&found["saturation"]["goodput_per_s"]);
    assert!(saturation > 0.0 && saturation <= 51.0, "20 ms each: {saturation}");
    assert_eq!(found["settings"]["concurrency"], 128, "two batches of 64");
    let rows = found["sweep"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| number(&row["load"])).collect::<Vec<_>>(), [0.5, 2.0]);
    for row in rows {
        check_consistent(row);
        let offered = number(&row["load"]) * saturation;
        assert!((number(&row["offered_per_s"]) - offered).abs() <= 1.0, "{row:#}");
    }

    let picture = std::fs::read_to_string(plot).unwrap();
    let document = roxmltree::Document::parse(&picture).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    for word in ["goodput", "p50", "p99", "offered load, requests/s", "latency, ms (log scale)"] {
        assert!(texts.contains(&word), "{word}: {texts:?}");
    }
    for start in ["pcqa bench: <a> & \"b\" \\u{1b}[2J ? 1.2, f32 on cpu", "saturation, "] {
        assert!(texts.iter().any(|text| text.starts_with(start)), "{start}: {texts:?}");
    }
    let marks = document.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "circle")));
    assert_eq!(marks.count(), 6, "goodput, p50 and p99 at two loads");
}

#[test]
fn a_sweep_without_a_score_has_no_rows() {
    let (server, files) = (Server::start(), Files::new());
    let plot = files.path().join("sweep.svg");
    let arguments = ["--sweep", "--prompt", "busy", "--duration", "0.2", "--plot", plot.to_str().unwrap(), "--json"];
    let ran = bench(&server, &arguments);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "error: no request was answered with a score in the measured time\n");
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    check_consistent(&found["saturation"]);
    assert_eq!((&found["saturation"]["goodput_per_s"], &found["sweep"]), (&0.0.into(), &Value::Array(Vec::new())));
    roxmltree::Document::parse(&std::fs::read_to_string(plot).unwrap()).unwrap();
}

#[test]
fn a_sweep_is_a_row_per_load() {
    let server = Server::start();
    let arguments = ["--sweep", "--loads", "1", "--prompt", "every other busy", "--concurrency", "2"];
    let ran = bench(&server, &[arguments.as_slice(), &["--duration", "0.5"]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let rows = cells(&ran.stdout);
    assert_eq!((rows.len(), rows[0][0].as_str()), (1, "1"));
    let shed: f64 = rows[0][6].trim_end_matches(" %").parse().unwrap();
    assert!((45.0..=55.0).contains(&shed), "{}", ran.stdout);
    assert!(ran.stdout.contains("by a closed loop with 2 at once"), "{}", ran.stdout);
    assert!(ran.stdout.contains("RESOURCE_EXHAUSTED, for example: queue is full\n"), "{}", ran.stdout);
}

#[test]
fn what_makes_no_load_is_refused() {
    let cases: [(&[&str], &str); 15] = [
        (&["--rate", "0"], "requests per second, above 0"),
        (&["--rate", "-5"], "requests per second, above 0"),
        (&["--rate", "NaN"], "requests per second, above 0"),
        (&["--duration", "0"], "a number of seconds above 0"),
        (&["--duration", "-1"], "a number of seconds above 0"),
        (&["--warm-up", "-1"], "a number of seconds"),
        (&["--size", "0"], "1..=16384"),
        (&["--size", "512,"], "--size"),
        (&["--concurrency", "0"], "from 1 to 10000"),
        (&["--connections", "0"], "1..=1024"),
        (&["--new-prompts", "1.5"], "a share from 0 to 1"),
        (&["--rate", "1", "--concurrency", "1"], "cannot be used with"),
        (&["--plot", "a.svg"], "--sweep"),
        (&["--sweep", "--loads", "0.5,0"], "a multiple of the saturation"),
        (&["a.png"], "--prompt"),
    ];
    for (arguments, words) in cases {
        let ran = pcqa("127.0.0.1:1", ["bench"].iter().chain(arguments));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn what_the_server_would_refuse_is_refused_before_anything_is_sent() {
    let limits =
        Limits { max_image_pixels: 400, max_image_bytes: 100, max_prompt_bytes: 40, ..model().limits.unwrap() };
    let server = Server::serving(ModelInfo { limits: Some(limits), ..model() });
    let files = Files::new();
    let [long, other] = [files.media("long.png", PNG, 101), files.add("notes.txt", "words")];
    let [long, other] = [&long, &other].map(|path| path.to_str().unwrap());
    let cases: [(&[&str], &str); 6] = [
        (&["--size", "21"], "--size 21: makes 441 pixels, the server's limit is 400"),
        (&["--size", "20", "--prompt", "p"], "--size 20: a picture has "),
        (&["--size", "1", "--prompt", "one two three four"], "a prompt has 44 bytes with what makes it new"),
        (&[long, "--prompt", "p"], "long.png: INVALID_ARGUMENT: has 101 bytes"),
        (&[other, "--prompt", "p"], "notes.txt: INVALID_ARGUMENT: is neither an image nor a video"),
        (&["missing.png", "--prompt", "p"], "missing.png: UNREADABLE: No such file"),
    ];
    for (arguments, words) in cases {
        let ran = server.pcqa(["bench"].iter().chain(arguments));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(words) && ran.stderr.lines().count() == 1, "{arguments:?}: {}", ran.stderr);
    }
    assert!(server.seen.lock().unwrap().calls.is_empty());
}

#[test]
fn a_plot_does_not_replace_what_is_sent() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let image = image.to_str().unwrap();
    let ran = server.pcqa(["bench", image, "--prompt", "p", "--sweep", "--plot", image]);
    assert_eq!(ran.code, Some(2));
    assert_eq!(ran.stderr, format!("error: --plot {image} would replace what is to be read\n"));
}

#[test]
fn a_server_that_is_away_is_said_so_in_one_line() {
    let ran = pcqa("127.0.0.1:1", ["bench", "--connect-timeout", "0.1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
    assert_eq!(ran.stderr, "error: server http://127.0.0.1:1: cannot connect: Connection refused (os error 111)\n");
}

#[test]
fn every_command_says_what_goes_first() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let image = image.to_str().unwrap();
    for command in [&["score"] as &[_], &["rank"], &["bench", "--duration", "0.1", "--warm-up", "0"]] {
        for (argument, expected) in [("bulk", Priority::Bulk), ("interactive", Priority::Interactive)] {
            let ran = server.pcqa(command.iter().chain(&[image, "--prompt", "p", "--priority", argument]));
            assert_eq!(ran.code, Some(0), "{command:?}: {}", ran.stderr);
            assert_eq!(server.seen.lock().unwrap().priority, Some(expected), "{command:?}");
        }
    }
}
