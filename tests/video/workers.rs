//! The pool: many callers, deadlines, dying workers, the sandbox.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use pcqa::media::{DecoderConfig, DecoderPool, MediaError};

use crate::clips::Clip;
use crate::{PROGRAM, config, pool, soon};

const SHORT: &str = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -c:v libx264 -preset veryfast -pix_fmt yuv420p";

/// Decoding all of it takes many seconds: no packet of it can be skipped.
fn heavy() -> Clip {
    Clip::make("heavy.avi", "-f lavfi -i testsrc=size=1280x720:rate=25:duration=40 -c:v mpeg4 -q:v 20 -g 600")
}

/// Process ids of the workers that this process has started and that are alive.
fn workers_of(pool_memory: u64) -> Vec<u32> {
    let me = std::process::id().to_string();
    let output = Command::new("ps").args(["--ppid", &me, "-o", "pid=,stat=,args="]).output().expect("ps is installed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.ends_with(&format!("--max-memory {pool_memory}")))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let pid = words.next()?.parse().ok()?;
            (!words.next()?.starts_with('Z')).then_some(pid)
        })
        .collect()
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill is installed");
    assert!(status.success());
}

#[test]
fn many_callers_share_few_workers_and_get_the_same_answer() {
    let clip = Clip::make("clip.mp4", SHORT);
    let pool = pool(DecoderConfig { workers: 2, ..config() });
    let first = pool.decode(&clip.bytes, &[32], soon()).expect("a good clip").frames;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(pool.decode(&clip.bytes, &[32], soon()).expect("a good clip").frames, first);
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
    let decode = || pool.decode(&clip.bytes, &[32], soon()).map(|decoded| decoded.frames.count);
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
    let (heavy, clip) = (heavy(), Clip::make("clip.mp4", SHORT));
    let memory = (2 << 30) + 8192;
    let pool = pool(DecoderConfig { max_memory: memory, ..config() });
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| pool.decode(&heavy.bytes, &[32], soon()).map(|decoded| decoded.decode));
        std::thread::sleep(Duration::from_millis(300));
        workers_of(memory).into_iter().for_each(kill);
        let outcome = caller.join().expect("no panic");
        assert!(matches!(outcome, Err(MediaError::Corrupt { .. })), "{outcome:?}");
    });
    assert_eq!(pool.decode(&clip.bytes, &[32], soon()).expect("a new worker").frames.count, 16);
}

#[test]
fn a_deadline_ends_the_call_and_spares_the_pool() {
    let (heavy, clip) = (heavy(), Clip::make("clip.mp4", SHORT));
    let pool = pool(config());
    let begun = Instant::now();
    let outcome = pool.decode(&heavy.bytes, &[32], begun + Duration::from_millis(200)).map(|decoded| decoded.decode);
    assert!(matches!(outcome, Err(MediaError::Deadline { .. })), "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(pool.decode(&clip.bytes, &[32], soon()).expect("a new worker").frames.count, 16);

    let past = pool.decode(&clip.bytes, &[32], Instant::now()).map(|decoded| decoded.decode);
    assert!(matches!(past, Err(MediaError::Deadline { .. })), "{past:?}");

    // Waiting for a worker counts as well.
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| pool.decode(&heavy.bytes, &[32], Instant::now() + Duration::from_secs(3)));
        std::thread::sleep(Duration::from_millis(200));
        let deadline = Instant::now() + Duration::from_millis(200);
        let waited = pool.decode(&clip.bytes, &[32], deadline).map(|decoded| decoded.decode);
        assert!(matches!(waited, Err(MediaError::Deadline { .. })), "{waited:?}");
        let _ = holder.join();
    });
}

#[test]
fn memory_is_limited() {
    let options =
        "-f lavfi -i testsrc=size=3840x2160:rate=2:duration=2 -c:v libx264 -preset ultrafast -pix_fmt yuv444p";
    let clip = Clip::make("large.mp4", options);
    let pool = pool(DecoderConfig { max_memory: 270 << 20, ..config() });
    let outcome = pool.decode(&clip.bytes, &[32], soon()).map(|decoded| decoded.frames.count);
    assert!(matches!(outcome, Err(MediaError::TooMuchMemory { .. } | MediaError::Corrupt { .. })), "{outcome:?}");
    let small = Clip::make("clip.mp4", SHORT);
    assert_eq!(pool.decode(&small.bytes, &[32], soon()).expect("enough for a small one").frames.count, 16);
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
    std::fs::write(&dumb, "#!/bin/sh\nexit 3\n").expect("a writable directory");
    std::fs::set_permissions(&dumb, std::fs::Permissions::from_mode(0o755)).expect("one's own file");
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
