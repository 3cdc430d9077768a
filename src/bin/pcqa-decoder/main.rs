//! The sandboxed decoder worker: hostile video in, at most a few small RGB frames out. The only place that links FFmpeg.
//!
//! It speaks [`shared::protocol`] over the socket that is its standard input, one request at a time, and ends when
//! the other end is closed. Started by the pool of `pcqa-server`, never by hand but for `--self-test`.

#![deny(unsafe_code)]

mod container;
mod convert;
mod decode;
mod demux;
mod ffi;
mod frames;
mod h26x;
mod orientation;
mod plan;
mod sandbox;
mod serve;

/// What the pool and a worker have in common, compiled in: linking the library would bring libtorch along, hundreds of
/// megabytes in the address space of every worker.
#[path = "../../media"]
#[allow(dead_code, reason = "each side uses a part")]
mod shared {
    pub mod frames;
    #[path = "decoder/protocol.rs"]
    pub mod protocol;
    pub mod resize;
}

use std::process::ExitCode;

use clap::Parser;

/// Decodes videos for pcqa-server inside a sandbox; started by the server.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Address space of this process in bytes.
    #[arg(long, default_value_t = 2 << 30)]
    max_memory: u64,
    /// Close the sandbox, try what it must refuse, report and exit.
    #[arg(long)]
    self_test: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Quiet);
    // Without them errors have no text.
    ffmpeg_next::util::error::register_all();
    let parent = std::os::unix::process::parent_id();
    let closed = sandbox::close(arguments.max_memory);
    if arguments.self_test {
        return sandbox::self_test(closed, parent);
    }
    match serve::run(closed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
