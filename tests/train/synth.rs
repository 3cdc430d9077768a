//! `pcqa-train synth`: the same everywhere, and labelled by what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use pcqa::media::{Cancel, DecoderConfig, DecoderPool, VideoLimits};
use pcqa::model::Bundle;
use pcqa::train::synth::{Arguments, LIST, Part, run};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Data in a folder that goes away.
struct Data {
    folder: TempDir,
    lines: Vec<BTreeMap<String, String>>,
}

fn arguments(out: &Path) -> Arguments {
    Arguments { seed: 1, images: 0, videos: 0, photographs: None, part: Part::All, side: 48, out: out.to_owned() }
}

/// As `pcqa-train synth` is called without a side.
#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    arguments: Arguments,
}

#[test]
fn the_usual_side_is_what_the_compiled_in_bundle_learnt() {
    let side = Bare::parse_from(["synth", "--out", "data"]).arguments.side;
    let bundle = Bundle::demo().unwrap();
    assert!(bundle.manifest().experts.iter().all(|expert| expert.input_size == side), "{side}");
}

fn synth(change: impl FnOnce(&mut Arguments)) -> Data {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = arguments(folder.path());
    change(&mut arguments);
    run(&arguments).unwrap();
    let lines = csv::Reader::from_path(folder.path().join(LIST)).unwrap().deserialize().map(Result::unwrap).collect();
    Data { folder, lines }
}

impl Data {
    fn column(&self, name: &str) -> Vec<&str> {
        self.lines.iter().map(|line| line[name].as_str()).collect()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.column(name).into_iter().map(|value| value.parse().unwrap()).collect()
    }

    fn path(&self, line: usize) -> PathBuf {
        self.folder.path().join(&self.lines[line]["path"])
    }

    fn pixels(&self, line: usize) -> Vec<u8> {
        image::open(self.path(line)).unwrap().into_rgb8().into_raw()
    }
}

/// "blur 0.40 + noise 0.10"
fn strengths(distortions: &str) -> Vec<f64> {
    let one = |part: &str| part.split(' ').nth(1).unwrap().parse().unwrap();
    distortions.split(" + ").filter(|part| !part.is_empty()).map(one).collect()
}

fn costs(faults: &str) -> f64 {
    let cost = |fault: &str| match fault {
        "colour" => 0.35,
        "shape" | "ground" => 0.25,
        "count" => 0.15,
        "second" | "motion" => 0.1,
        "relation" => 0.05,
        other => panic!("fault {other}"),
    };
    faults.split(" + ").filter(|fault| !fault.is_empty()).map(cost).sum()
}

#[test]
fn every_machine_renders_the_same() {
    let data = synth(|arguments| arguments.images = 24);
    let mut digest = Sha256::new();
    digest.update(fs::read(data.folder.path().join(LIST)).unwrap());
    (0..24).for_each(|line| digest.update(data.pixels(line)));
    assert_eq!(format!("{:x}", digest.finalize()), "72d5374ee85be04196ee912fdb377e013501753d47b771e580d15e0d5c940c90");
}

#[test]
fn an_item_depends_on_seed_and_number_alone() {
    let few = synth(|arguments| (arguments.images, arguments.videos) = (5, 2));
    let more = synth(|arguments| (arguments.images, arguments.videos) = (9, 3));
    let other = synth(|arguments| (arguments.seed, arguments.images) = (2, 5));
    assert_eq!(few.lines[..5], more.lines[..5]);
    assert_eq!(few.lines[5..], more.lines[9..11]);
    for line in 0..5 {
        assert_eq!(fs::read(few.path(line)).unwrap(), fs::read(more.path(line)).unwrap());
        assert_ne!(fs::read(few.path(line)).unwrap(), fs::read(other.path(line)).unwrap());
    }
    assert_eq!(fs::read(few.path(6)).unwrap(), fs::read(more.path(10)).unwrap());
}

#[test]
fn labels_follow_the_documented_formula() {
    let data = synth(|arguments| (arguments.images, arguments.videos) = (200, 40));
    for line in &data.lines {
        let number = |column: &str| line[column].parse::<f64>().unwrap();
        let quality: f64 = strengths(&line["distortions"]).iter().map(|strength| 1.0 - strength).product();
        let matching = (1.0 - costs(&line["faults"])).max(0.0);
        assert!((quality - number("quality")).abs() < 1e-4, "{line:?}");
        assert!((matching - number("match")).abs() < 1e-4, "{line:?}");
        assert!((1.0 + 4.0 * (0.55 * quality + 0.45 * matching) - number("mos")).abs() < 1e-3, "{line:?}");
    }
    let clutter = data.lines.iter().filter(|line| line["shown"] == "clutter").count();
    assert!((15..60).contains(&clutter), "one picture in six, of 200: {clutter}");
    let unlike = |line: &BTreeMap<String, String>| line["shown"] != "clutter" || costs(&line["faults"]) > 0.99;
    assert!(data.lines.iter().all(unlike), "clutter has every fault that there can be");
    let seen: BTreeSet<&str> = data.column("faults").into_iter().flat_map(|faults| faults.split(" + ")).collect();
    assert_eq!(seen.len(), 8, "every fault and none: {seen:?}");
    let mos = data.numbers("mos");
    assert!(mos.iter().any(|&mos| mos < 2.0) && mos.iter().any(|&mos| mos > 4.5), "the scale is used");
}

#[test]
fn what_has_no_fault_shows_the_words_of_its_prompt() {
    let data = synth(|arguments| (arguments.images, arguments.videos) = (100, 40));
    for line in &data.lines {
        let prompt: BTreeSet<&str> = line["prompt"].split([' ', ',']).collect();
        let shows_all = line["shown"].split(' ').all(|word| prompt.contains(word));
        let has_second = [" above ", " below ", " beside "].iter().any(|relation| line["prompt"].contains(relation));
        if line["faults"].is_empty() {
            assert!(shows_all, "{line:?}");
        } else if !has_second {
            assert!(!shows_all, "{line:?}");
        }
    }
}

#[test]
fn a_prompt_is_in_one_part_and_groups_share_it() {
    let part = |part| synth(|arguments| (arguments.images, arguments.side, arguments.part) = (400, 16, part));
    let (train, test) = (part(Part::Train), part(Part::Test));
    let prompts = |data: &Data| data.column("prompt").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(prompts(&train).is_disjoint(&prompts(&test)));
    for lines in train.lines.chunks(4) {
        let same = |column: &str| lines.iter().map(|line| &line[column]).collect::<BTreeSet<_>>().len();
        assert_eq!((same("prompt"), same("group"), same("generator")), (1, 1, 4));
    }
}

#[test]
fn clips_are_decoded_frame_by_frame() {
    let data = synth(|arguments| (arguments.videos, arguments.side) = (6, 56));
    let program = PathBuf::from(env!("CARGO_BIN_EXE_pcqa-decoder"));
    let limits = VideoLimits::default();
    let pool = DecoderPool::start(DecoderConfig { program, workers: 1, max_memory: 2 << 30, limits }).unwrap();
    for line in 0..6 {
        let clip = fs::read(data.path(line)).unwrap();
        let soon = Instant::now() + Duration::from_secs(60);
        let frames = pool.decode(&clip, &[56], soon, &Cancel::new()).unwrap().frames;
        assert_eq!(frames.count, 8);
        let rgb = &frames.at(56).unwrap().rgb;
        let frame = 56 * 56 * 3;
        let frozen = rgb.chunks(frame).zip(rgb.chunks(frame).skip(1)).filter(|(one, next)| one == next).count();
        let drops = data.lines[line]["distortions"].contains("drops");
        assert!(drops || frozen == 0, "{:?} stands still", data.lines[line]);
    }
}

#[test]
fn stronger_distortions_take_a_photograph_further_from_itself() {
    let photographs = tempfile::tempdir().unwrap();
    let colour = |x: u32, y: u32| image::Rgb([(x * 3) as u8, ((x * y) % 256) as u8, (y * 2 + x % 7 * 9) as u8]);
    image::RgbImage::from_fn(80, 60, colour).save(photographs.path().join("a_red-barn.png")).unwrap();
    fs::write(photographs.path().join("notes.txt"), "no picture").unwrap();
    let data = synth(|arguments| arguments.photographs = Some(photographs.path().to_owned()));

    assert_eq!(data.lines.len(), 1 + 5 * 5);
    assert!(data.column("prompt").iter().all(|&prompt| prompt == "a red barn"));
    assert_eq!(data.numbers("mos")[0], 5.0);
    let whole = data.pixels(0);
    let distance = |line: usize| {
        let squares = data.pixels(line).into_iter().zip(&whole).map(|(a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        squares.sum::<f64>()
    };
    for ladder in (1..26).collect::<Vec<_>>().chunks(5) {
        let distances: Vec<f64> = ladder.iter().map(|&line| distance(line)).collect();
        assert!(distances.is_sorted(), "{}: {distances:?}", data.lines[ladder[0]]["distortions"]);
        assert!(distances[0] > 0.0);
        let mos: Vec<f64> = ladder.iter().map(|&line| data.numbers("mos")[line]).collect();
        assert!(mos.is_sorted_by(|a, b| a > b), "{mos:?}");
    }
}

#[test]
fn what_cannot_be_made_is_refused() {
    let refusal = |change: &dyn Fn(&mut Arguments, &Path)| {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = arguments(&folder.path().join("out"));
        change(&mut arguments, folder.path());
        format!("{:#}", run(&arguments).unwrap_err())
    };
    assert!(refusal(&|_, _| ()).contains("--images"));
    let full = refusal(&|arguments, folder| {
        fs::write(folder.join("mine.txt"), "mine").unwrap();
        arguments.images = 1;
        arguments.out = folder.to_owned();
    });
    assert!(full.contains("is not empty"), "{full}");
    let empty = refusal(&|arguments, folder| arguments.photographs = Some(folder.to_owned()));
    assert!(empty.contains("holds no pictures"), "{empty}");
    let broken = refusal(&|arguments, folder| {
        fs::write(folder.join("torn.png"), b"\x89PNG\r\n\x1a\n").unwrap();
        arguments.photographs = Some(folder.to_owned());
    });
    assert!(broken.contains("torn.png"), "{broken}");
}
