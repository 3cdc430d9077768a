//! The command line. Its help is the manual.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tonic::transport::Uri;

use super::bench::{self, BenchArgs};
use super::call::Policy;
use crate::proto::Priority;

const EXAMPLES: &str = "\
Examples:
  pcqa info
  pcqa score fox.png clip.mp4 --prompt \"a red fox in the snow\"
  pcqa score renders/ --prompt \"a red fox in the snow\" --output csv --out scores.csv
  pcqa score --from items.jsonl --concurrency 32 --output jsonl > scores.jsonl
  pcqa rank a.png b.png c.png --prompt \"a red fox in the snow\"
  pcqa bench --sweep --plot saturation.svg
  pcqa --server http://gpu-host:50051 info --output json
  pcqa --server https://gpu-host:50051 --tls-ca ca.pem --key-file key.txt info
  pcqa --connect-timeout 3 health

Exit status:
  0  every item has a score; the service is ready
  1  an item failed; each failure is a line on standard error: `error: FILE: CODE: reason`; the service is not ready
  2  the arguments or the list cannot be used; nothing was sent
  3  the server cannot be reached or does not describe its model
  4  results cannot be written";

// Paragraphs are one line each: clap wraps them to the terminal.
const SCORE_HELP: &str = "\
Images are PNG, JPEG, WebP, GIF, BMP and TIFF; videos are MP4/MOV, WebM/Matroska and AVI. The first bytes of a file \
decide, then the end of its name. A GIF of one frame is scored as an image, an animated GIF as a video.

A folder is searched with its subfolders, in the order of names; hidden files and files whose names do not end like an \
image or a video are left out.

A list is a .csv file with a header line or a .jsonl file, one item per line, with the columns or keys `path` and \
`prompt` and, if you like, `id`; others are ignored. Paths in a list are relative to the list. A list is checked whole \
before anything is sent.

Results come in the order of the items. CSV and JSON lines are written as they come, so that a run that was killed \
leaves what was done. Their columns, also those of the table, are:
  mos           mean opinion score on the scale that `pcqa info` names; higher is better
  z             the same in standard deviations from the calibration set's mean
  BACKBONE      in the table the z of the expert with that backbone; in CSV NAME_z and NAME_raw
                of every expert, in JSON lines `experts`
  disagreement  standard deviation of the experts' z; large: trust the score less
  frames        frames that were scored
  ms            milliseconds inside the server; in CSV and JSON lines for every stage
  round_trip_ms milliseconds from sending to the answer, not in the table
  prompt_truncated
                the end of the prompt took no part; in the table [truncated]
  model_version version of the model; in the table the line below it
  code, error   why an item has no score; such items are left out of the table

CODE is the gRPC status, or UNREADABLE when the file could not be read here.

Examples:
  pcqa score fox.png clip.mp4 --prompt \"a red fox in the snow\"
  pcqa score --from items.csv --output jsonl --out scores.jsonl";

const RANK_HELP: &str = "\
All images travel in one call and are ranked together or not at all; the server limits their number and size (see \
`pcqa info`), which is checked before anything is sent. Of an animated GIF the first frame is ranked. In CSV and JSON \
lines the columns are those of `pcqa score` with `place` before them.

Example:
  pcqa rank candidates/ --prompt \"a red fox in the snow\"";

/// Scores AI-generated images and videos for the prompts that made them, with a pcqa-server.
#[derive(Debug, Parser)]
#[command(name = "pcqa", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Score files, folders or the items of a list.
    #[command(after_help = SCORE_HELP)]
    Score(ScoreArgs),
    /// Rank several images of one prompt, best first.
    #[command(after_help = RANK_HELP)]
    Rank(RankArgs),
    /// Load the server with requests and measure throughput and latency.
    #[command(after_help = bench::HELP)]
    Bench(BenchArgs),
    /// Describe the served model, its MOS scale and its limits.
    Info(InfoArgs),
    /// Ask whether the service is ready: exit status 0 when it is, 1 when it is not or cannot be reached. One try.
    Health,
}

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Where pcqa-server listens; https:// for TLS
    #[arg(
        long,
        global = true,
        env = "PCQA_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        value_parser = parse_server
    )]
    pub server: Uri,
    /// Seconds to wait for a server that is not up yet, loads its model or is full; each try to connect and to get the
    /// model's description may take as long
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub connect_timeout: Duration,
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(super) struct TrustArgs {
    /// PEM file of the authorities that may have signed the server's certificate. Default: those of this machine
    #[arg(long, global = true, env = "PCQA_CLIENT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file of the certificate to show a server that asks for one; needs --tls-key
    #[arg(long, global = true, env = "PCQA_CLIENT_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key
    #[arg(long, global = true, env = "PCQA_CLIENT_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// File with the API key to send, alone on its first line; or the key itself in PCQA_API_KEY
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ScoreArgs {
    /// Images, videos and folders
    #[arg(value_name = "FILE", required_unless_present = "from", conflicts_with = "from")]
    pub files: Vec<PathBuf>,
    /// The prompt that every FILE was made from
    #[arg(long, required_unless_present = "from", conflicts_with = "from")]
    pub prompt: Option<String>,
    /// A .csv or .jsonl list of items with `path`, `prompt` and optional `id`
    #[arg(long, value_name = "LIST")]
    pub from: Option<PathBuf>,
    /// Most items on their way at once; as many files are held in memory
    #[arg(long, value_name = "N", default_value = "8")]
    pub concurrency: NonZeroUsize,
    #[command(flatten)]
    pub calls: CallArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Show no progress bar (there is none when standard error is no terminal)
    #[arg(long)]
    pub no_progress: bool,
}

#[derive(Debug, Args)]
pub(super) struct RankArgs {
    /// Images and folders of images
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The prompt that the images were made from
    #[arg(long)]
    pub prompt: String,
    #[command(flatten)]
    pub calls: CallArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// Seconds that one request may take
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_seconds)]
    pub timeout: Duration,
    /// How often a request is sent again when the server is overloaded or away; the server's wish for how long to wait
    /// is followed, else the wait doubles from half a second to 30 s
    #[arg(long, value_name = "N", default_value = "5")]
    pub retries: u32,
    /// What the server serves first under load
    #[arg(long, value_enum, default_value = "interactive")]
    pub priority: PriorityArg,
}

impl CallArgs {
    pub fn policy(&self) -> Policy {
        Policy { timeout: self.timeout, retries: self.retries, priority: self.priority.into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum PriorityArg {
    /// Somebody waits for the answer
    Interactive,
    /// Work that can wait: it goes behind interactive work but is never starved by it
    Bulk,
}

impl PriorityArg {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }
}

impl From<PriorityArg> for Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::Interactive => Self::Interactive,
            PriorityArg::Bulk => Self::Bulk,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Form of the results
    #[arg(long, value_name = "FORM", default_value = "table")]
    pub output: Form,
    /// Write the results to FILE instead of standard output, replacing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Form {
    /// For people, when all is done; scores are rounded
    Table,
    /// One row per item with every figure in full precision
    Csv,
    /// One JSON object per item with every figure in full precision
    Jsonl,
}

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// Form of the description
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub output: InfoForm,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum InfoForm {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// `http://host:port`, or `host:port` for short, or `https://host:port`.
fn parse_server(text: &str) -> Result<Uri, String> {
    const EXPECTED: &str = "expected http://HOST:PORT or https://HOST:PORT";
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = url.parse().map_err(|error| format!("{error}; {EXPECTED}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        other => Err(format!("scheme {} is not supported; {EXPECTED}", other.unwrap_or("of nothing"))),
    }
}

/// More than 0, at most a day.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    const DAY: f64 = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= DAY => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("expected a number of seconds above 0 and up to {DAY}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_needs_no_scheme_and_takes_no_other() {
        assert_eq!(parse_server("localhost:50051").unwrap(), parse_server("http://localhost:50051").unwrap());
        assert_eq!(parse_server("https://localhost:50051").unwrap().scheme_str(), Some("https"));
        assert!(parse_server("ftp://localhost:50051").unwrap_err().contains("ftp"));
        assert!(parse_server("http://").is_err());
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!(parse_seconds("0.25").unwrap(), Duration::from_millis(250));
        for bad in ["0", "-1", "nan", "inf", "1e9", "", "ten"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
