//! Full-size parity: every network of the paper at its published size, and the whole path, against what timm and
//! open_clip say for the same weights. `make parity` runs it; too slow for every day, it is not part of `cargo test`.
//!
//! Needs no Python and no weight files: weights come from [`hash_init`](pcqa::train::hash_init), expectations from
//! `tests/golden/parity`. One network at a time is on disk and in memory, but for those of the whole path.

mod compare;
mod golden;
mod report;
mod weights;

use std::path::PathBuf;

use clap::Parser;

use self::compare::{Row, network, whole_path};
use self::golden::Golden;
use self::weights::Folder;

/// Compares the full-size networks with timm's and open_clip's.
#[derive(Parser)]
struct Args {
    /// Write the figures to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Only the networks whose name contains this, without the whole path.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// CPU threads of one operation.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..))]
    threads: i32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tch::set_num_threads(args.threads);
    let _no_grad = tch::no_grad_guard();
    let golden = Golden::read()?;
    let folder = Folder::new(golden.seed)?;
    let is_wanted = |name: &str| args.only.as_deref().is_none_or(|text| name.contains(text));
    let mut rows: Vec<Row> = Vec::new();
    for network_spec in golden.networks.iter().filter(|network| is_wanted(&network.name)) {
        let new = network(&golden, network_spec, &folder)?;
        new.iter().for_each(|row| println!("{row}"));
        rows.extend(new);
        if args.only.is_some() || !golden.whole.uses(&network_spec.file) {
            folder.remove(&network_spec.file)?;
        }
    }
    if args.only.is_none() {
        let new = whole_path(&golden, &folder)?;
        new.iter().for_each(|row| println!("{row}"));
        rows.extend(new);
    }
    anyhow::ensure!(!rows.is_empty(), "no network has {:?} in its name", args.only.unwrap_or_default());
    if let Some(path) = &args.report {
        std::fs::write(path, report::markdown(&golden, &rows, args.threads))?;
    }
    let wrong: Vec<&Row> = rows.iter().filter(|row| !row.fits()).collect();
    anyhow::ensure!(wrong.is_empty(), "{} of {} cases differ too much", wrong.len(), rows.len());
    println!("all {} cases are the libraries' own", rows.len());
    Ok(())
}
