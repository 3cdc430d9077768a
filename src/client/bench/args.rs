//! The command line of `pcqa bench`. Its help is the manual.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::run::MOST_OUTSTANDING;
use crate::client::args::{PriorityArg, parse_seconds};

// Paragraphs are one line each: clap wraps them to the terminal.
pub const HELP: &str = "\
What is sent: the FILEs or the items of a list, one after the other in a shuffled order, each read once; without any, generated pictures with \
the texture of photographs. Videos cannot be generated: name some. A request whose prompt is new has a few characters \
before the prompt that no other request of the run has, so that no cache knows it; the seed decides them, and a server \
that has seen a seed may still know its prompts.

Closed loop (--concurrency): so many requests are always on their way, the next is sent when one is answered. It finds \
out what the server can do, but a slow server is asked less often, which hides what callers would wait. Open loop \
(--rate): a request is sent every 1/RATE seconds, answered or not, and its latency counts from the moment it was meant \
to be sent. At most 10000 requests are left unanswered; those that would be more are not sent, and the run fails with \
`the client could not keep up`.

Nothing is sent twice: a refusal is counted by its code. After UNAVAILABLE a closed loop's place pauses for 0.1 s. At \
the end the requests on their way are waited for. Ctrl-C shows what there is so far.

What is shown; latencies are of requests meant to be sent after the warm-up, rates are of the measured seconds:
  offered       requests/s that were meant to be sent
  answered      answers/s, refusals included
  goodput       scores/s
  scores        from sending (open loop: from when it was meant) to the score
  CODE          the same for each kind of refusal, with an example of its message
  outside decode, resize and device
                from sending to the score without decode, resize, text, vision and head: the
                network, the queue before the device, the formats and both ends' scheduling
  send lag      how much later than meant a request was sent
  stages        means of the server's timings of the scores; decode includes the wait for a decoder
  batch         mean frames of a batch, and their share of the server's largest batch

--sweep finds the saturation first: the goodput of a closed loop with --concurrency requests, without it as many as two \
of the server's largest batches (32 to 512). Then it offers each of --loads times that rate in an open loop and shows a \
row for each, `shed` being the share refused with RESOURCE_EXHAUSTED.

--json writes one object: `settings`, `media`, `model`, `interrupted` and `result`, or for a sweep `saturation` and \
`sweep`, an array of results with `load`, the multiple of the saturation. A result has
  seconds       measured, without warm-up
  requests      meant to be sent in them = scores + errors + unanswered + not_sent
  scores, errors, unanswered (on their way when interrupted), not_sent (see the open loop)
  offered_per_s, answered_per_s, goodput_per_s
  latency_ms    { count, mean, p50, p90, p99, max } of the scores
  outside_ms, send_lag_ms
                the same of the two times above
  by_code       for each code { count, example, latency_ms }
  stages_ms     means: receive_ms, decode_ms, resize_ms, queue_ms, text_ms, vision_ms, head_ms,
                total_ms
  batch_frames, batch_fill
A figure that there is none of is null.

Exit status: 0 when there is a score and everything was sent, 1 when not, 2, 3 and 4 as of every command, 130 when \
interrupted.

Examples:
  pcqa bench                                          8 requests at once for 10 s
  pcqa bench --concurrency 1 --size 512 --new-prompts 0
  pcqa bench --rate 40 --duration 60 --json > result.json
  pcqa bench clips/ --prompt \"a red fox in the snow\" --rate 2 --priority bulk
  pcqa bench --from items.jsonl --concurrency 64 --connections 4
  pcqa bench --sweep --duration 20 --plot saturation.svg";

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Images, videos and folders to send instead of generated pictures
    #[arg(value_name = "FILE", requires = "prompt", conflicts_with = "from")]
    pub files: Vec<PathBuf>,
    /// The prompt of every FILE, or of the generated pictures instead of eight that are built in
    #[arg(long, conflicts_with = "from")]
    pub prompt: Option<String>,
    /// A .csv or .jsonl list of items with `path` and `prompt`, as of `pcqa score`
    #[arg(long, value_name = "LIST")]
    pub from: Option<PathBuf>,
    /// Sides of the generated pictures in pixels
    #[arg(long, value_name = "PIXELS", value_delimiter = ',', default_value = "512,1024",
        value_parser = clap::value_parser!(u32).range(1..=16_384), conflicts_with_all = ["files", "from"])]
    pub size: Vec<u32>,
    /// Different generated pictures of each size. A server may look once at pictures that are equal and in one batch
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=4096),
        conflicts_with_all = ["files", "from"])]
    pub pictures: u32,
    /// Format of the generated pictures
    #[arg(long, value_enum, default_value = "png", conflicts_with_all = ["files", "from"])]
    pub format: Format,
    /// Share of requests whose prompt was never sent before, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.5", value_parser = parse_share, allow_negative_numbers = true)]
    pub new_prompts: f64,
    /// The same seed sends the same requests [default: another each time; it is shown]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Closed loop: requests on their way at once [default: 8]
    #[arg(long, value_name = "N", value_parser = parse_concurrency, allow_negative_numbers = true)]
    pub concurrency: Option<NonZeroUsize>,
    /// Open loop: requests per second, at constant spacing whatever becomes of them; latency counts from the moment
    /// that a request was meant to be sent
    #[arg(long, value_name = "R", value_parser = parse_rate, allow_negative_numbers = true,
        conflicts_with_all = ["concurrency", "sweep"])]
    pub rate: Option<f64>,
    /// Find the saturation, then offer multiples of it
    #[arg(long)]
    pub sweep: bool,
    /// Multiples of the saturation that a sweep offers
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "sweep", value_parser = parse_load, allow_negative_numbers = true,
        default_value = "0.1,0.2,0.4,0.6,0.8,0.9,1.0,1.2,1.5,2.0")]
    pub loads: Vec<f64>,
    /// Draw a sweep's goodput and latencies over the offered load, replacing FILE
    #[arg(long, value_name = "FILE.svg", requires = "sweep")]
    pub plot: Option<PathBuf>,
    /// Seconds that are measured; of a sweep for each load
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds, allow_negative_numbers = true)]
    pub duration: Duration,
    /// Seconds before them that are not counted
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_warm_up, allow_negative_numbers = true)]
    pub warm_up: Duration,
    /// HTTP/2 connections that the requests take turns on; on each, the server limits the requests at once (often to
    /// 200), and others wait here
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Seconds that one request may take
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds, allow_negative_numbers = true)]
    pub timeout: Duration,
    /// What the server serves first under load
    #[arg(long, value_enum, default_value = "interactive")]
    pub priority: PriorityArg,

    /// Write one JSON object with every figure instead of tables
    #[arg(long)]
    pub json: bool,
    /// Show no progress bar (there is none when standard error is no terminal)
    #[arg(long)]
    pub no_progress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Format {
    /// Without loss, about 2 bytes per pixel
    Png,
    /// Quality 90
    Jpeg,
}

impl Format {
    /// `png` or `jpeg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
        }
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    parse_number(text, |share| (0.0..=1.0).contains(&share), "a share from 0 to 1")
}

fn parse_rate(text: &str) -> Result<f64, String> {
    parse_number(text, |rate| rate > 0.0 && rate <= 100_000.0, "requests per second, above 0 and up to 100000")
}

fn parse_load(text: &str) -> Result<f64, String> {
    parse_number(text, |load| load > 0.0 && load <= 100.0, "a multiple of the saturation, above 0 and up to 100")
}

fn parse_warm_up(text: &str) -> Result<Duration, String> {
    if parse_number(text, |seconds| seconds == 0.0, "").is_ok() { Ok(Duration::ZERO) } else { parse_seconds(text) }
}

fn parse_concurrency(text: &str) -> Result<NonZeroUsize, String> {
    let in_range = |count: &NonZeroUsize| count.get() <= MOST_OUTSTANDING;
    text.parse().ok().filter(in_range).ok_or_else(|| format!("expected a number from 1 to {MOST_OUTSTANDING}"))
}

fn parse_number(text: &str, is_allowed: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&number| is_allowed(number)).ok_or_else(|| format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_make_no_load_are_refused() {
        for bad in ["0", "-1", "NaN", "inf", "1e9", ""] {
            assert!(parse_rate(bad).is_err() && parse_load(bad).is_err(), "{bad}");
        }
        for bad in ["-0.1", "1.1", "NaN"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
        assert!(parse_concurrency("0").is_err() && parse_concurrency("10001").is_err());
        assert_eq!(parse_warm_up("0.0"), Ok(Duration::ZERO));
        assert!(parse_warm_up("-1").is_err() && parse_warm_up("NaN").is_err());
    }
}
