//! The pool of sandboxed `pcqa-decoder` processes and the protocol spoken with them.
//!
//! Guarantees: at most `workers` videos are decoded at once; every call ends by its deadline, and some 20 ms after it is
//! cancelled; a worker that crashes, hangs or is killed costs the request that it held and is replaced when next needed;
//! workers die with this process.
//!
//! A video that takes its worker over can, until the worker is replaced (after a refusal as corrupt, a crash, a passed
//! deadline, a cancel, a word out of turn, or half an hour of work), return wrong frames for the videos that the same
//! worker gets next, or words from an earlier one as the reason of a refusal, a few hundred characters at a time. It
//! reaches no file, no network and no other process. Who cannot accept that among its callers gives each of them a
//! server.

mod pool;
mod process;
pub mod protocol;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use self::pool::Places;
use self::process::Silence;
use self::protocol::{Decoded, MAX_REASON, Refusal, Request};
use super::sniff::{Kind, sniff};
use super::{Cancel, FrameStack, Frames, MediaError, VideoLimits};

const FORMATS: &str = "MP4, MOV, WebM, MKV, AVI or GIF";

/// Largest side of a resized square in pixels, and most sides at once.
const MAX_SIDE: u32 = 4096;
const MAX_SIDES: usize = 16;

/// How the pool runs.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// The `pcqa-decoder` executable.
    pub program: PathBuf,
    /// Worker processes, and so videos decoded at once.
    pub workers: usize,
    /// Address space of one worker in bytes, FFmpeg's libraries (some 200 MiB) included.
    pub max_memory: u64,
    /// Limits of every video.
    pub limits: VideoLimits,
}

/// A decoded clip and the time it took.
#[derive(Debug, Clone)]
pub struct DecodedVideo {
    /// The chosen frames, in presentation order.
    pub frames: Frames,
    /// Waiting for a worker, demuxing and decoding.
    pub decode: Duration,
    /// Resizing.
    pub resize: Duration,
}

/// A fixed number of worker processes, restarted when one dies.
#[derive(Debug)]
pub struct DecoderPool {
    places: Places,
    limits: VideoLimits,
    max_memory: u64,
}

impl DecoderPool {
    /// Starts the workers and waits until each has answered once.
    pub fn start(config: DecoderConfig) -> Result<Self, MediaError> {
        let (limits, max_memory) = (config.limits.clone(), config.max_memory);
        Ok(Self { places: Places::start(config)?, limits, max_memory })
    }

    /// Decodes `video` to at most `limits.max_frames_used` frames at every one of `sides`. Blocks; ends by `deadline`,
    /// and soon after `cancel` is set: the worker that was at it is killed and its successor started.
    pub fn decode(
        &self,
        video: &[u8],
        sides: &[u32],
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<DecodedVideo, MediaError> {
        let begun = Instant::now();
        self.check_size(video)?;
        check_kind(video)?;
        let capacity = self.output_capacity(sides)?;

        let no_worker = |silence: Silence| silence.error(begun, MediaError::Worker);
        let mut place = self.places.take(deadline, cancel).map_err(no_worker)?;
        let process = place.process(deadline, cancel).map_err(no_worker)?;

        let no_memory = |error: io::Error| MediaError::Worker(format!("cannot make a memory file: {error}"));
        let input = input_file(video).map_err(no_memory)?;
        let output = output_file(capacity).map_err(no_memory)?;
        let reply = process.ask(self.request(sides), input.as_fd(), output.as_fd(), deadline, cancel);
        match reply {
            Ok(Ok(Decoded { frames, resize_us })) => {
                let frames = self.read_frames(&output, frames, sides).inspect_err(|_| place.discard("broken"))?;
                let elapsed = begun.elapsed();
                let resize = Duration::from_micros(resize_us).min(elapsed);
                Ok(DecodedVideo { frames, decode: elapsed - resize, resize })
            }
            Ok(Err(refusal)) => {
                // Damaged bytes may have damaged the worker. A new one costs a tenth of a second of CPU time, less than
                // the decoding of most videos, so that nobody wears the pool out by damage sooner than by good clips.
                if matches!(refusal, Refusal::Corrupt { .. }) {
                    place.renew("corrupt");
                }
                Err(self.error(refusal))
            }
            Err(silence) => {
                match silence {
                    Silence::Cancelled => place.renew("cancelled"),
                    Silence::Deadline => place.discard("deadline"),
                    Silence::Broken(_) => place.discard("broken"),
                }
                Err(silence.error(begun, |reason| corrupt(&reason)))
            }
        }
    }

    fn check_size(&self, video: &[u8]) -> Result<(), MediaError> {
        let bytes = video.len() as u64;
        match bytes {
            0 => Err(MediaError::Empty),
            _ if bytes > self.limits.max_bytes => Err(MediaError::TooManyBytes { bytes, limit: self.limits.max_bytes }),
            _ => Ok(()),
        }
    }

    /// Bytes of all frames at all sides, were the clip long enough for the full number.
    fn output_capacity(&self, sides: &[u32]) -> Result<u64, MediaError> {
        if sides.is_empty() || sides.len() > MAX_SIDES || sides.iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            return Err(MediaError::Worker(format!("sides {sides:?} are not 1 to {MAX_SIDES} of 1 to {MAX_SIDE}")));
        }
        let frames = u64::from(self.limits.max_frames_used);
        let capacity = sides.iter().map(|&side| frames * stack_bytes(side, 1)).sum();
        if capacity > self.max_memory {
            return Err(MediaError::TooMuchMemory { limit: self.max_memory });
        }
        Ok(capacity)
    }

    fn request(&self, sides: &[u32]) -> Request {
        Request {
            // The worker's count, which it gets on its way.
            number: 0,
            sides: sides.to_vec(),
            max_bytes: self.limits.max_bytes,
            max_pixels: self.limits.max_pixels,
            // JSON knows no infinity.
            max_seconds: self.limits.max_seconds.min(f64::from(u32::MAX)),
            max_frames: self.limits.max_frames,
            max_frames_used: self.limits.max_frames_used,
        }
    }

    /// Copies the frames out of `output`, whose size the seals have kept.
    fn read_frames(&self, output: &File, count: u32, sides: &[u32]) -> Result<Frames, MediaError> {
        if !(1..=self.limits.max_frames_used).contains(&count) {
            return Err(corrupt("the worker returned an impossible number of frames"));
        }
        let mut offset = 0;
        let mut stacks = Vec::with_capacity(sides.len());
        for &side in sides {
            let mut rgb = vec![0; stack_bytes(side, count) as usize];
            output.read_exact_at(&mut rgb, offset).map_err(|_| corrupt("the worker returned too few bytes"))?;
            offset += rgb.len() as u64;
            stacks.push(FrameStack { side, rgb });
        }
        Ok(Frames { count, stacks })
    }

    fn error(&self, refusal: Refusal) -> MediaError {
        let VideoLimits { max_pixels, max_seconds, max_frames, .. } = self.limits;
        match refusal {
            Refusal::UnknownFormat => MediaError::UnknownFormat { expected: FORMATS },
            Refusal::TooManyPixels { width, height } => MediaError::TooManyPixels { width, height, limit: max_pixels },
            Refusal::TooLong { seconds } => MediaError::TooLong { seconds, limit: max_seconds },
            Refusal::TooManyFrames => MediaError::TooManyFrames { limit: max_frames },
            Refusal::NoVideoStream => MediaError::NoVideoStream,
            Refusal::TooMuchMemory => MediaError::TooMuchMemory { limit: self.max_memory },
            Refusal::Corrupt { reason } => corrupt(&reason),
        }
    }
}

/// Refuses pictures by name; what else is no video, a worker finds out.
fn check_kind(video: &[u8]) -> Result<(), MediaError> {
    match sniff(video) {
        Some(kind @ (Kind::Png | Kind::Jpeg | Kind::WebP | Kind::Bmp | Kind::Tiff | Kind::Avif | Kind::Heic)) => {
            Err(MediaError::WrongKind { found: kind.name().into(), expected: FORMATS })
        }
        _ => Ok(()),
    }
}

fn stack_bytes(side: u32, frames: u32) -> u64 {
    u64::from(side) * u64::from(side) * 3 * u64::from(frames)
}

/// The reason comes from a process that may have been taken over: it is cut and stripped before it goes anywhere.
fn corrupt(reason: &str) -> MediaError {
    let reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    MediaError::Corrupt { reason }
}

fn input_file(video: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("video", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(video)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

fn output_file(capacity: u64) -> io::Result<File> {
    let file = File::from(memfd_create("frames", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(capacity)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}
