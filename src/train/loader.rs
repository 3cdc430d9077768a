//! Items to batches of frames, ahead of whoever trains: a fixed number of threads reads, decodes, resizes and augments
//! while the last batch is being used.
//!
//! Guarantees: batches come in the order asked for; what an item looks like depends on its file, its name and the seed,
//! not on threads, order or neighbours; memory is bounded by the settings and does not grow with the data set; a file
//! that does not decode costs itself alone and is reported with its batch; dropping a run ends its threads.

mod cache;
mod decode;
mod run;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use self::cache::Cache;
use self::decode::Decode;
pub use self::run::Run;
use super::augment::Augmentation;
use super::dataset::Item;
use super::seed::rng;
use crate::media::{Cancel, Frames};

/// How a loader works, and what it may hold.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Sides of the squares that frames are resized to, each 1 to 4096 pixels.
    pub sides: Vec<u32>,
    /// What is changed at random; None gives the items as they are.
    pub augment: Option<Augmentation>,
    /// Threads, and so items decoded at once, at least 1.
    pub threads: usize,
    /// Most frames of a video, at least 1.
    pub max_frames: u32,
    /// Batches that are made ahead of the one that is asked for, at least 1.
    pub prefetch: usize,
    /// Most bytes of decoded frames that are kept for the next time that their item is asked for; 0 keeps none.
    pub cache_bytes: usize,
    /// The `pcqa-decoder` executable, which videos need.
    pub decoder: PathBuf,
}

impl Default for LoaderOptions {
    /// 448 pixels, 16 frames, a thread per core, two batches ahead, a cache of 1 GiB, the decoder beside this program.
    fn default() -> Self {
        Self {
            sides: vec![448],
            augment: None,
            threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            max_frames: 16,
            prefetch: 2,
            cache_bytes: 1 << 30,
            decoder: decoder_beside_this(),
        }
    }
}

/// Where `pcqa-decoder` is, where nobody says: beside the running program.
pub fn decoder_beside_this() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name("pcqa-decoder")
}

/// One batch.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The items that were loaded, in the batch's order.
    pub indices: Vec<usize>,
    /// Their frames: an image's one, a video's 1 to `max_frames`, at every side.
    pub frames: Vec<Frames>,
    /// The items that could not be loaded, each with its name and the reason. They are not among `indices`, which may
    /// thus be empty.
    pub failed: Vec<(usize, String)>,
    /// How long the caller waited for it.
    pub waited: Duration,
}

/// Loads items of one data set. Clones share the cache and the decoders.
#[derive(Clone)]
pub struct Loader {
    source: Arc<Source>,
    augment: Option<Arc<Augmentation>>,
    threads: usize,
    prefetch: usize,
}

impl Loader {
    /// For `items`. Where a video is among them, as many decoder processes are started as there are threads.
    ///
    /// # Errors
    /// A setting that is out of its range; decoder processes that cannot be started.
    pub fn new(items: Arc<Vec<Item>>, options: LoaderOptions) -> anyhow::Result<Self> {
        let LoaderOptions { threads, prefetch, max_frames, .. } = options;
        ensure!(threads > 0, "threads: 0 is not at least 1");
        ensure!(prefetch > 0, "prefetch: 0 is not at least 1");
        ensure!(max_frames > 0, "max_frames: 0 is not at least 1");
        ensure!(!options.sides.is_empty(), "sides: there are none");
        if let Some(side) = options.sides.iter().find(|side| !(1..=4096).contains(*side)) {
            bail!("sides: {side} is not from 1 to 4096");
        }
        options.augment.as_ref().map_or(Ok(()), Augmentation::check).context("augment")?;
        let decode = Decode::start(&items, &options)?;
        let source = Source { items, decode, cache: Cache::new(options.cache_bytes) };
        Ok(Self { source: Arc::new(source), augment: options.augment.map(Arc::new), threads, prefetch })
    }

    /// The same items as they are, from the same cache.
    pub fn without_augmentation(&self) -> Self {
        Self { augment: None, ..self.clone() }
    }

    /// The items that batches index.
    pub fn items(&self) -> &Arc<Vec<Item>> {
        &self.source.items
    }

    /// Loads `batches` of indices, in their order. `seed` decides what augmentation makes of each item; take another
    /// one for every epoch. At any time, `prefetch` batches and the one in the caller's hands are in memory, beside the
    /// cache and what each thread is decoding.
    pub fn run(&self, batches: Vec<Vec<usize>>, seed: u64) -> Run {
        Run::start(self.clone(), batches, seed)
    }

    /// One item's frames, or what is wrong with it.
    fn load(&self, index: usize, seed: u64, cancel: &Cancel) -> Result<Frames, String> {
        let Source { items, decode, cache } = &*self.source;
        let item = items.get(index).ok_or_else(|| format!("item {index}: there are {} items", items.len()))?;
        let frames = match cache.get(index) {
            Some(frames) => frames,
            None => {
                let frames = decode.frames(item, cancel).map_err(|reason| format!("{}: {reason}", item.name))?;
                let frames = Arc::new(frames);
                cache.offer(index, &frames);
                frames
            }
        };
        Ok(match &self.augment {
            Some(augment) => augment.draw(&mut rng(seed, &format!("augment/{}", item.name))).apply(&frames),
            None => Arc::unwrap_or_clone(frames),
        })
    }
}

/// What all clones of a loader share.
struct Source {
    items: Arc<Vec<Item>>,
    decode: Decode,
    cache: Cache,
}
