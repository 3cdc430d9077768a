//! The table of options: names, types, defaults and help.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use crate::media::{ImageLimits, VideoLimits};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct Config {
    /// Address and port to serve gRPC on. Port 0 takes a free one; the log says which (`listening listen=…`)
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50051", help_heading = "Service")]
    pub listen: SocketAddr,
    #[command(flatten, next_help_heading = "Model")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub model: ModelOptions,
    #[command(flatten, next_help_heading = "Decoding")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub decoding: DecodingOptions,
    #[command(flatten, next_help_heading = "Limits of one request (GetModel lists them to callers)")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitOptions,
    #[command(flatten, next_help_heading = "Load and time")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub time: TimeOptions,
    #[command(flatten, next_help_heading = "Log")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub log: LogOptions,
}

/// What scores.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct ModelOptions {
    /// Directory of the bundle to serve. Without it the demo bundle that is compiled in: it shows the path, it is no
    /// judge of art
    #[arg(long, value_name = "DIRECTORY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// Where to score: `auto` or `cpu`. This version scores on the CPU and refuses `cuda:N`, the N-th GPU
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Number format of the networks: `auto` is f32
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: DtypeChoice,
    /// Score the mean over the frames and their mirror image (test-time augmentation). Twice the work; the bundle must
    /// be calibrated for it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = clap::ArgAction::Set)]
    pub tta: bool,
    /// CPU threads of one operation of the networks. Default: one per core
    #[arg(long, value_name = "COUNT", default_value_t = cores())]
    pub threads: NonZeroUsize,
}

/// Who decodes.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct DecodingOptions {
    /// The `pcqa-decoder` executable. Default: beside this one
    #[arg(long, value_name = "FILE", default_value_os_t = decoder_beside_this())]
    pub decoder: PathBuf,
    /// Decoder processes, and so videos decoded at once. Default: one per core
    #[arg(long, value_name = "COUNT", default_value_t = cores())]
    pub decoder_workers: NonZeroUsize,
    /// Most memory of one decoder process, in bytes of address space
    #[arg(long, value_name = "BYTES", default_value = "2147483648")]
    pub decoder_memory_bytes: NonZeroU64,
    /// Images decoded at once. Default: one per core. Their memory is at most this many times 20 bytes per pixel of
    /// --max-image-pixels and 64 MiB
    #[arg(long, value_name = "COUNT", default_value_t = cores())]
    pub decode_threads: NonZeroUsize,
}

/// What is accepted.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct LimitOptions {
    /// Longest gRPC message, in bytes. Callers may have to raise their own limit, often 4 MiB, too
    #[arg(long, value_name = "BYTES", default_value = "67108864")]
    pub max_message_bytes: NonZeroU64,
    /// Longest prompt, in bytes of UTF-8
    #[arg(long, value_name = "BYTES", default_value = "16384")]
    pub max_prompt_bytes: NonZeroU64,
    /// Longest encoded image, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = non_zero(ImageLimits::default().max_bytes))]
    pub max_image_bytes: NonZeroU64,
    /// Largest image, in pixels (width times height); no side may exceed 65535. One takes up to 20 bytes per pixel
    /// and 64 MiB while it is decoded, so that --decode-threads of them bound the memory
    #[arg(long, value_name = "PIXELS", default_value_t = non_zero(ImageLimits::default().max_pixels))]
    pub max_image_pixels: NonZeroU64,
    /// Longest encoded video, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = non_zero(VideoLimits::default().max_bytes))]
    pub max_video_bytes: NonZeroU64,
    /// Largest frame of a video, in pixels (width times height)
    #[arg(long, value_name = "PIXELS", default_value_t = non_zero(VideoLimits::default().max_pixels))]
    pub max_video_pixels: NonZeroU64,
    /// Longest video, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(VideoLimits::default().max_seconds))]
    pub max_video_seconds: Seconds,
    /// Most frames that a video may have (they are counted; at most the bundle's number is decoded)
    #[arg(long, value_name = "COUNT", default_value_t = non_zero(VideoLimits::default().max_frames))]
    pub max_video_frames: NonZeroU64,
    /// Most images in one RankImages call
    #[arg(long, value_name = "COUNT", default_value = "32")]
    pub max_rank_images: NonZeroU32,
}

/// How much at once, and how long.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct TimeOptions {
    /// Calls in progress, over all connections; more are refused with RESOURCE_EXHAUSTED. Bounds memory: each call may
    /// hold one message of `max_message_bytes`, and all ScoreStream calls together as many items in progress
    #[arg(long, value_name = "COUNT", default_value = "128")]
    pub max_calls: NonZeroUsize,
    /// Items of one ScoreStream call in progress; the call is not read further until one is answered. Over all
    /// ScoreStream calls there are at most `max_calls` items in progress
    #[arg(long, value_name = "COUNT", default_value = "16")]
    pub max_stream_in_flight: NonZeroUsize,
    /// Frames that may wait for the device (an image is 1, a video up to 16); more are refused with RESOURCE_EXHAUSTED
    #[arg(long, value_name = "COUNT", default_value = "512")]
    pub max_queue_frames: NonZeroU64,
    /// Time for a call whose caller set no deadline, in seconds; for each item of a ScoreStream call
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub default_timeout_seconds: Seconds,
    /// Most time for a call whatever deadline its caller set, in seconds. A ScoreStream call as a whole may take longer, but
    /// ends when its caller neither sends an item nor takes an answer for this long
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub max_timeout_seconds: Seconds,
    /// Time to finish calls in progress after SIGTERM or SIGINT, in seconds; a second signal ends at once
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub drain_grace_seconds: Seconds,
}

/// What is written to standard error.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct LogOptions {
    /// What to log: a level, or levels by module, e.g. `info,pcqa=debug`. Prompts and media are never logged
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,
    /// How to log: lines for people or one JSON object per line
    #[arg(long, value_enum, default_value = "pretty")]
    pub log_format: LogFormat,
}

/// A positive number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct Seconds(pub f64);

impl Seconds {
    /// The most that makes sense: about 115 days.
    const MAX: f64 = 1e7;

    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds) if seconds > 0.0 && seconds <= Self::MAX => Ok(Self(seconds)),
            _ => Err(format!("expected a number of seconds over 0, at most {}", Self::MAX)),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// What suits the server; the CPU in this version.
    Auto,
    /// The CPU.
    Cpu,
    /// The N-th GPU. Refused when loading in this version.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu or cuda:N".to_owned()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Number format of the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeChoice {
    /// What suits the device: f32 on the CPU.
    Auto,
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Pretty,
    /// One JSON object per line.
    Json,
}

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn non_zero(default: u64) -> NonZeroU64 {
    NonZeroU64::new(default).unwrap_or(NonZeroU64::MIN)
}

fn decoder_beside_this() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    here.with_file_name("pcqa-decoder")
}
