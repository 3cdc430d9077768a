//! The loader gives the same frames whatever its threads do, and loses nothing silently.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pcqa::media::{Cancel, Frames, ImageLimits, decode_image, resize};
use pcqa::train::{Augmentation, Item, Loaded, Loader, LoaderOptions};

use crate::support::{Folder, picture};

const PICTURES: usize = 12;

fn options() -> LoaderOptions {
    LoaderOptions {
        sides: vec![32, 20],
        augment: Some(Augmentation::default()),
        threads: 3,
        decoder: env!("CARGO_BIN_EXE_pcqa-decoder").into(),
        ..LoaderOptions::default()
    }
}

/// Pictures of several sizes, and a file that is none in the middle of them.
fn pictures() -> (Folder, Arc<Vec<Item>>) {
    let folder = Folder::new();
    let mut list = "path,prompt\n".to_owned();
    for number in 0..PICTURES as u32 {
        let bytes = match number {
            5 => b"no picture".to_vec(),
            _ => picture(number, 30 + number, 50 - number),
        };
        folder.add(&format!("{number}.png"), &bytes);
        list += &format!("{number}.png,cat\n");
    }
    folder.add("info.csv", list.as_bytes());
    let items = Arc::new(folder.read().items);
    (folder, items)
}

fn load(items: &Arc<Vec<Item>>, options: LoaderOptions, batches: &[&[usize]], seed: u64) -> Vec<Loaded> {
    let loader = Loader::new(items.clone(), options).unwrap();
    loader.run(batches.iter().map(|batch| batch.to_vec()).collect(), seed).collect()
}

/// Every item's frames, by index.
fn frames(loaded: &[Loaded]) -> Vec<(usize, Frames)> {
    let pairs = loaded.iter().flat_map(|batch| batch.indices.iter().copied().zip(batch.frames.iter().cloned()));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|(index, _)| *index);
    pairs
}

#[test]
fn batches_come_in_order_and_failures_with_them() {
    let (_folder, items) = pictures();
    let batches: [&[usize]; 6] = [&[3, 1], &[], &[5], &[4, 5, 0, 99], &[11, 10, 9, 8, 7], &[]];
    let loaded = load(&items, options(), &batches, 1);
    let indices: Vec<_> = loaded.iter().map(|batch| batch.indices.clone()).collect();
    assert_eq!(indices, [vec![3, 1], vec![], vec![], vec![4, 0], vec![11, 10, 9, 8, 7], vec![]]);
    let failed: Vec<Vec<usize>> =
        loaded.iter().map(|batch| batch.failed.iter().map(|(index, _)| *index).collect()).collect();
    assert_eq!(failed, [vec![], vec![], vec![5], vec![5, 99], vec![], vec![]]);
    assert!(loaded[2].failed[0].1.starts_with("5.png: is not in a known format"), "{:?}", loaded[2].failed);
    for batch in &loaded {
        assert_eq!(batch.indices.len(), batch.frames.len());
        for frames in &batch.frames {
            assert_eq!(frames.stacks.iter().map(|stack| stack.side).collect::<Vec<_>>(), [32, 20]);
            assert!(frames.stacks.iter().all(|stack| stack.rgb.len() == (stack.side * stack.side * 3) as usize));
        }
    }
}

#[test]
fn an_item_looks_the_same_whatever_is_around_it() {
    let (_folder, items) = pictures();
    let all: Vec<usize> = (0..PICTURES).collect();
    let expected = frames(&load(&items, LoaderOptions { threads: 1, prefetch: 1, ..options() }, &[&all], 7));
    assert_eq!(expected.len(), PICTURES - 1);
    let backwards: Vec<usize> = all.iter().rev().copied().collect();
    let one_by_one: Vec<&[usize]> = backwards.chunks(1).collect();
    for (threads, prefetch, cache_bytes) in [(1, 1, 0), (8, 1, 0), (4, 5, 20_000), (2, 20, 1 << 20)] {
        let options = LoaderOptions { threads, prefetch, cache_bytes, ..options() };
        assert_eq!(frames(&load(&items, options.clone(), &one_by_one, 7)), expected);
        let loader = Loader::new(items.clone(), options).unwrap();
        for _ in 0..2 {
            let again: Vec<Loaded> = loader.run(vec![all.clone()], 7).collect();
            assert_eq!(frames(&again), expected, "from the cache or not");
        }
    }
    assert_ne!(frames(&load(&items, options(), &[&all], 8)), expected, "another seed");
}

#[test]
fn without_augmentation_items_are_as_they_are_served() {
    let (folder, items) = pictures();
    let loader = Loader::new(items, options()).unwrap();
    let loaded: Vec<Loaded> = loader.without_augmentation().run(vec![vec![0, 1]], 1).collect();
    for (number, frames) in loaded[0].frames.iter().enumerate() {
        let bytes = std::fs::read(folder.at(&format!("{number}.png"))).unwrap();
        let rgb = decode_image(&bytes, &ImageLimits::default(), &Cancel::new()).unwrap();
        for side in [32, 20] {
            assert_eq!(frames.at(side).unwrap().rgb, resize(&rgb, rgb.width(), rgb.height(), side));
        }
    }
}

#[test]
fn videos_are_decoded_by_the_sandboxed_worker() {
    let (folder, _) = pictures();
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=3"])
        .args(["-c:v", "mjpeg", "clip.avi"])
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(made.success());
    folder.add("broken.avi", b"RIFF\x10\0\0\0AVI and no more");
    folder.add("info.csv", b"path,prompt\nclip.avi,cat\nbroken.avi,cat\n1.png,cat\n");
    let items = Arc::new(folder.read().items);
    let loaded = load(&items, LoaderOptions { max_frames: 4, ..options() }, &[&[0, 1, 2]], 1);
    let counts: Vec<u32> = loaded[0].frames.iter().map(|frames| frames.count).collect();
    assert_eq!((loaded[0].indices.as_slice(), counts.as_slice()), (&[0, 2][..], &[4, 1][..]));
    assert_eq!(loaded[0].frames[0].at(32).unwrap().rgb.len(), 4 * 32 * 32 * 3);
    assert!(loaded[0].failed[0].1.starts_with("broken.avi: "), "{:?}", loaded[0].failed);

    let nowhere = Loader::new(items, LoaderOptions { decoder: folder.at("nowhere"), ..options() });
    let refusal = format!("{:#}", nowhere.err().unwrap());
    assert!(refusal.contains("nowhere: decoder unavailable"), "{refusal}");
}

#[test]
fn a_dropped_run_ends_its_threads() {
    let (_folder, items) = pictures();
    let loader = Loader::new(items, options()).unwrap();
    let batches = || (0..100_000).map(|number| vec![number % PICTURES; 4]).collect::<Vec<_>>();
    let begin = Instant::now();
    for taken in [0, 1, 3] {
        let mut run = loader.run(batches(), 1);
        assert_eq!(run.by_ref().take(taken).count(), taken);
        assert_eq!(run.len(), 100_000 - taken);
        drop(run);
    }
    // All of it would be hours.
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let (_folder, items) = pictures();
    let cases = [
        ("threads: 0", LoaderOptions { threads: 0, ..options() }),
        ("prefetch: 0", LoaderOptions { prefetch: 0, ..options() }),
        ("max_frames: 0", LoaderOptions { max_frames: 0, ..options() }),
        ("sides: there are none", LoaderOptions { sides: vec![], ..options() }),
        ("sides: 5000", LoaderOptions { sides: vec![32, 5000], ..options() }),
        (
            "augment: flip: 2",
            LoaderOptions { augment: Some(Augmentation { flip: 2.0, ..Augmentation::default() }), ..options() },
        ),
    ];
    for (expected, options) in cases {
        let refusal = format!("{:#}", Loader::new(items.clone(), options).err().unwrap());
        assert!(refusal.starts_with(expected), "{expected}: {refusal}");
    }
}
