//! What Rust has no safe way to: settings of the C library, the map of a file, the end without destructors, and what tch
//! does not reach of libtorch. This is the room that may hold `unsafe`; nothing else may enter.

#![allow(unsafe_code)]

mod cuda;
mod graph;
pub mod kernels;
mod stream;
mod torch;
mod transfer;

use std::fs::File;
use std::io;

use memmap2::{Mmap, UncheckedAdvice};

pub use self::cuda::{cuda, device_name, gpus, load_cuda, memory_cap, multiplies_bf16};
pub use self::graph::{Graph, GraphPool};
pub use self::stream::{Moment, OnStream, Stream};
pub use self::torch::{
    AdamWStep, DeviceMemory, InferenceMode, adamw, empty_cache, exact_arithmetic, linear_gelu, memory, norm,
    own_stream, tensor, wait_for,
};
pub use self::transfer::{Pinned, bytes_mut, copy, downloaded, uploaded};

/// Keeps the memory of tensors that are freed, for the next ones.
///
/// By default the C library gives every large block back to the kernel at once, and the next forward pass pays for its
/// pages again: a full-size ensemble in f32 at batch 4 did 0.25 to 0.29 images/s so, 0.33 to 0.35 with this
/// (`benches/ceiling.rs`). What the process holds stays at its peak instead of falling in between. Call it when the
/// weights are loaded: what loading needs for a moment should go back.
pub fn keep_freed_memory() {
    // SAFETY: mallopt changes numbers of the allocator that hold from now on; these two are documented and any thread
    // may be the one that calls it. Where it refuses, the defaults stay.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Gives memory that is free now back to the kernel, once: after a bundle was loaded or let go.
pub fn give_back_memory() {
    // SAFETY: malloc_trim may be called by any thread at any time, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Maps a bundle's file. Weights are gigabytes: mapped, they are shared between processes and leave memory when it is
/// needed elsewhere.
///
/// # Errors
/// Those of `mmap`.
pub fn map_bundle_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only, so nothing in this process can change it. Another process that writes to or
    // truncates the file could: a bundle is written once, under another name, and put in place by renaming, which
    // leaves files that are mapped as they are.
    unsafe { Mmap::map(file) }
}

/// Takes the pages under `part` of `map` out of this process's memory. The kernel keeps the file's bytes as long as it
/// likes; read again, they come back. What is not part of the map stays as it is.
pub fn let_go(map: &Mmap, part: &[u8]) {
    let Some(offset) = part.as_ptr().addr().checked_sub(map.as_ptr().addr()) else { return };
    if offset + part.len() > map.len() {
        return;
    }
    // SAFETY: the map is shared and read-only, so that its pages hold the file's bytes and nothing else: whoever reads one
    // that was dropped finds the same bytes. Where the kernel refuses, they stay.
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, part.len()) };
}

/// Ends the process while other threads may still compute: the destructors of libtorch, which `exit` runs, would pull
/// its memory away from under them.
pub fn end_at_once(code: i32) -> ! {
    // SAFETY: _exit takes any number and does not return; nothing of this process runs after it.
    unsafe { libc::_exit(code) }
}
