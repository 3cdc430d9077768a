//! The C library's settings that Rust's standard library does not reach; nothing else may enter. This is the room that
//! may hold `unsafe`.

#![allow(unsafe_code)]

/// Keeps the memory of tensors that are freed, for the next ones.
///
/// By default the C library gives every large block back to the kernel at once, and the next forward pass pays for its
/// pages again: a full-size ensemble in f32 at batch 4 did 0.25 to 0.29 images/s so, 0.33 to 0.35 with this (`benches/ceiling.rs`). What
/// the process holds stays at its peak instead of falling in between. Call it when the weights are loaded: what loading
/// needs for a moment should go back.
pub fn keep_freed_memory() {
    // SAFETY: mallopt changes numbers of the allocator that hold from now on; these two are documented and any thread
    // may be the one that calls it. Where it refuses, the defaults stay.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Loads libtorch's CUDA part, which must be there before its first call about CUDA; false where there is none. It is
/// not linked, so that one program runs on machines with and without it.
pub fn load_cuda() -> bool {
    // SAFETY: the name is a C string, and the library's initialisers register its kernels and nothing else.
    let library = unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    !library.is_null()
}
