//! What a loader may hold. One test in a process of its own: the peak of the process is read.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pcqa::model::Track;
use pcqa::train::{Item, Loader, LoaderOptions};

const SIDE: u32 = 448;
const BATCH: usize = 8;
const FRAME: u64 = (SIDE * SIDE * 3) as u64;

/// Most memory that this process ever held, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_does_not_grow_with_the_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.png");
    image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 7])).save(&path).unwrap();
    let item = |number: usize| Item {
        name: number.to_string(),
        path: PathBuf::clone(&path),
        prompt: "cat".to_owned(),
        mos: None,
        generator: None,
        group: None,
        track: Track::Image,
    };
    let options =
        LoaderOptions { sides: vec![SIDE], threads: 2, cache_bytes: 16 * FRAME as usize, ..LoaderOptions::default() };
    let most = |count: usize| {
        let loader = Loader::new(Arc::new((0..count).map(item).collect()), options.clone()).unwrap();
        let batches = (0..count).collect::<Vec<_>>().chunks(BATCH).map(<[usize]>::to_vec).collect();
        let loaded: usize = loader.run(batches, 1).map(|batch| batch.indices.len()).sum();
        assert_eq!(loaded, count);
        peak()
    };
    let few = most(48);
    let many = most(480);
    // All of them would be 289 MB.
    assert!(many - few < 16 * FRAME, "{} MB more", (many - few) >> 20);
}
