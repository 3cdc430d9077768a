//! `pcqa score`: many items at once, results in their order.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{ScoreArgs, ServerArgs};
use super::call::Policy;
use super::connect::{self, Session};
use super::items::{self, Item};
use super::kind::Kind;
use super::output::{Layout, Row, Sink};
use super::{Error, complain, list, send};

/// Scores every item and writes its row. Returns how many failed.
///
/// # Errors
/// What keeps the command from starting or from writing.
pub async fn run(server: &ServerArgs, args: ScoreArgs) -> Result<usize, Error> {
    let items = match &args.from {
        Some(list) => list::read(list)?,
        None => {
            items::from_paths(&args.files, args.prompt.as_deref().unwrap_or_default(), &[Kind::Image, Kind::Video])?
        }
    };
    let inputs = items.iter().map(|item| item.path.as_path()).chain(args.from.as_deref());
    items::keep_from("--out", args.output.out.as_deref(), inputs)?;
    let session = connect::open(server).await?;
    session.warn_if_untrained();
    let mut sink = Sink::open(&args.output, &session.model, Layout::Score)?;
    let progress = if args.no_progress { ProgressBar::hidden() } else { progress_bar(items.len()) };
    let failed = score_all(&session, args.calls.policy(), args.concurrency.get(), items, &mut sink, &progress).await;
    progress.finish_and_clear();
    let failed = failed?;
    sink.finish()?;
    Ok(failed)
}

async fn score_all(
    session: &Session,
    policy: Policy,
    concurrency: usize,
    items: Vec<Item>,
    sink: &mut Sink,
    progress: &ProgressBar,
) -> Result<usize, Error> {
    let mut answers = stream::iter(items.into_iter().enumerate())
        .map(async |(index, item)| (index, send::score(session, policy, item).await))
        .buffer_unordered(concurrency);
    // A slow item holds back the rows after it, not their scoring: rows are small, files are not.
    let mut early: BTreeMap<usize, Row> = BTreeMap::new();
    let mut next = 0;
    let mut failed = 0;
    while let Some((index, row)) = answers.next().await {
        progress.inc(1);
        early.insert(index, row);
        while let Some(row) = early.remove(&next) {
            next += 1;
            failed += usize::from(row.outcome.is_err());
            progress.suspend(|| write(sink, row))?;
        }
    }
    Ok(failed)
}

fn write(sink: &mut Sink, row: Row) -> Result<(), Error> {
    if let Err(failure) = &row.outcome {
        complain("error", &format!("{}: {failure}", row.name));
    }
    Ok(sink.write(row)?)
}

/// Drawn on standard error, and only where that is a terminal.
fn progress_bar(length: usize) -> ProgressBar {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} items, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
