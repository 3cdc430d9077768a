//! The table of options: names, types, defaults and help.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use super::network::{ConnectionOptions, TrustOptions};
use super::observe::ObserveOptions;
use crate::media::{ImageLimits, VideoLimits};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct Config {
    /// Address and port to serve gRPC on. Port 0 takes a free one; the log says which (`listening listen=…`)
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50051", help_heading = "Service")]
    pub listen: SocketAddr,
    #[command(flatten, next_help_heading = "Trust")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub trust: TrustOptions,
    #[command(flatten, next_help_heading = "Connections")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub connections: ConnectionOptions,
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
    #[command(flatten, next_help_heading = "Metrics and traces")]
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub observe: ObserveOptions,
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
    /// Load the bundle again when its directory has changed, as SIGHUP does. Loaded and warmed up beside the old one,
    /// which is served until then and stays where the new one is refused
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false",
          action = clap::ArgAction::Set)]
    pub watch_bundle: bool,
    /// Where to score: `auto`, or one or more devices with commas between them, each with a worker of its own: `cpu`,
    /// or `cuda:N` for the N-th GPU (`cuda:0,1` is `cuda:0,cuda:1`). `auto` is the first GPU where there is one that
    /// libtorch can use, else `cpu`
    #[arg(long, value_name = "DEVICE[,DEVICE...]", default_value = "auto")]
    pub device: DeviceChoice,
    /// Number format of the networks: `auto` is bf16 on GPUs of compute capability 8.0 and above where the bundle is
    /// calibrated for it, else f32. f32 is never TF32
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: DtypeChoice,
    /// Record what a GPU does once for every batch size, as CUDA graphs, and then ask for it in one call
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          action = clap::ArgAction::Set)]
    pub cuda_graphs: bool,
    /// On a GPU in bf16, use kernels of pcqa's own between the matrix products, compiled at the start. Without, and where
    /// they cannot be had, libtorch's: the same scores within bf16's precision, more slowly
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "true",
          action = clap::ArgAction::Set)]
    pub cuda_kernels: bool,
    /// Most memory to take of every GPU, in bytes. Default: all. Where it does not suffice, batches get smaller
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_bytes: Option<NonZeroU64>,
    /// Score the mean over the frames and their mirror image (test-time augmentation). Twice the work; the bundle must
    /// be calibrated for it
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false",
          action = clap::ArgAction::Set)]
    pub tta: bool,
    /// CPU threads of one operation of the networks, on every device. Default: one per core
    #[arg(long, value_name = "COUNT", default_value_t = cores())]
    pub threads: NonZeroUsize,
    /// Most memory for the embeddings of prompts that have been scored, in bytes on every device; a prompt that comes
    /// again costs nothing. 0 keeps none
    #[arg(long, value_name = "BYTES", default_value = "67108864")]
    pub text_cache_bytes: u64,
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

/// How much at once, and how long. What several callers want, each connection gets at most as much of as it leaves free:
/// one alone half of it, so that the next always finds some.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct TimeOptions {
    /// Calls in progress, over all connections; more are refused with RESOURCE_EXHAUSTED. One connection has at most as
    /// many as it leaves free
    #[arg(long, value_name = "COUNT", default_value = "1024")]
    pub max_calls: NonZeroU64,
    /// Bytes of requests that are being received or wait to be decoded, over all connections; more are refused with
    /// RESOURCE_EXHAUSTED. Bounds memory. One connection has at most as many as it leaves free; at least twice
    /// --max-message-bytes
    #[arg(long, value_name = "BYTES", default_value = "1073741824")]
    pub max_in_flight_bytes: NonZeroU64,
    /// Items of one ScoreStream call in progress; the call is not read further until one is answered
    #[arg(long, value_name = "COUNT", default_value = "16")]
    pub max_stream_in_flight: NonZeroUsize,
    /// Frames that are being decoded or wait for a device (an image is 1, a video up to 16), over all connections; more
    /// are refused with RESOURCE_EXHAUSTED before anything is decoded. One connection has at most as many as it leaves
    /// free; at least twice --max-rank-images
    #[arg(long, value_name = "COUNT", default_value = "1024")]
    pub max_queue_frames: NonZeroU64,
    /// Most frames that a device takes at once; at least those of the bundle's longest video
    #[arg(long, value_name = "COUNT", default_value = "64")]
    pub max_batch_frames: NonZeroU32,
    /// Longest that a free device waits for a batch to fill, in seconds. It waits only while items are being decoded
    /// that could join. 0 never waits
    #[arg(long, value_name = "SECONDS", default_value = "0.005", value_parser = seconds_or_none)]
    pub max_queue_delay_seconds: Seconds,
    /// Time for a call whose caller set no deadline, in seconds; for each item of a ScoreStream call
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub default_timeout_seconds: Seconds,
    /// Most time for a call whatever deadline its caller set, in seconds. A ScoreStream call as a whole may take longer, but
    /// ends when its caller neither sends an item nor takes an answer for this long
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub max_timeout_seconds: Seconds,
    /// Time to go on serving after SIGTERM or SIGINT, with health at NOT_SERVING, in seconds: as long as load balancers
    /// may take to send nobody here any more. 0 where there is none
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds_or_none)]
    pub drain_wait_seconds: Seconds,
    /// Time to finish calls in progress after that, in seconds; then they are cut. Either way the exit code is 0. A second
    /// signal ends at once, with 1
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the CPU.
    Auto,
    /// These devices, never none; the same one may stand several times.
    These(Vec<DeviceName>),
}

/// One device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU.
    Cpu,
    /// The N-th GPU.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            list => {
                let mut devices: Vec<DeviceName> = Vec::new();
                for name in list.split(',') {
                    // Behind a GPU a number alone is another.
                    let another = name.parse().ok().filter(|_| matches!(devices.last(), Some(DeviceName::Cuda(_))));
                    devices.push(another.map_or_else(|| name.parse(), |index| Ok(DeviceName::Cuda(index)))?);
                }
                Ok(Self::These(devices))
            }
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, or cpu or cuda:N or several of them with commas between".to_owned()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::These(devices) => {
                let names: Vec<String> = devices.iter().map(DeviceName::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
    /// What suits the devices and the bundle.
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

/// As [`Seconds`], with 0.
fn seconds_or_none(text: &str) -> Result<Seconds, String> {
    match text.parse() {
        Ok(0.0) => Ok(Seconds(0.0)),
        _ => text.parse().map_err(|_| format!("expected a number of seconds, 0 to {}", Seconds::MAX)),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty; `off` logs nothing".to_owned());
    }
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
