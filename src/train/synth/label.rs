//! The documented truth: how a generator errs, and the MOS that follows from what it did ([`TRUTH`]).

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::distort::Distortion;
use super::scene::{Fault, Scene};

/// For people. Paragraphs are one line each: clap wraps them to the terminal.
pub const TRUTH: &str = r#"The list, info.csv, has a line per item: path, prompt, mos, generator, group (items that share a prompt or a photograph), and the truth behind the MOS: quality, match, distortions with their strengths, faults, and what is shown in words.

    mos     = 1 + 4 * (0.55 * quality + 0.45 * match)
    quality = product over distortions of (1 - strength)
    match   = 1 - sum of the costs of all faults, at least 0

A distortion's strength s is from 0 (nothing changes) to 1:

    warp      pixels pulled by smooth noise, 16 cells across, by up to 10 % of the side times s
    blur      Gaussian, sigma 5 % of the side times s
    noise     on every value of every frame, standard deviation 90 levels times s
    banding   2 + 10 (1 - s)^2 steps from black to white, at s above 0
    jpeg      the loss of JPEG at quality 2 + 24 (1 - s)^2, without subsampling, at s above 0
    flicker   every frame of a clip brighter or darker by up to 60 % times s
    drops     every frame of a clip repeats the one before with probability 0.8 s

A fault is something that the prompt asks for and the picture does not show:

    colour 0.35, shape 0.25, count 0.15 of the first objects, ground 0.25, second object 0.10, relation 0.05, motion 0.10

Six made-up generators differ in how much they distort and how often they show what was asked for (alder, elm: much; birch, hazel: little; alder, hazel: often; birch, elm: rarely; cedar, rowan: between). One picture in six, of any of them, shows nothing that was asked for: clutter of every size, colour and sharpness, with all faults that there can be. Photographs have no faults."#;

const QUALITY: f32 = 0.55;
const MATCH: f32 = 0.45;

/// A made-up generator of pictures.
pub(super) struct Generator {
    pub(super) name: &'static str,
    /// Strengths are the power `care` of uniform numbers: above 1 it distorts little, below 1 much.
    care: f64,
    /// Share of its pictures that show what was asked for.
    faithful: f64,
}

/// Care and faithfulness are not correlated over them: knowing one says nothing of the other.
pub(super) const GENERATORS: [Generator; 6] = [
    Generator { name: "alder", care: 0.7, faithful: 0.6 },
    Generator { name: "birch", care: 1.5, faithful: 0.3 },
    Generator { name: "cedar", care: 1.0, faithful: 0.45 },
    Generator { name: "elm", care: 0.7, faithful: 0.3 },
    Generator { name: "hazel", care: 1.5, faithful: 0.6 },
    Generator { name: "rowan", care: 1.0, faithful: 0.45 },
];

/// One picture in so many is clutter.
pub(super) const CLUTTER_EVERY: u32 = 6;

/// What was done to one item, and with what result.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) distortions: Vec<(Distortion, f32)>,
    pub(super) faults: Vec<Fault>,
}

impl Outcome {
    /// 1 for what is not distorted, towards 0.
    pub(super) fn quality(&self) -> f32 {
        self.distortions.iter().map(|(_, strength)| 1.0 - strength).product()
    }

    /// 1 for what shows all that was asked for, towards 0.
    pub(super) fn matching(&self) -> f32 {
        (1.0 - self.faults.iter().map(|&fault| cost(fault)).sum::<f32>()).max(0.0)
    }

    /// Mean opinion score, 1 to 5.
    pub(super) fn mos(&self) -> f32 {
        1.0 + 4.0 * (QUALITY * self.quality() + MATCH * self.matching())
    }
}

fn cost(fault: Fault) -> f32 {
    match fault {
        Fault::Colour => 0.35,
        Fault::Shape | Fault::Ground => 0.25,
        Fault::Count => 0.15,
        Fault::Second | Fault::Motion => 0.1,
        Fault::Relation => 0.05,
    }
}

impl Generator {
    /// The scene that it shows where `asked` was asked for: that, one that is unrelated, or one with one or two faults.
    pub(super) fn shows(&self, asked: &Scene, rng: &mut ChaCha8Rng) -> Scene {
        let luck: f64 = rng.random();
        if luck < self.faithful {
            asked.clone()
        } else if luck < (1.0 + self.faithful) / 2.0 {
            Scene::draw(asked.motion.is_some(), rng)
        } else {
            let faults = rng.random_range(1..=2);
            asked.with_faults(faults, rng)
        }
    }

    /// One or two of the `possible` distortions with their strengths, or none in a tenth of all cases.
    pub(super) fn distorts(&self, possible: &[Distortion], rng: &mut ChaCha8Rng) -> Vec<(Distortion, f32)> {
        let count = match rng.random_range(0..10) {
            0 => 0,
            1..=6 => 1,
            _ => 2,
        };
        let mut left = possible.to_vec();
        let mut chosen = Vec::new();
        for _ in 0..count.min(left.len()) {
            let distortion = left.swap_remove(rng.random_range(0..left.len()));
            let strength = libm::pow(rng.random(), self.care);
            // Two decimals, so that the list says exactly what was done.
            chosen.push((distortion, (strength * 100.0).round() as f32 / 100.0));
        }
        chosen
    }
}
