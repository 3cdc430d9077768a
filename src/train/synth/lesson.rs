//! Pictures with all that is known of them, for those who learn to see.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::canvas::Canvas;
use super::distort::{Distortion, distort};
use super::label::{CLUTTER_EVERY, GENERATORS, Outcome};
use super::scene::{Scene, TRAITS};
use super::stage::Stage;
use super::{Part, clutter};
use crate::train::seed::rng;

/// One picture.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// Packed RGB of a square.
    pub rgb: Vec<u8>,
    /// The traits of what it shows; height and size of the first objects, and the mean brightness, which change from
    /// frame to frame of a clip; and the strength of every distortion of a picture.
    pub numbers: Vec<f32>,
    /// What it shows, where that is no clutter.
    scene: Option<Scene>,
}

impl Lesson {
    /// A prompt that may have been behind the picture, of those that may be learnt from, and how well it matches: 0 to 1.
    pub fn prompt(&self, rng: &mut ChaCha8Rng) -> (String, f32) {
        loop {
            let generator = &GENERATORS[rng.random_range(0..GENERATORS.len())];
            let (asked, faults) = match &self.scene {
                // Faults are the same both ways: what was asked for is drawn from what is shown.
                Some(scene) => {
                    let asked = generator.shows(scene, rng);
                    let faults = asked.faults(scene);
                    (asked, faults)
                }
                None => {
                    let asked = Scene::draw(false, rng);
                    let faults = asked.possible_faults();
                    (asked, faults)
                }
            };
            if Part::Train.has(&asked) {
                let outcome = Outcome { distortions: Vec::new(), faults };
                return (asked.prompt(rng), outcome.matching());
            }
        }
    }
}

/// `count` pictures of `side * side` pixels, of scenes that may be learnt from, broken by all generators alike.
pub fn lessons(seed: u64, count: u32, side: u32) -> Vec<Lesson> {
    let next = AtomicU32::new(0);
    let work = || {
        let mut made = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return made;
            }
            made.push((number, lesson(seed, number, side)));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut made = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut made = work();
        for helper in helpers {
            made.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        made
    });
    made.sort_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, lesson)| lesson).collect()
}

fn lesson(seed: u64, number: u32, side: u32) -> Lesson {
    let mut rng = rng(seed, &format!("lesson/{number}"));
    let seen = match rng.random_ratio(1, CLUTTER_EVERY) {
        true => Seen::clutter(side, &mut rng),
        // Every third one is a moment of a clip.
        false => Seen::scene(number % 3 == 2, side, &mut rng),
    };
    let generator = &GENERATORS[rng.random_range(0..GENERATORS.len())];
    let distortions = generator.distorts(Distortion::STILL, &mut rng);
    let mut picture = [seen.picture];
    distort(&mut picture, &distortions, &mut rng);
    let [picture] = picture;
    let rgb: Vec<u8> = picture.lit(seen.light).to_bytes();

    let strength = |distortion: &Distortion| {
        distortions.iter().find(|(other, _)| other == distortion).map_or(0.0, |(_, strength)| *strength)
    };
    let brightness = rgb.iter().map(|&value| f64::from(value)).sum::<f64>() / (255.0 * rgb.len() as f64);
    let mut numbers = seen.scene.as_ref().map_or([0.0; TRAITS], Scene::traits).to_vec();
    numbers.extend(seen.first);
    numbers.push(brightness as f32);
    numbers.extend(Distortion::STILL.iter().map(strength));
    Lesson { rgb, numbers, scene: seen.scene }
}

/// A picture before it is broken.
struct Seen {
    scene: Option<Scene>,
    picture: Canvas,
    /// Height and size of the first objects; what they would be on average where there are none.
    first: [f32; 2],
    light: f32,
}

impl Seen {
    fn clutter(side: u32, rng: &mut ChaCha8Rng) -> Self {
        Self { scene: None, picture: clutter::paint(side as usize, rng), first: [0.5, 0.11], light: 1.0 }
    }

    fn scene(moving: bool, side: u32, rng: &mut ChaCha8Rng) -> Self {
        let (staged, scene) = loop {
            let staged = Scene::draw(moving, rng);
            // One moment does not say how things move.
            let scene = Scene { motion: None, ..staged.clone() };
            if [&staged, &scene].iter().all(|scene| Part::Train.has(scene)) {
                break (staged, scene);
            }
        };
        let stage = Stage::new(&staged, side as usize, rng);
        let (time, light) = if moving { (rng.random(), rng.random_range(0.4..1.6)) } else { (0.5, 1.0) };
        let (picture, first) = (stage.paint(time), stage.first(scene.count, time));
        Self { scene: Some(scene), picture, first, light }
    }
}
