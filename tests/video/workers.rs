//! The pool: many callers, deadlines, dying workers, the sandbox.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pcqa::media::{Cancel, DecoderConfig, DecoderPool, MediaError};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::clips::Clip;
use crate::{PROGRAM, config, decode_on, pool, soon};

const SHORT: &str = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -c:v libx264 -preset veryfast -pix_fmt yuv420p";

/// Process ids of the workers that this process has started and that are alive.
fn workers_of(pool_memory: u64) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    processes
        .filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in parentheses may hold anything; state and parent follow it.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?);
            let arguments = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let is_ours = parent == std::process::id().to_string()
                && state != "Z"
                && arguments.ends_with(&format!("--max-memory\0{pool_memory}\0"));
            is_ours.then(|| entry.file_name().to_str()?.parse().ok())?
        })
        .collect()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a process id");
    kill_process(pid, Signal::KILL).expect("a living process of our own");
}

/// A program in place of the worker: says that it is ready, takes a request, then runs `then`. Once it has been started,
/// it is the real worker ever after.
struct Impostor {
    directory: TempDir,
}

impl Impostor {
    fn new(then: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = directory.path().display();
        write_script(
            &directory.path().join("worker"),
            &format!(
                "mkdir {place}/started 2>/dev/null || exec {PROGRAM} \"$@\"\n\
                 printf '\"Ready\"' >&0\ndd bs=8192 count=1 of={place}/request 2>/dev/null\n{then}\n"
            ),
        );
        Self { directory }
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("worker")
    }

    /// Waits until it holds a request.
    fn wait_until_busy(&self) {
        let request = self.directory.path().join("request");
        while !std::fs::metadata(&request).is_ok_and(|file| file.len() > 0) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn write_script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}")).expect("a writable directory");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("one's own file");
}

/// Reads on until the pool closes the socket; without a child, which would keep the socket open after a kill.
const SILENT: &str = "while read -r ignored; do :; done";

#[test]
fn many_callers_share_few_workers_and_get_the_same_answer() {
    let clip = Clip::make("clip.mp4", SHORT);
    let pool = pool(DecoderConfig { workers: 2, ..config() });
    let first = decode_on(&pool, &clip.bytes, soon()).expect("a good clip").frames;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("a good clip").frames, first);
            });
        }
    });
}

#[test]
fn workers_outlive_the_thread_that_needed_them() {
    let clip = Clip::make("clip.mp4", SHORT);
    let memory = (2 << 30) + 4096;
    let pool = pool(DecoderConfig { max_memory: memory, ..config() });
    let [first] = workers_of(memory)[..] else { panic!("one worker") };
    kill(first);
    let decode = || decode_on(&pool, &clip.bytes, soon()).map(|decoded| decoded.frames.count);
    let replaced = std::thread::scope(|scope| scope.spawn(decode).join()).expect("no panic");
    assert!(matches!(replaced, Ok(16) | Err(MediaError::Corrupt { .. })), "{replaced:?}");
    assert_eq!(decode(), Ok(16));
    let second = workers_of(memory);
    assert_eq!(decode(), Ok(16));
    assert_eq!(workers_of(memory), second, "the worker has stayed");
    assert_ne!(second, [first]);
}

#[test]
fn a_worker_killed_at_work_costs_its_request_alone() {
    let clip = Clip::make("clip.mp4", SHORT);
    let memory = (2 << 30) + 8192;
    let silent = Impostor::new(SILENT);
    let pool = pool(DecoderConfig { program: silent.program(), max_memory: memory, ..config() });
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| decode_on(&pool, &clip.bytes, soon()).map(|decoded| decoded.decode));
        silent.wait_until_busy();

        // Waiting for the worker ends by the deadline too.
        let deadline = Instant::now() + Duration::from_millis(50);
        let waited = decode_on(&pool, &clip.bytes, deadline).map(|decoded| decoded.decode);
        assert!(matches!(waited, Err(MediaError::Deadline { .. })), "{waited:?}");

        workers_of(memory).into_iter().for_each(kill);
        let outcome = caller.join().expect("no panic");
        assert!(matches!(outcome, Err(MediaError::Corrupt { .. })), "{outcome:?}");
    });
    assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("a new worker").frames.count, 16);
}

#[test]
fn a_deadline_ends_the_call_and_spares_the_pool() {
    let clip = Clip::make("clip.mp4", SHORT);
    let silent = Impostor::new(SILENT);
    let pool = pool(DecoderConfig { program: silent.program(), ..config() });
    let deadline = Instant::now() + Duration::from_millis(200);
    let outcome = decode_on(&pool, &clip.bytes, deadline).map(|decoded| decoded.decode);
    assert!(matches!(outcome, Err(MediaError::Deadline { .. })), "{outcome:?}");

    let past = decode_on(&pool, &clip.bytes, Instant::now()).map(|decoded| decoded.decode);
    assert!(matches!(past, Err(MediaError::Deadline { .. })), "{past:?}");
    assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("a new worker").frames.count, 16);
}

#[test]
fn a_caller_who_leaves_takes_the_worker_along_and_spares_the_pool() {
    let clip = Clip::make("clip.mp4", SHORT);
    let memory = (2 << 30) + 20480;
    let silent = Impostor::new(SILENT);
    let pool = pool(DecoderConfig { program: silent.program(), max_memory: memory, ..config() });
    let first = workers_of(memory);
    let (cancel, cancel_waiting) = (Cancel::new(), Cancel::new());
    let decode = |cancel: &Cancel| pool.decode(&clip.bytes, &[32], soon(), cancel).map(|decoded| decoded.decode);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let at_work = scope.spawn(|| decode(&cancel));
        silent.wait_until_busy();

        // The worker never answers: only their cancels can end these calls before the deadline. The one that waits for
        // a place goes first, while the place is still taken.
        let waiting = scope.spawn(|| decode(&cancel_waiting));
        std::thread::sleep(Duration::from_millis(50));
        cancel_waiting.cancel();
        assert_eq!(waiting.join().expect("no panic"), Err(MediaError::Cancelled));
        assert!(!at_work.is_finished());

        cancel.cancel();
        assert_eq!(at_work.join().expect("no panic"), Err(MediaError::Cancelled));
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "well before the deadline");

    // Its successor was started without anybody asking for it. In the middle of exec a process has no arguments.
    let mut second = workers_of(memory);
    while second.is_empty() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
        second = workers_of(memory);
    }
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("a new worker").frames.count, 16);
    assert_eq!(workers_of(memory), second);
}

#[test]
fn a_caller_who_has_left_before_costs_no_worker() {
    let clip = Clip::make("clip.mp4", SHORT);
    let memory = (2 << 30) + 24576;
    let pool = pool(DecoderConfig { max_memory: memory, ..config() });
    let first = workers_of(memory);
    let cancel = Cancel::new();
    cancel.cancel();
    let outcome = pool.decode(&clip.bytes, &[32], soon(), &cancel).map(|decoded| decoded.decode);
    assert_eq!(outcome, Err(MediaError::Cancelled));
    assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("the same worker").frames.count, 16);
    assert_eq!(workers_of(memory), first);
}

#[test]
fn an_answer_to_another_request_is_none() {
    let clip = Clip::make("clip.mp4", SHORT);
    let stale = r#"printf '{"Answer":{"number":2,"outcome":{"Err":"NoVideoStream"}}}' >&0"#;
    let impostor = Impostor::new(&format!("{stale}\n{SILENT}"));
    let pool = pool(DecoderConfig { program: impostor.program(), ..config() });
    let outcome = decode_on(&pool, &clip.bytes, soon()).map(|decoded| decoded.decode);
    assert!(matches!(&outcome, Err(MediaError::Corrupt { reason }) if reason.contains("out of turn")), "{outcome:?}");
    assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("a new worker").frames.count, 16);
}

#[test]
fn a_worker_that_speaks_unasked_is_replaced_before_the_next_request() {
    let clip = Clip::make("clip.mp4", SHORT);
    let answer =
        |number| format!(r#"printf '{{"Answer":{{"number":{number},"outcome":{{"Err":"NoVideoStream"}}}}}}' >&0"#);
    let told = tempfile::tempdir().expect("a temporary directory");
    let both_said = told.path().join("both");
    let then = format!("{}\n{}\nmkdir {}\n{SILENT}", answer(1), answer(2), both_said.display());
    let impostor = Impostor::new(&then);
    let pool = pool(DecoderConfig { program: impostor.program(), ..config() });
    let first = decode_on(&pool, &clip.bytes, soon()).map(|decoded| decoded.decode);
    assert_eq!(first, Err(MediaError::NoVideoStream));
    while !both_said.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("a new worker").frames.count, 16);
}

#[test]
fn a_worker_is_replaced_after_bytes_that_do_not_decode() {
    let clip = Clip::make("clip.mp4", SHORT);
    let memory = (2 << 30) + 16384;
    let pool = pool(DecoderConfig { max_memory: memory, ..config() });
    let first = workers_of(memory);
    let cut = decode_on(&pool, &clip.bytes[..clip.bytes.len() / 2], soon()).map(|decoded| decoded.decode);
    assert!(matches!(cut, Err(MediaError::Corrupt { .. })), "{cut:?}");
    assert_eq!(decode_on(&pool, &clip.bytes, soon()).expect("a new worker").frames.count, 16);
    let second = workers_of(memory);
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
}

#[test]
fn memory_is_limited() {
    let options =
        "-f lavfi -i testsrc=size=3840x2160:rate=2:duration=2 -c:v libx264 -preset ultrafast -pix_fmt yuv444p";
    let clip = Clip::make("large.mp4", options);
    let pool = pool(DecoderConfig { max_memory: 270 << 20, ..config() });
    let outcome = decode_on(&pool, &clip.bytes, soon()).map(|decoded| decoded.frames.count);
    assert!(matches!(outcome, Err(MediaError::TooMuchMemory { .. } | MediaError::Corrupt { .. })), "{outcome:?}");
    let small = Clip::make("clip.mp4", SHORT);
    assert_eq!(decode_on(&pool, &small.bytes, soon()).expect("enough for a small one").frames.count, 16);
}

#[test]
fn workers_die_with_their_pool() {
    let memory = (2 << 30) + 12288;
    let pool = pool(DecoderConfig { workers: 2, max_memory: memory, ..config() });
    assert_eq!(workers_of(memory).len(), 2);
    drop(pool);
    assert!(workers_of(memory).is_empty());
}

#[test]
fn programs_that_are_no_workers_are_reported() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dumb = directory.path().join("dumb");
    write_script(&dumb, "exit 3\n");
    for program in [directory.path().join("missing"), dumb] {
        let error = DecoderPool::start(DecoderConfig { program, ..config() }).expect_err("no worker");
        assert!(matches!(error, MediaError::Worker(_)), "{error}");
    }
}

#[test]
fn the_sandbox_refuses_files_sockets_programs_and_other_processes() {
    let output = Command::new(PROGRAM).arg("--self-test").output().expect("the worker is built");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}");
    let attempts = [
        "open a file",
        "open a network socket",
        "start a program",
        "start a thread",
        "signal another process",
        "signal another process's thread",
        "read another process's affinity",
    ];
    for attempt in attempts {
        assert!(report.contains(&format!("{attempt}: refused")), "{report}");
    }
}
