//! The `pcqa` command: scores, ranks and asks over gRPC.
//!
//! It compiles its two rooms itself instead of taking them from the library: one object file of the library that names
//! a tensor, be it in a function that is never called, makes the linker keep libtorch, and with it hundreds of
//! megabytes on every machine that only wants to ask a server.

mod client;
#[expect(dead_code, reason = "the server's half and the descriptors are for pcqa-server")]
mod proto;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    client::run(client::Cli::parse())
}
