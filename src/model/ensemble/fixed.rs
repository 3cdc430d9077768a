//! Batches in a few fixed sizes, for devices that do best what they have done before: a GPU looks for its kernels once a
//! shape, and work that is always the same can be recorded and asked for in one call.
//!
//! Frames are padded up to the next size with what the place held before. No row of a network's result depends on
//! another row, so padding changes no score; its rows are cut off.
//!
//! Nothing here waits for a batch to be computed: while a GPU computes one, the frames of the next one are uploaded on a
//! stream of their own.

use std::cell::RefCell;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::{Device, Kind, TchError, Tensor};

use super::device::{Fault, diagnose};
use super::inputs::{Uploaded, frame_bytes, frames_at, upload};
use crate::media::Frames;
use crate::model::{ModelError, Track};
use crate::native::{self, Graph, GraphPool, Moment, Pinned, Stream};

/// Frames that are copied together, and then uploaded while the next ones are copied.
const AT_ONCE: usize = 16;

/// Threads that copy: one alone is slower than the bus.
const COPIERS: usize = 8;

/// Embeddings of each of a track's experts over each view.
pub(super) type Features = Vec<Vec<Tensor>>;

/// The sizes, and what is kept for them.
pub(super) struct FixedSizes {
    device: Device,
    /// Ascending.
    sizes: Vec<u32>,
    places: RefCell<Vec<Place>>,
    recorded: RefCell<Vec<Recorded>>,
    /// Who copies frames; none where the device's thread does.
    copiers: Option<ThreadPool>,
    /// Where frames are uploaded; none on the CPU.
    uploads: Option<Stream>,
    /// Where graphs are recorded; none where they are not.
    pool: RefCell<Option<GraphPool>>,
    /// Sizes of tracks that there is no memory to record for.
    given_up: RefCell<Vec<(Track, u32)>>,
}

/// Frames of one side, `[largest size, S, S, 3]`. On the CPU all three are the same.
struct Place {
    side: u32,
    /// In this process's memory.
    host: Pinned,
    /// On the device, where they are uploaded to while what is in `device` may still be read.
    arrived: Tensor,
    /// On the device, where the backbones read.
    device: Tensor,
    /// When `host` has been read.
    uploaded: Option<Moment>,
    /// When `arrived` has been read.
    taken: Moment,
}

/// The backbones of a track over a size.
struct Recorded {
    track: Track,
    size: u32,
    graph: Graph,
    features: Features,
}

impl FixedSizes {
    /// For batches of at most `max_frames`; with `graphs`, what a CUDA device does is recorded at first sight.
    pub(super) fn new(device: Device, max_frames: u32, graphs: bool) -> Result<Self, TchError> {
        let pool = match device {
            Device::Cuda(index) if graphs => GraphPool::new(index)
                .inspect_err(|error| tracing::warn!(%error, "no CUDA graphs: batches are asked for step by step"))
                .ok(),
            _ => None,
        };
        let copiers = (device != Device::Cpu).then(|| ThreadPoolBuilder::new().num_threads(COPIERS).build().ok());
        Ok(Self {
            device,
            copiers: copiers.flatten(),
            uploads: Stream::beside(device)?,
            sizes: sizes(max_frames),
            places: RefCell::default(),
            recorded: RefCell::default(),
            pool: RefCell::new(pool),
            given_up: RefCell::default(),
        })
    }

    /// All of them, ascending.
    pub(super) fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// Sizes of a track that are replayed.
    pub(super) fn recorded(&self, track: Track) -> usize {
        self.recorded.borrow().iter().filter(|recorded| recorded.track == track).count()
    }

    /// Whether batches of `frames` of a track are replayed.
    pub(super) fn is_recorded(&self, track: Track, frames: u32) -> bool {
        self.size_of(frames).is_some_and(|size| self.recorded.borrow().iter().any(|known| known.is(track, size)))
    }

    /// The size that a batch of so many frames is padded to.
    fn size_of(&self, frames: u32) -> Option<u32> {
        self.sizes.iter().copied().find(|&size| size >= frames)
    }

    /// What `compute` makes of the frames of `items` at `sides`, of which it is given more rows than there are frames.
    /// It must ask the same of the device each time that it is called for `track` and a size.
    pub(super) fn features(
        &self,
        track: Track,
        items: &[&Frames],
        sides: &[u32],
        compute: impl Fn(&Uploaded) -> Result<Features, ModelError>,
    ) -> Result<Features, ModelError> {
        let count: u32 = items.iter().map(|item| item.count).sum();
        let Some(size) = self.size_of(count) else {
            return compute(&upload(items, sides, self.device)?);
        };
        let uploaded = self.fill(items, sides, size)?;
        let features = match self.replay(track, size)? {
            Some(features) => features,
            None => {
                let features = compute(&uploaded)?;
                self.record(track, size, || compute(&uploaded));
                features
            }
        };
        // A copy: the next batch of this size writes over the graph's own.
        let cut = |x: Tensor| x.f_narrow(0, 0, count.into())?.f_to_dtype(x.kind(), false, true);
        let cut = |views: Vec<Tensor>| views.into_iter().map(cut).collect::<Result<_, TchError>>();
        Ok(features.into_iter().map(cut).collect::<Result<_, TchError>>()?)
    }

    /// Asks for the upload of the items' frames to the first rows of the places, `size` of which are given.
    fn fill(&self, items: &[&Frames], sides: &[u32], size: u32) -> Result<Uploaded, ModelError> {
        let mut places = self.places.borrow_mut();
        let mut uploaded = Uploaded::with_capacity(sides.len());
        for &side in sides {
            let known = places.iter().position(|place| place.side == side);
            let index = match known {
                Some(index) => index,
                None => {
                    places.push(Place::new(side, self.sizes.last().copied().unwrap_or(size), self.device)?);
                    places.len() - 1
                }
            };
            let place = &mut places[index];
            place.fill(items, self.copiers.as_ref(), self.uploads.as_ref())?;
            uploaded.push((side, place.device.f_narrow(0, 0, size.into())?));
        }
        Ok(uploaded)
    }

    fn replay(&self, track: Track, size: u32) -> Result<Option<Features>, ModelError> {
        let recorded = self.recorded.borrow();
        let Some(known) = recorded.iter().find(|known| known.is(track, size)) else {
            return Ok(None);
        };
        known.graph.replay()?;
        Ok(Some(known.features.iter().map(|views| views.iter().map(Tensor::shallow_clone).collect()).collect()))
    }

    /// Records `run`, which has just run. Where that fails nothing is lost but time, once: smaller sizes may find memory
    /// where this one has not, and after any other error no more is recorded.
    fn record(&self, track: Track, size: u32, run: impl Fn() -> Result<Features, ModelError>) {
        let (mut pool, mut given_up) = (self.pool.borrow_mut(), self.given_up.borrow_mut());
        let Device::Cuda(index) = self.device else { return };
        if given_up.contains(&(track, size)) {
            return;
        }
        for is_last in [false, true] {
            let Some(graphs) = pool.as_ref() else { return };
            let captured = native::wait_for(self.device).map_err(ModelError::from).and_then(|()| graphs.capture(&run));
            let error = match captured {
                Ok((graph, features)) => {
                    self.recorded.borrow_mut().push(Recorded { track, size, graph, features });
                    return;
                }
                Err(error) => error,
            };
            let is_of_memory = diagnose(self.device, &error) == Fault::Memory;
            if !is_of_memory {
                *pool = None;
            } else if self.recorded.borrow().is_empty() {
                // What nobody uses any more ends, and its name with it.
                *pool = GraphPool::new(index).ok();
            }
            if is_last || !is_of_memory {
                tracing::warn!(?track, frames = size, %error, "no CUDA graph of this size");
                given_up.push((track, size));
                return;
            }
            // Graphs take nothing of what other work has left unused, which has been given back now.
        }
    }
}

impl Recorded {
    fn is(&self, track: Track, size: u32) -> bool {
        (self.track, self.size) == (track, size)
    }
}

impl Place {
    fn new(side: u32, rows: u32, device: Device) -> Result<Self, ModelError> {
        let shape: [i64; 4] = [rows.into(), side.into(), side.into(), 3];
        let host = Pinned::new(Tensor::f_zeros(shape, (Kind::Uint8, Device::Cpu))?, device);
        let there = |host: &Tensor| match device {
            Device::Cpu => Ok(host.shallow_clone()),
            _ => Tensor::f_zeros(shape, (Kind::Uint8, device)),
        };
        let (arrived, device_frames) = (there(&host)?, there(&host)?);
        // No upload may overtake the zeros.
        Ok(Self { side, host, arrived, device: device_frames, uploaded: None, taken: Moment::mark(device)? })
    }

    /// Some frames are on their way while the next ones are copied. What is asked of the device after this reads them.
    fn fill(
        &mut self,
        items: &[&Frames],
        copiers: Option<&ThreadPool>,
        uploads: Option<&Stream>,
    ) -> Result<(), ModelError> {
        let bytes = frame_bytes(self.side);
        let mut frames = Vec::new();
        for item in items {
            frames.extend(frames_at(item, self.side)?);
        }
        // The processor writes where the last upload has read, and the upload where the last batch has taken.
        if let Some(uploaded) = &self.uploaded {
            uploaded.wait()?;
        }
        let beside = uploads.map(Stream::enter).transpose()?;
        self.taken.hold()?;
        for (index, frames) in frames.chunks(AT_ONCE).enumerate() {
            let row = index * AT_ONCE;
            let host = native::bytes_mut(&mut self.host).unwrap_or_default();
            let host = host.get_mut(row * bytes..).unwrap_or_default();
            let copy = |(place, frame): (&mut [u8], &&[u8])| place.copy_from_slice(frame);
            match copiers {
                Some(copiers) => copiers.install(|| host.par_chunks_exact_mut(bytes).zip(frames).for_each(copy)),
                None => host.chunks_exact_mut(bytes).zip(frames).for_each(copy),
            }
            if beside.is_some() {
                let (row, count) = (row as i64, frames.len() as i64);
                native::copy(&mut self.arrived.f_narrow(0, row, count)?, &self.host.f_narrow(0, row, count)?)?;
            }
        }
        if let Some(beside) = beside {
            let device = self.device.device();
            let uploaded = self.uploaded.insert(Moment::mark(device)?);
            drop(beside);
            uploaded.hold()?;
            let count = frames.len() as i64;
            native::copy(&mut self.device.f_narrow(0, 0, count)?, &self.arrived.f_narrow(0, 0, count)?)?;
            self.taken = Moment::mark(device)?;
        }
        Ok(())
    }
}

impl Drop for Place {
    /// libtorch knows of one stream that memory is used on: it might give `arrived` to others while it is written.
    fn drop(&mut self) {
        if let Some(uploaded) = &self.uploaded {
            let _ = uploaded.wait();
        }
    }
}

/// 1, 2, 3, 4, 6, 8, 12, 16 and so on: at most a third of a batch is padding. The last one is `max`.
fn sizes(max: u32) -> Vec<u32> {
    let powers = (0..u32::BITS).map(|power| 1 << power);
    let mut sizes: Vec<u32> =
        powers.flat_map(|power: u32| [power, power / 2 * 3]).filter(|&n| 0 < n && n < max).collect();
    sizes.push(max);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sizes_of_the_default_batch() {
        assert_eq!(sizes(64), [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]);
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(40), [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40]);
    }

    proptest! {
        #[test]
        fn at_most_a_third_of_a_batch_is_padding(max in 1u32..100_000, part in 0.0..1.0f64) {
            let sizes = sizes(max);
            let count = 1 + ((f64::from(max) - 1.0) * part) as u32;
            let size = *sizes.iter().find(|&&size| size >= count).unwrap();
            prop_assert!(3 * (size - count) <= size, "{} of {}", count, size);
            prop_assert!(sizes.is_sorted());
            prop_assert_eq!(*sizes.last().unwrap(), max);
        }
    }
}
