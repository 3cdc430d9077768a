//! The `pcqa` command: reads files and lists, calls the service over gRPC, writes tables, CSV and JSON lines. It knows
//! the service by its `proto` alone: no tensor, no media decoder and nothing of the server may enter, so that the
//! binary runs where neither libtorch nor FFmpeg is installed.

mod args;
mod bench;
mod call;
mod connect;
mod health;
mod info;
mod items;
mod kind;
mod list;
mod output;
mod rank;
mod score;
mod send;
mod text;
mod trust;

use std::io::{self, Write};
use std::process::ExitCode;

pub use args::Cli;
use args::Command;

/// Why a command stopped; failures of single items are counted instead.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The arguments or a list cannot be used. Exit status 2, as clap's.
    #[error("{0}")]
    Usage(String),
    /// The server cannot be reached or does not describe its model. Exit status 3.
    #[error("{0}")]
    Server(String),
    /// Results cannot be written. Exit status 4.
    #[error("cannot write results: {0}")]
    Output(#[from] io::Error),
}

/// Runs one command to its end. The exit status is 0 when every item has a score or the service is ready, 1 when an item
/// failed or the service is not ready, 2 for unusable arguments or lists, 3 for a server that cannot be reached or does
/// not describe its model, 4 when results cannot be written, 130 for a bench that was interrupted.
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain("error", &format!("cannot start: {error}"));
            return ExitCode::from(4);
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Score(args) => score::run(&cli.server, args).await.map(|failed| u8::from(failed > 0)),
            Command::Rank(args) => rank::run(&cli.server, args).await.map(|failed| u8::from(failed > 0)),
            Command::Bench(args) => bench::run(&cli.server, args).await,
            Command::Info(args) => info::run(&cli.server, &args).await.map(|()| 0),
            Command::Health => health::run(&cli.server).await.map(|ready| u8::from(!ready)),
        }
    });
    // A file that never ends (a pipe without a writer) must not hold the process back.
    runtime.shutdown_background();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // Whoever closed the pipe has seen enough.
            if !matches!(&error, Error::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
                complain("error", &error.to_string());
            }
            ExitCode::from(match error {
                Error::Usage(_) => 2,
                Error::Server(_) => 3,
                Error::Output(_) => 4,
            })
        }
    }
}

/// Writes one line to standard error. A closed standard error is no reason to stop.
fn complain(severity: &str, message: &str) {
    let _ = writeln!(io::stderr(), "{severity}: {}", text::printable(message));
}
