//! `pcqa bench`: offers a load and measures what becomes of it. The load is made before the clock starts, and every
//! outcome is counted, whatever it is.

mod args;
mod load;
mod picture;
mod plot;
mod random;
mod report;
mod run;
mod summary;
mod sweep;
mod tally;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::Notify;

use self::load::Load;
use self::report::{Context, Results};
use self::run::{Pace, Phase, Target};
use super::args::ServerArgs;
use super::connect::{self, Session};
use super::{Error, complain, items};

pub use self::args::{BenchArgs, HELP};

const USUAL_CONCURRENCY: usize = 8;
const INTERRUPTED: u8 = 130;

/// Runs the phases that the arguments ask for and prints their figures. Returns the exit status.
///
/// # Errors
/// What keeps the command from starting or from writing.
pub async fn run(server: &ServerArgs, args: BenchArgs) -> Result<u8, Error> {
    let items = load::items(&args)?;
    items::keep_from("--plot", args.plot.as_deref(), items.iter().map(|item| item.path.as_path()))?;
    let session = connect::open(server).await?;
    let mut clients = vec![session.client.clone()];
    for _ in 1..args.connections {
        clients.push(connect::open(server).await?.client);
    }
    let mut plot = args.plot.as_deref().map(plot::create).transpose()?;
    let seed = args.seed.unwrap_or_else(random::seed);
    let load = Load::new(&args, items, &session.limits, seed).await?;
    let full_batch = session.limits.max_batch_frames;
    let target = Arc::new(Target { clients, load, timeout: args.timeout, full_batch, next: AtomicU64::new(0) });

    let progress = if args.no_progress { ProgressBar::hidden() } else { progress_bar() };
    let results = measure(&target, &args, &session, &progress).await;
    progress.finish_and_clear();
    let context = Context { args: &args, model: &session.model, load: &target.load, seed };
    let page = if args.json { report::json(&context, &results) } else { report::text(&context, &results) };
    io::stdout().write_all(page.as_bytes())?;
    io::stdout().flush()?;
    if let (Some(file), Results::Sweep(sweep)) = (&mut plot, &results) {
        file.write_all(plot::svg(&context, sweep)?.as_bytes())?;
    }
    Ok(status(&results))
}

async fn measure(target: &Arc<Target>, args: &BenchArgs, session: &Session, progress: &ProgressBar) -> Results {
    let interrupt = Arc::new(Notify::new());
    tokio::spawn({
        let interrupt = interrupt.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupt.notify_one();
            }
        }
    });
    if args.sweep {
        return Results::Sweep(sweep::run(target, args, session, &interrupt, progress).await);
    }
    let pace = match (args.rate, args.concurrency) {
        (Some(rate), _) => Pace::Open(rate),
        (None, concurrency) => Pace::Closed(concurrency.map_or(USUAL_CONCURRENCY, Into::into)),
    };
    let phase = Phase { pace, warm_up: args.warm_up, duration: args.duration };
    Results::Single(pace, run::run(target, phase, &interrupt, progress).await)
}

/// Complains of what makes the figures less than they seem.
fn status(results: &Results) -> u8 {
    let not_sent: u64 = results.summaries().map(|summary| summary.not_sent).sum();
    if not_sent > 0 {
        let most = run::MOST_OUTSTANDING;
        let problem = format!(
            "the client could not keep up: {not_sent} requests were not sent because {most} waited for an answer"
        );
        complain("error", &problem);
    }
    let has_scores = results.summaries().any(|summary| summary.scores > 0);
    if results.summaries().any(|summary| summary.is_interrupted) {
        INTERRUPTED
    } else if !has_scores {
        complain("error", "no request was answered with a score in the measured time");
        1
    } else {
        u8::from(not_sent > 0)
    }
}

/// Drawn on standard error, and only where that is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix}{wide_bar} {elapsed}, {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
