//! The `pcqa` command: scores, ranks and asks over gRPC.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    pcqa::client::run(pcqa::client::Cli::parse())
}
