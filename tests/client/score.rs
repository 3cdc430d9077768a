//! `pcqa score`: results, failures, retries, deadlines.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::fake::{Server, pcqa, score_of};
use super::{Files, MP4, PNG, cells, objects, records};

#[test]
fn a_table_shows_rounded_scores_in_the_order_of_the_files() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("b.png", PNG, 10);
    let video = files.media("a.mp4", MP4, 20);
    let prompt = "a very long prompt that the table has to cut short";
    let ran =
        server.pcqa(["score".as_ref(), image.as_os_str(), video.as_os_str(), "--prompt".as_ref(), prompt.as_ref()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stderr, "");
    assert!(!ran.stdout.contains('\u{1b}'));
    let header = "| file | prompt | MOS | z | convnext | efficientvit | eva02 | disagreement | frames | ms |";
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(ran.stdout.lines().next().unwrap()), header);
    let short = "a very long prompt that the table has t… [truncated]";
    let rows = cells(&ran.stdout);
    let expected = |path: &Path, figures: &[&str]| {
        let mut cells = vec![path.display().to_string(), short.to_owned()];
        cells.extend(figures.iter().map(|figure| (*figure).to_owned()));
        cells
    };
    let image_figures = ["1.405", "-1.095", "-1.195", "-1.295", "-1.395", "0.316", "1", "1234"];
    let video_figures = ["-0.024", "-2.524", "-2.624", "-2.724", "", "0.316", "16", "1234"];
    assert_eq!(rows, [expected(&image, &image_figures), expected(&video, &video_figures)]);
    assert_eq!(ran.stdout.lines().last().unwrap(), "model demo 1.2; MOS on the scale of AIGC, 0 to 5");
    assert_eq!(server.seen.lock().unwrap().timeout.as_deref(), Some("300000m"));
}

#[test]
fn experts_that_share_a_backbone_have_their_own_columns() {
    let mut model = super::fake::model();
    model.experts[1].backbone = "convnext".to_owned();
    let (server, files) = (Server::serving(model), Files::new());
    let image = files.media("a.png", PNG, 10);
    let table = server.pcqa(["score", image.to_str().unwrap(), "--prompt", "p"]).stdout;
    let titles: Vec<_> = table.lines().next().unwrap().split('|').map(str::trim).collect();
    assert_eq!(titles[5..8], ["conv", "evit", "eva"]);
    assert_eq!(cells(&table)[0][4..7], ["-1.195", "-1.295", "-1.395"]);
}

#[test]
fn csv_and_json_lines_hold_every_figure_exactly() {
    let (server, files) = (Server::start(), Files::new());
    let awkward = "ü,\"quoted\"\nsecond line\t\u{1b}[31m";
    let image = files.media("a, \"b\".png", PNG, 11);
    let video = files.media("c.mp4", MP4, 23);
    let run = |form: &str| {
        let files = [image.to_str().unwrap(), video.to_str().unwrap()];
        let ran = server.pcqa(["score", files[0], files[1], "--prompt", awkward, "--output", form]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        ran.stdout
    };
    let scores = [(&image, score_of(awkward, 11, false)), (&video, score_of(awkward, 23, true))];

    for (row, (path, score)) in records(&run("csv")).iter().zip(&scores) {
        assert_eq!((row["path"].as_str(), row["prompt"].as_str()), (path.to_str().unwrap(), awkward));
        let figure = |column: &str| row[column].parse::<f64>().unwrap();
        assert_eq!((figure("mos"), figure("z"), figure("disagreement")), (score.mos, score.z, score.disagreement));
        for expert in &score.experts {
            assert_eq!(figure(&format!("{}_z", expert.expert)), expert.z);
            assert_eq!(figure(&format!("{}_raw", expert.expert)), expert.raw);
        }
        assert_eq!(row["eva_z"].is_empty(), score.frames_used == 16, "no figure for an expert that did not speak");
        assert_eq!((figure("frames"), figure("queue_ms")), (f64::from(score.frames_used), 1003.0));
        assert_eq!((figure("total_ms"), row["model_version"].as_str()), (1234.0, "1.2"));
        assert_eq!((row["prompt_truncated"].as_str(), row["error"].as_str()), ("false", ""));
        assert!(figure("round_trip_ms") > 0.0);
    }

    for (row, (path, score)) in objects(&run("jsonl")).iter().zip(&scores) {
        assert_eq!((row["path"].as_str(), row["prompt"].as_str()), (path.to_str(), Some(awkward)));
        assert_eq!(row["kind"], if score.frames_used == 16 { "video" } else { "image" });
        // The text of the number is what must be exact; serde_json's own reader may be off by the last bit.
        let figure = |value: &serde_json::Value| value.to_string().parse::<f64>().unwrap();
        let is_near = |a: f64, b: f64| (a - b).abs() <= b.abs() * f64::EPSILON;
        assert!(is_near(figure(&row["mos"]), score.mos) && is_near(figure(&row["z"]), score.z));
        assert_eq!(row["experts"].as_array().unwrap().len(), score.experts.len());
        for (found, expert) in row["experts"].as_array().unwrap().iter().zip(&score.experts) {
            assert_eq!(found["name"], *expert.expert);
            assert!(is_near(figure(&found["z"]), expert.z) && is_near(figure(&found["raw"]), expert.raw));
        }
        assert_eq!((&row["total_ms"], &row["head_ms"]), (&1234.0.into(), &1006.0.into()));
        assert!(row.get("error").is_none() && row.get("id").is_none() && row.get("place").is_none());
    }
}

#[test]
fn json_lines_write_the_shortest_text_that_reads_back_exactly() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 11);
    let ran = server.pcqa(["score", image.to_str().unwrap(), "--prompt", "p", "--output", "jsonl"]);
    let score = score_of("p", 11, false);
    assert!(ran.stdout.contains(&format!("\"mos\":{},\"z\":{},", score.mos, score.z)), "{}", ran.stdout);
}

#[test]
fn a_failed_item_has_its_line_and_does_not_disturb_the_others() {
    let (server, files) = (Server::start(), Files::new());
    files.media("good.png", PNG, 10);
    files.media("bad\u{1b}[2J.png", PNG, 10);
    files.add("notes.txt", "hello");
    let list = files.add(
        "items.jsonl",
        [
            r#"{"path": "good.png", "prompt": "after the others", "id": 7}"#,
            r#"{"path": "bad\u001b[2J.png", "prompt": "refused", "id": "second"}"#,
            r#"{"path": "missing.png", "prompt": "fine"}"#,
            r#"{"path": "notes.txt", "prompt": "fine"}"#,
            r#"{"path": "good.png", "prompt": "fine"}"#,
        ]
        .join("\n"),
    );
    let run = |form: &str| server.pcqa(["score", "--from", list.to_str().unwrap(), "--output", form]);
    let errors = [
        "error: bad\\u{1b}[2J.png: INVALID_ARGUMENT: image: could not be decoded",
        "error: missing.png: UNREADABLE: No such file or directory (os error 2)",
        "error: notes.txt: INVALID_ARGUMENT: is neither an image nor a video by its content or its name",
    ];

    let table = run("table");
    assert_eq!(table.code, Some(1));
    assert_eq!(table.stderr.lines().collect::<Vec<_>>(), errors);
    assert_eq!(cells(&table.stdout).len(), 2);

    let ran = run("csv");
    assert_eq!(ran.code, Some(1));
    let rows = records(&ran.stdout);
    let column = |name: &str| rows.iter().map(|row| row[name].as_str()).collect::<Vec<_>>();
    assert_eq!(column("path"), ["good.png", "bad\u{1b}[2J.png", "missing.png", "notes.txt", "good.png"]);
    assert_eq!(column("id"), ["7", "second", "", "", ""]);
    assert_eq!(column("code"), ["", "INVALID_ARGUMENT", "UNREADABLE", "INVALID_ARGUMENT", ""]);
    assert_eq!(rows[1]["error"], "image: could not be decoded");
    assert_eq!((rows[1]["mos"].as_str(), rows[1]["round_trip_ms"].as_str()), ("", ""));

    let ran = run("jsonl");
    let rows = objects(&ran.stdout);
    assert_eq!(ran.stderr.lines().count(), 3);
    assert_eq!((&rows[0]["id"], &rows[1]["id"]), (&"7".into(), &"second".into()));
    assert_eq!((&rows[1]["code"], &rows[1]["kind"]), (&"INVALID_ARGUMENT".into(), &"image".into()));
    assert!(rows[1].get("mos").is_none() && rows[4]["mos"].is_number());
}

#[test]
fn an_overloaded_or_absent_server_is_asked_again() {
    let (server, files) = (Server::start(), Files::new());
    files.media("a.png", PNG, 10);
    let list = files.add("items.csv", "path,prompt\na.png,busy twice\na.png,away once\n");
    let ran = server.pcqa(["score", "--from", list.to_str().unwrap(), "--output", "csv"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(records(&ran.stdout).len(), 2);
    let seen = server.seen.lock().unwrap();
    assert_eq!((seen.tries["busy twice"], seen.tries["away once"]), (3, 2));
}

#[test]
fn a_broken_connection_is_mended() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let address = server.through_proxy.to_string();
    let ran = pcqa(&address, ["score", image.to_str().unwrap(), "--prompt", "cut once", "--output", "csv"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(server.seen.lock().unwrap().tries["cut once"], 2);
}

#[test]
fn retries_are_counted() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let image = image.to_str().unwrap();
    let ran = server.pcqa(["score", image, "--prompt", "busy", "--retries", "2"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, format!("error: {image}: RESOURCE_EXHAUSTED: queue is full\n"));
    assert_eq!(server.seen.lock().unwrap().tries["busy"], 3);
    let ran = server.pcqa(["score", image, "--prompt", "refused"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(server.seen.lock().unwrap().tries["refused"], 1, "bad input is not sent twice");
}

#[test]
fn an_item_without_an_answer_ends_at_its_deadline() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let image = image.to_str().unwrap();
    let ran = server.pcqa(["score", image, "--prompt", "never", "--timeout", "0.5"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, format!("error: {image}: DEADLINE_EXCEEDED: no answer within 0.5 s\n"));
    assert_eq!(server.seen.lock().unwrap().timeout.as_deref(), Some("500000u"));
}

#[test]
fn as_many_items_as_asked_are_on_their_way_at_once() {
    let (server, files) = (Server::start(), Files::new());
    let paths: Vec<_> = (0..9).map(|index| files.media(&format!("{index}.png"), PNG, 10 + index)).collect();
    let mut arguments = vec!["score", "--prompt", "three at once", "--concurrency", "3", "--timeout", "60"];
    arguments.extend(paths.iter().map(|path| path.to_str().unwrap()));
    let ran = server.pcqa(arguments);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "fewer than three would wait for ever");
    assert_eq!(server.seen.lock().unwrap().in_flight.1, 3);
}

#[test]
fn a_server_that_is_not_there_is_said_so_in_one_line() {
    let files = Files::new();
    let image = files.media("a.png", PNG, 10);
    // Nothing ever listens there; a port that was free a moment ago may be another test's by now.
    let arguments = ["score", image.to_str().unwrap(), "--prompt", "p", "--connect-timeout", "0.1"];
    let ran = pcqa("127.0.0.1:1", arguments);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
    assert_eq!(ran.stderr, "error: server http://127.0.0.1:1: cannot connect: Connection refused (os error 111)\n");
}

#[test]
fn results_go_to_a_file_where_asked() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let image = image.to_str().unwrap();
    for form in ["table", "csv", "jsonl"] {
        let out = files.path().join(form);
        let arguments = ["score", image, "--prompt", "p", "--output", form, "--out", out.to_str().unwrap()];
        let ran = server.pcqa(arguments);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
        assert!(std::fs::read_to_string(out).unwrap().contains(image));
    }
    let ran = server.pcqa(["score", image, "--prompt", "p", "--out", "/nowhere/at/all"]);
    assert_eq!(ran.code, Some(4));
    assert_eq!(ran.stderr, "error: cannot write results: /nowhere/at/all: No such file or directory (os error 2)\n");
}

#[test]
fn an_untrained_model_is_called_so() {
    let server = Server::serving(pcqa::proto::ModelInfo { trained: false, ..super::fake::model() });
    let files = Files::new();
    let image = files.media("a.png", PNG, 10);
    for command in ["score", "rank"] {
        let ran = server.pcqa([command, image.to_str().unwrap(), "--prompt", "p"]);
        assert_eq!(ran.code, Some(0));
        assert_eq!(ran.stderr, "warning: model demo is untrained: scores show the path and mean nothing\n");
    }
}

#[test]
fn a_killed_run_leaves_what_was_done() {
    let (server, files) = (Server::start(), Files::new());
    files.media("a.png", PNG, 10);
    let list = files.add("items.csv", "path,prompt\na.png,done\na.png,never\n");
    for form in ["csv", "jsonl"] {
        let out = files.path().join(form);
        let mut child = Command::new(env!("CARGO_BIN_EXE_pcqa"))
            .env("PCQA_SERVER", server.address.to_string())
            .args(["score", "--output", form, "--from"])
            .args([&list, Path::new("--out"), &out])
            .spawn()
            .unwrap();
        let is_written = || std::fs::read_to_string(&out).is_ok_and(|text| text.contains("done"));
        let start = Instant::now();
        while !is_written() && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let count = if form == "csv" { records(&text).len() } else { objects(&text).len() };
        assert_eq!(count, 1, "{text}");
    }
}

#[test]
fn a_reader_that_had_enough_ends_the_run_quietly() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let mut child = Command::new(env!("CARGO_BIN_EXE_pcqa"))
        .env("PCQA_SERVER", server.address.to_string())
        .args([Path::new("score"), &image, Path::new("--prompt"), Path::new("after the others")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(4), &b""[..]));
}
