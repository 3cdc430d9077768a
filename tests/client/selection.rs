//! Which files are scored: folders, lists, kinds, sizes, and what is refused before anything is sent.

use super::fake::{Server, model, pcqa};
use super::{Files, MP4, PNG, records};
use pcqa::proto::{Limits, ModelInfo};

/// The column of a CSV run.
fn scored(server: &Server, arguments: &[&str], column: &str) -> Vec<String> {
    let ran = server.pcqa(["score"].iter().chain(arguments).chain(&["--output", "csv"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    records(&ran.stdout).iter().map(|row| row[column].clone()).collect()
}

#[test]
fn folders_give_their_media_sorted_and_without_hidden_files() {
    let (server, files) = (Server::start(), Files::new());
    for name in ["b.PNG", "a/z.jpeg", "a/10.png", "a/9.png", ".hidden.png", ".git/x.png", "a/.y.png"] {
        files.media(name, PNG, 10);
    }
    files.media("c.mov", MP4, 20);
    files.add("readme.txt", "no medium");
    let folder = files.path().to_str().unwrap();
    let expected = ["a/10.png", "a/9.png", "a/z.jpeg", "b.PNG", "c.mov"].map(|name| format!("{folder}/{name}"));
    assert_eq!(scored(&server, &[folder, "--prompt", "p"], "path"), expected);
}

#[test]
fn a_folder_without_media_is_a_mistake() {
    let (server, files) = (Server::start(), Files::new());
    files.add("readme.txt", "no medium");
    let folder = files.path().to_str().unwrap();
    let ran = server.pcqa(["score", folder, "--prompt", "p"]);
    assert_eq!(ran.code, Some(2));
    assert_eq!(ran.stderr, format!("error: folder {folder} holds no image or video\n"));
}

#[test]
fn a_csv_list_may_have_a_bom_any_order_and_more_columns() {
    let (server, files) = (Server::start(), Files::new());
    files.media("sub/a.png", PNG, 10);
    let absolute = files.media("b.png", PNG, 10);
    let list = files.add(
        "sub/items.csv",
        format!(
            "\u{feff}note, Prompt ,id,path\r\nx,\"one, \"\"two\"\"\nthree\",n1,a.png\r\n,p,n2,{}\r\n",
            absolute.display()
        ),
    );
    let list = ["--from", list.to_str().unwrap()];
    assert_eq!(scored(&server, &list, "path"), ["a.png", absolute.to_str().unwrap()]);
    assert_eq!(scored(&server, &list, "prompt"), ["one, \"two\"\nthree", "p"]);
    assert_eq!(scored(&server, &list, "id"), ["n1", "n2"]);
}

#[test]
fn a_faulty_list_names_the_line_and_sends_nothing() {
    let (server, files) = (Server::start(), Files::new());
    files.media("a.png", PNG, 10);
    let good = r#"{"path": "a.png", "prompt": "p"}"#;
    let cases: [(&str, Vec<u8>, &str); 13] = [
        ("a.jsonl", format!("{good}\n\n{{\"path\": \"a.png\"}}\n").into(), "line 3: missing field `prompt`"),
        ("b.jsonl", format!("{good}\n{{\"path\": \n").into(), "line 2: EOF while parsing a value"),
        ("c.jsonl", format!("{good}\n{{\"path\": 1, \"prompt\": \"p\"}}").into(), "line 2: invalid type"),
        ("d.jsonl", [good.as_bytes(), b"\n\xff"].concat(), "line 2: is not UTF-8"),
        ("e.jsonl", "\n\n".into(), "holds no items"),
        ("f.jsonl", r#"{"path": "", "prompt": "p"}"#.into(), "line 1: path is empty"),
        ("a.csv", "path,text\na.png,p\n".into(), "the header line has no column `prompt`"),
        ("b.csv", "path,prompt\na.png,p\na.png\n".into(), "line 3: has 1 fields, the header line has 2"),
        ("c.csv", "path,prompt\n".into(), "holds no items"),
        ("d.csv", "".into(), "the header line has no column `path`"),
        ("e.csv", "path,prompt\na.png,\"p\na.png,p\n".into(), "line 2: opens a quote that is never closed"),
        ("f.csv", "path,prompt,path\na.png,p,b.png\n".into(), "the header line has more than one column `path`"),
        ("a.txt", "a.png p".into(), "a list must end in .csv or .jsonl"),
    ];
    for (name, content, problem) in cases {
        let list = files.add(name, content);
        let ran = server.pcqa(["score", "--from", list.to_str().unwrap()]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{name}: {ran:?}");
        let expected = format!("error: {}: {problem}", list.display());
        assert!(ran.stderr.starts_with(&expected) && ran.stderr.lines().count() == 1, "{name}: {}", ran.stderr);
    }
    assert!(server.seen.lock().unwrap().calls.is_empty());
}

#[test]
fn content_decides_between_image_and_video() {
    let (server, files) = (Server::start(), Files::new());
    let disguised_video = files.media("a.png", MP4, 20);
    let disguised_image = files.media("b.mp4", PNG, 21);
    let unknown = files.add("c.webm", "nothing known");
    let paths = [&disguised_video, &disguised_image, &unknown].map(|path| path.to_str().unwrap());
    let kinds = scored(&server, &[&paths[..], &["--prompt", "p"]].concat(), "kind");
    assert_eq!(kinds, ["video", "image", "video"]);
    let mut calls = server.seen.lock().unwrap().calls.clone();
    calls.sort_unstable();
    assert_eq!(calls, [("ScoreImage", 21), ("ScoreVideo", 13), ("ScoreVideo", 20)]);
}

#[test]
fn files_over_the_servers_limits_stay_here() {
    let limits =
        Limits { max_image_bytes: 100, max_video_bytes: 200, max_message_bytes: 207, ..model().limits.unwrap() };
    let server = Server::serving(ModelInfo { limits: Some(limits), ..model() });
    let files = Files::new();
    let paths = [
        files.media("image.png", PNG, 101),
        files.media("video.mp4", MP4, 201),
        files.media("request.mp4", MP4, 199),
        files.media("fits.png", PNG, 100),
    ];
    let ran =
        server.pcqa(["score", "--prompt", "p"].into_iter().chain(paths.iter().map(|path| path.to_str().unwrap())));
    assert_eq!(ran.code, Some(1));
    let expected = [
        (&paths[0], "has 101 bytes, the server's limit is 100"),
        (&paths[1], "has 201 bytes, the server's limit is 200"),
        (&paths[2], "makes a request of 207 bytes, the server's limit is 206"),
    ]
    .map(|(path, problem)| format!("error: {}: INVALID_ARGUMENT: {problem}\n", path.display()));
    assert_eq!(ran.stderr, expected[..2].concat());
    assert_eq!(server.seen.lock().unwrap().calls.len(), 2);

    let limits = Limits { max_message_bytes: 206, ..limits };
    let server = Server::serving(ModelInfo { limits: Some(limits), ..model() });
    let ran = server.pcqa(["score", "--prompt", "p", paths[2].to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr), (Some(1), expected[2].clone()));
    assert!(server.seen.lock().unwrap().calls.is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let limits = Limits { max_image_bytes: 100, max_video_bytes: 200, ..model().limits.unwrap() };
    let server = Server::serving(ModelInfo { limits: Some(limits), ..model() });
    let ran = server.pcqa(["score", "--prompt", "p", "/dev/zero"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "error: /dev/zero: INVALID_ARGUMENT: has more than 200 bytes, the server's limit\n");
}

#[test]
fn messages_beyond_the_usual_four_megabytes_pass() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("large.png", PNG, 20 << 20);
    assert_eq!(scored(&server, &[image.to_str().unwrap(), "--prompt", "p"], "error"), [""]);
    assert_eq!(server.seen.lock().unwrap().calls, [("ScoreImage", 20 << 20)]);
}

#[test]
fn wrong_arguments_end_in_status_2() {
    let cases: [&[&str]; 10] = [
        &["score"],
        &["score", "a.png"],
        &["score", "--prompt", "p"],
        &["score", "a.png", "--prompt", "p", "--from", "items.csv"],
        &["score", "a.png", "--prompt", "p", "--concurrency", "0"],
        &["score", "a.png", "--prompt", "p", "--timeout", "0"],
        &["score", "a.png", "--prompt", "p", "--output", "xml"],
        &["rank", "a.png"],
        &["info", "--tls-ca", "ca.pem"],
        &[],
    ];
    for arguments in cases {
        let ran = pcqa("http://127.0.0.1:1", arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
}

#[test]
fn results_never_replace_what_is_to_be_read() {
    let (server, files) = (Server::start(), Files::new());
    let image = files.media("a.png", PNG, 10);
    let list = files.add("items.csv", "path,prompt\na.png,p\n");
    let (image, list) = (image.to_str().unwrap(), list.to_str().unwrap());
    let same = files.path().join("./a.png");
    for arguments in [
        ["score", image, "--prompt", "p", "--out", same.to_str().unwrap()].as_slice(),
        &["score", "--from", list, "--output", "csv", "--out", list],
        &["score", "--from", list, "--out", image],
        &["rank", image, "--prompt", "p", "--out", image],
    ] {
        let ran = server.pcqa(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("would replace what is to be read"), "{}", ran.stderr);
    }
    assert_eq!(std::fs::read(image).unwrap().len(), 10);
    assert_eq!(std::fs::read_to_string(list).unwrap(), "path,prompt\na.png,p\n");
}

#[test]
fn links_that_lead_nowhere_or_back_do_not_stop_a_folder() {
    use std::os::unix::fs::symlink;
    let (server, files) = (Server::start(), Files::new());
    files.media("sub/a.png", PNG, 10);
    symlink("gone", files.path().join("notes.txt")).unwrap();
    symlink("..", files.path().join("sub/loop")).unwrap();
    let folder = files.path().to_str().unwrap();
    assert_eq!(scored(&server, &[folder, "--prompt", "p"], "path"), [format!("{folder}/sub/a.png")]);

    symlink("gone.png", files.path().join("b.png")).unwrap();
    let ran = server.pcqa(["score", folder, "--prompt", "p"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.starts_with(&format!("error: {folder}/b.png: UNREADABLE: ")), "{}", ran.stderr);
    assert_eq!(super::cells(&ran.stdout).len(), 1);
}
