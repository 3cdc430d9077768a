//! The only unsafe code: what neither `ffmpeg-next` nor `rustix` wraps.
#![allow(unsafe_code)]

use std::io;

use ffmpeg_next::ffi::{AV_PKT_FLAG_DISCARD, sws_getCoefficients, sws_getColorspaceDetails, sws_setColorspaceDetails};
use ffmpeg_next::packet::Ref;
use ffmpeg_next::software::scaling::Context;
use ffmpeg_next::{Packet, color};

/// Closes every file descriptor above standard error: a library of the server may have left some inheritable.
pub fn close_inherited_files() -> io::Result<()> {
    // SAFETY: called before this process owns any descriptor above 2, so no owner loses one.
    outcome(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) })
}

/// Sends no signal to a process, only asks whether it could.
pub fn probe_process(process: u32) -> io::Result<()> {
    // SAFETY: takes two numbers; signal 0 is none.
    outcome(unsafe { libc::syscall(libc::SYS_kill, process, 0) })
}

/// Sends no signal to a thread of a process, only asks whether it could.
pub fn probe_thread(process: u32, thread: u32) -> io::Result<()> {
    // SAFETY: takes three numbers; signal 0 is none.
    outcome(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) })
}

/// Asks on which processors a process may run.
pub fn probe_affinity(process: u32) -> io::Result<()> {
    let mut mask = [0u64; 128];
    // SAFETY: the mask is as long as said.
    outcome(unsafe { libc::syscall(libc::SYS_sched_getaffinity, process, size_of_val(&mask), mask.as_mut_ptr()) })
}

fn outcome(returned: libc::c_long) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the demuxer wants the packet decoded but not shown (outside an edit list).
pub fn is_discarded(packet: &Packet) -> bool {
    // SAFETY: the pointer is the packet's own, valid while it is borrowed.
    unsafe { (*packet.as_ptr()).flags & AV_PKT_FLAG_DISCARD != 0 }
}

/// Tells swscale the matrix and range of its input, as ffmpeg's scale filter does (swscale alone assumes BT.601).
pub fn set_input_colors(scaler: &mut Context, space: color::Space, range: color::Range) {
    let mut input_table = std::ptr::null_mut();
    let mut output_table = std::ptr::null_mut();
    let (mut input_full, mut output_full, mut brightness, mut contrast, mut saturation) = (0, 0, 0, 0, 0);
    // SAFETY: the context is valid while borrowed; all out-parameters live here; sws_getCoefficients returns a pointer
    // to a static table for every argument, and swscale copies it.
    unsafe {
        let context = scaler.as_mut_ptr();
        sws_getColorspaceDetails(
            context,
            &mut input_table,
            &mut input_full,
            &mut output_table,
            &mut output_full,
            &mut brightness,
            &mut contrast,
            &mut saturation,
        );
        match range {
            color::Range::JPEG => input_full = 1,
            color::Range::MPEG => input_full = 0,
            color::Range::Unspecified => {}
        }
        let table = sws_getCoefficients(ffmpeg_next::ffi::AVColorSpace::from(space) as libc::c_int);
        // A failure means that the input has no matrix to set (RGB).
        sws_setColorspaceDetails(context, table, input_full, table, output_full, brightness, contrast, saturation);
    }
}

/// Width and height that the stream's header names.
pub fn dimensions(codec: &ffmpeg_next::codec::Context) -> Option<(u32, u32)> {
    // SAFETY: the pointer is the context's own, valid while it is borrowed.
    let (width, height) = unsafe { ((*codec.as_ptr()).width, (*codec.as_ptr()).height) };
    Some((u32::try_from(width).ok()?, u32::try_from(height).ok()?))
}
