//! One item of the data: what is asked for, what is shown, what is broken, and the files and the line that come of it.

use std::fs;
use std::path::Path;

use anyhow::Context;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageFormat, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::canvas::Canvas;
use super::distort::{Distortion, distort};
use super::label::{CLUTTER_EVERY, GENERATORS, Outcome};
use super::scene::Scene;
use super::stage::Stage;
use super::{Part, avi, clutter, photographs::Photograph};
use crate::model::Track;
use crate::train::seed::rng;

/// Items in a row that share a prompt, each by another generator.
const TAKES: u32 = 4;

/// Frames of a clip, and how many of them are a second.
const FRAMES: u32 = 8;
const RATE: u32 = 8;

/// Quality of the JPEGs of a clip: high, for what is broken is broken before.
const CLIP_QUALITY: u8 = 95;

/// What to make.
pub(super) enum Item<'a> {
    /// The item of this number of a track.
    Drawn(Track, u32),
    /// A photograph under one distortion, or under none.
    Photograph(&'a Photograph, Option<(Distortion, f32)>),
}

/// A line of the list.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    path: String,
    prompt: String,
    mos: String,
    generator: String,
    group: String,
    quality: String,
    #[serde(rename = "match")]
    matching: String,
    /// Name and strength of each.
    distortions: String,
    faults: String,
    /// What can be seen, in words.
    shown: String,
}

/// How and where items are made.
pub(super) struct Make<'a> {
    pub(super) seed: u64,
    pub(super) part: Part,
    pub(super) side: u32,
    pub(super) out: &'a Path,
}

impl Make<'_> {
    /// Writes the item's file and says what it is.
    pub(super) fn item(&self, item: &Item) -> anyhow::Result<Line> {
        match item {
            Item::Drawn(track, number) => self.draw(*track, *number),
            Item::Photograph(photograph, distortion) => self.distort(photograph, *distortion),
        }
    }

    fn draw(&self, track: Track, number: u32) -> anyhow::Result<Line> {
        let moving = track == Track::Video;
        let folder = if moving { "videos" } else { "images" };
        let group = number / TAKES;
        let mut words = rng(self.seed, &format!("synth/{folder}/prompt/{group}"));
        let asked = std::iter::repeat_with(|| Scene::draw(moving, &mut words)).find(|scene| self.part.has(scene));
        let asked = asked.context("there are scenes in every part")?;
        let prompt = asked.prompt(&mut words);

        let mut rng = rng(self.seed, &format!("synth/{folder}/item/{number}"));
        let generator = &GENERATORS[(group + number % TAKES) as usize % GENERATORS.len()];
        let shown = (moving || !rng.random_ratio(1, CLUTTER_EVERY)).then(|| generator.shows(&asked, &mut rng));
        let possible = if moving { Distortion::MOVING } else { Distortion::STILL };
        let faults = shown.as_ref().map_or_else(|| asked.possible_faults(), |shown| asked.faults(shown));
        let outcome = Outcome { distortions: generator.distorts(possible, &mut rng), faults };

        let frames = render(shown.as_ref(), self.side as usize, &outcome.distortions, &mut rng);
        let extension = if moving { "avi" } else { "png" };
        let path = format!("{folder}/{number:06}.{extension}");
        let file = if moving { clip(&frames, self.side)? } else { picture(&frames, self.side)? };
        self.write(&path, &file)?;
        let words = shown.map_or_else(|| "clutter".to_owned(), |shown| shown.words());
        Ok(Line::new(path, prompt, generator.name, format!("{folder}-{group}"), &outcome, words))
    }

    fn distort(&self, photograph: &Photograph, distortion: Option<(Distortion, f32)>) -> anyhow::Result<Line> {
        let Photograph { name, prompt, canvas } = photograph;
        let outcome = Outcome { distortions: distortion.into_iter().collect(), faults: Vec::new() };
        let ending = |(distortion, strength): (Distortion, f32)| format!("-{}-{strength:.1}", distortion.word());
        let path = format!("photographs/{name}{}.png", distortion.map(ending).unwrap_or_default());
        let mut frames = vec![canvas.clone()];
        distort(&mut frames, &outcome.distortions, &mut rng(self.seed, &format!("synth/{path}")));
        self.write(&path, &picture(&frames, self.side)?)?;
        let group = format!("photograph-{name}");
        Ok(Line::new(path, prompt.clone(), "photograph", group, &outcome, prompt.clone()))
    }

    fn write(&self, path: &str, file: &[u8]) -> anyhow::Result<()> {
        let place = self.out.join(path);
        fs::write(&place, file).with_context(|| format!("{}: cannot be written", place.display()))
    }
}

/// The frames of a scene or of clutter, broken: one, or those of a clip where something moves.
fn render(scene: Option<&Scene>, side: usize, distortions: &[(Distortion, f32)], rng: &mut ChaCha8Rng) -> Vec<Canvas> {
    let mut frames: Vec<Canvas> = match scene {
        None => vec![clutter::paint(side, rng)],
        Some(scene) => {
            let stage = Stage::new(scene, side, rng);
            match scene.motion {
                None => vec![stage.paint(0.5)],
                Some(_) => (0..FRAMES).map(|i| stage.paint(i as f32 / (FRAMES - 1) as f32)).collect(),
            }
        }
    };
    distort(&mut frames, distortions, rng);
    frames
}

impl Line {
    fn new(path: String, prompt: String, generator: &str, group: String, outcome: &Outcome, shown: String) -> Self {
        let distortion = |&(distortion, strength): &(Distortion, f32)| format!("{} {strength:.2}", distortion.word());
        let distortions: Vec<String> = outcome.distortions.iter().map(distortion).collect();
        let faults: Vec<&str> = outcome.faults.iter().map(|fault| fault.word()).collect();
        Self {
            path,
            prompt,
            mos: format!("{:.4}", outcome.mos()),
            generator: generator.to_owned(),
            group,
            quality: format!("{:.4}", outcome.quality()),
            matching: format!("{:.2}", outcome.matching()),
            distortions: distortions.join(" + "),
            faults: faults.join(" + "),
            shown,
        }
    }
}

fn picture(frames: &[Canvas], side: u32) -> anyhow::Result<Vec<u8>> {
    let rgb = frames.first().context("a picture has a frame")?.to_bytes();
    let picture = RgbImage::from_raw(side, side, rgb).context("a picture is not square")?;
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png)?;
    Ok(file.into_inner())
}

fn clip(frames: &[Canvas], side: u32) -> anyhow::Result<Vec<u8>> {
    let encode = |frame: &Canvas| -> anyhow::Result<Vec<u8>> {
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, CLIP_QUALITY).encode(
            &frame.to_bytes(),
            side,
            side,
            ExtendedColorType::Rgb8,
        )?;
        Ok(file)
    };
    avi::mux(&frames.iter().map(encode).collect::<anyhow::Result<Vec<_>>>()?, side, RATE)
}
