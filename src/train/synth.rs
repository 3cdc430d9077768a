//! `pcqa-train synth`: data with a known truth. Scenes of simple objects are rendered for prompts by made-up generators
//! that show more or less what was asked for ([`scene`]) and break it more or less ([`distort`]); a documented formula
//! (`label`) makes the MOS of what they did. The same seed gives the same files on any machine, and an item does not
//! depend on how many there are.

mod avi;
mod canvas;
mod clutter;
pub mod distort;
mod ground;
mod item;
mod label;
mod lesson;
mod outline;
mod photographs;
pub mod scene;
mod stage;

pub use self::label::TRUTH;
pub use self::lesson::{Lesson, lessons};

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, anyhow, bail};

use self::item::{Item, Line, Make};
use self::scene::Scene;
use super::progress;
use super::seed::seed;
use crate::model::Track;

/// Name of the list in the folder that is written.
pub const LIST: &str = "info.csv";

/// What `pcqa-train synth` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Every seed gives other data, the same seed always the same, on any machine.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Images to render: images/*.png. Four in a row share a prompt.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub images: u32,
    /// Clips to render: videos/*.avi, Motion JPEG, 8 frames in a second. Four in a row share a prompt.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub videos: u32,
    /// Folder of pictures: each is cropped to a square, resized, and written whole and under every distortion of a
    /// picture at five rising strengths (photographs/*.png). Its name is its prompt.
    #[arg(long, value_name = "DIR")]
    pub photographs: Option<PathBuf>,
    /// Scenes to draw from: by its words every scene is in one of two parts, whatever the seed, so that nobody who learns
    /// from the one part has seen a prompt of the other.
    #[arg(long, value_enum, default_value_t = Part::All)]
    pub part: Part,
    /// Width and height of all that is written, in pixels. The bundle that is compiled in learnt from the default.
    #[arg(long, value_name = "PIXELS", default_value_t = 56, value_parser = clap::value_parser!(u32).range(16..=2048))]
    pub side: u32,
    /// Folder to write, which must be absent or empty; its list is info.csv.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Which scenes are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Any.
    All,
    /// Four fifths of them, to learn from.
    Train,
    /// The other fifth.
    Test,
}

impl Part {
    pub(super) fn has(self, scene: &Scene) -> bool {
        let in_test = seed(0, &scene.words()).is_multiple_of(5);
        match self {
            Self::All => true,
            Self::Train => !in_test,
            Self::Test => in_test,
        }
    }
}

/// Writes the data that `arguments` ask for, its list last, and says so.
pub fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let Arguments { seed, images, videos, photographs, part, side, out } = arguments;
    let photographs = match photographs {
        Some(folder) => photographs::read(folder, *side)?,
        None => Vec::new(),
    };
    let mut items: Vec<Item> = (0..*images).map(|number| Item::Drawn(Track::Image, number)).collect();
    items.extend((0..*videos).map(|number| Item::Drawn(Track::Video, number)));
    for photograph in &photographs {
        items.extend(photographs::ladder().map(|distortion| Item::Photograph(photograph, distortion)));
    }
    if items.is_empty() {
        bail!("nothing to make: give --images, --videos or --photographs");
    }
    let folders = [("images", *images > 0), ("videos", *videos > 0), ("photographs", !photographs.is_empty())];
    prepare(out, folders.into_iter().filter_map(|(folder, wanted)| wanted.then_some(folder)))?;
    let lines = make_all(&items, &Make { seed: *seed, part: *part, side: *side, out })?;
    write_list(&out.join(LIST), lines)?;
    Ok(format!("{} items, listed in {}\n", items.len(), out.join(LIST).display()))
}

fn prepare<'a>(out: &Path, folders: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let place = || format!("{}: cannot be created", out.display());
    fs::create_dir_all(out).with_context(place)?;
    if fs::read_dir(out).with_context(place)?.next().is_some() {
        bail!("{}: is not empty", out.display());
    }
    for folder in folders {
        fs::create_dir(out.join(folder)).with_context(place)?;
    }
    Ok(())
}

/// On as many threads as there are processors; the first failure ends it.
fn make_all(items: &[Item], make: &Make) -> anyhow::Result<Vec<Line>> {
    let bar = progress::count("rendering", items.len() as u64);
    let next = AtomicUsize::new(0);
    let made = Mutex::new(Vec::new());
    let work = || -> anyhow::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return Ok(()) };
            let line = make.item(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
            made.lock().map_err(|_| anyhow!("a thread that rendered has panicked"))?.push((number, line));
            bar.inc(1);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for helper in helpers {
            let theirs = helper.join().unwrap_or_else(|_| Err(anyhow!("a thread that rendered has panicked")));
            result = result.and(theirs);
        }
        result
    })?;
    bar.finish_and_clear();
    let mut made = made.into_inner().map_err(|_| anyhow!("a thread that rendered has panicked"))?;
    made.sort_by_key(|(number, _)| *number);
    Ok(made.into_iter().map(|(_, line)| line).collect())
}

fn write_list(path: &Path, lines: Vec<Line>) -> anyhow::Result<()> {
    let place = || format!("{}: cannot be written", path.display());
    let mut list = csv::Writer::from_path(path).with_context(place)?;
    for line in lines {
        list.serialize(line).with_context(place)?;
    }
    list.flush().with_context(place)
}
