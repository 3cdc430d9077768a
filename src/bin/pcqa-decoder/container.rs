//! A look at a file's outermost structure before FFmpeg sees it: is it one of our containers, and is all of it there?
//! FFmpeg would try every demuxer it has, and decode the half of a clip that a broken upload left.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::shared::protocol::Refusal;

/// First boxes of an ISO base media or QuickTime file.
const FIRST_BOXES: [&[u8; 4]; 9] = [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof"];

/// Boxes that hold media: when one of them runs past the end of the file, media is missing.
const MEDIA_BOXES: [&[u8; 4]; 3] = [b"mdat", b"moov", b"moof"];

const EBML: [u8; 4] = [0x1a, 0x45, 0xdf, 0xa3];
const SEGMENT: u64 = 0x1853_8067;

/// Refuses what is no container of ours and what was cut off.
pub fn check(mut video: &File) -> Result<(), Refusal> {
    let unreadable = |error: io::Error| Refusal::corrupt(format!("cannot be read: {error}"));
    let length = video.seek(SeekFrom::End(0)).map_err(unreadable)?;
    video.rewind().map_err(unreadable)?;
    let mut head = [0; 12];
    let read = video.read_at(&mut head, 0).map_err(unreadable)?;
    let head = &head[..read];
    let tag = |range: std::ops::Range<usize>| head.get(range).unwrap_or_default();

    let complete = if FIRST_BOXES.iter().any(|name| tag(4..8) == *name) {
        are_boxes_complete(video, length)
    } else if tag(0..4) == EBML {
        is_segment_complete(video, length)
    } else if tag(0..4) == b"RIFF" && tag(8..12) == b"AVI " {
        // Writers that cannot seek leave the size open.
        let size = u64::from(u32_le(tag(4..8)));
        size == 0 || size == u64::from(u32::MAX) || size + 8 <= length
    } else if tag(0..6) == b"GIF87a" || tag(0..6) == b"GIF89a" {
        is_gif_complete(video, length).is_some()
    } else {
        return Err(Refusal::UnknownFormat);
    };
    if complete { Ok(()) } else { Err(Refusal::corrupt("the file is cut off")) }
}

/// Walks the top-level boxes.
fn are_boxes_complete(video: &File, length: u64) -> bool {
    let mut at = 0u64;
    while let Some(header) = read::<16>(video, at, length).or_else(|| pad(read::<8>(video, at, length)?)) {
        let size = match u64::from(u32_be(&header[..4])) {
            0 => return true,
            1 => u64::from_be_bytes(header[8..].try_into().unwrap_or_default()),
            size => size,
        };
        let is_media = MEDIA_BOXES.iter().any(|name| header[4..8] == **name);
        match at.checked_add(size) {
            Some(end) if end <= length && size >= 8 => at = end,
            _ => return !is_media,
        }
    }
    true
}

/// Reads the sizes of the EBML header and of the segment behind it.
fn is_segment_complete(video: &File, length: u64) -> bool {
    let Some((header_size, header_start)) = element_size(video, 4, length) else { return true };
    let Some(segment) = header_size.and_then(|size| header_start.checked_add(size)) else { return true };
    let Some(id) = read::<4>(video, segment, length) else { return false };
    if u64::from(u32_be(&id)) != SEGMENT {
        return true;
    }
    match element_size(video, segment + 4, length) {
        Some((Some(size), start)) => start.checked_add(size).is_some_and(|end| end <= length),
        // A live stream's segment has no size.
        Some((None, _)) => true,
        None => false,
    }
}

/// An EBML variable-length size at `at`, `None` within where it is unknown (all ones), and the offset behind it.
fn element_size(video: &File, at: u64, length: u64) -> Option<(Option<u64>, u64)> {
    let [first] = read::<1>(video, at, length)?;
    let bytes = first.leading_zeros() + 1;
    if bytes > 8 {
        return None;
    }
    let mut value = u64::from(first) & ((1 << (8 - bytes)) - 1);
    for i in 1..u64::from(bytes) {
        let [byte] = read::<1>(video, at + i, length)?;
        value = value << 8 | u64::from(byte);
    }
    let unknown = value == (1 << (7 * bytes)) - 1;
    Some(((!unknown).then_some(value), at + u64::from(bytes)))
}

/// Walks the blocks up to the trailer; nothing where the file ends before it.
fn is_gif_complete(video: &File, length: u64) -> Option<()> {
    let color_table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let [flags] = read::<1>(video, 10, length)?;
    let mut at = 13 + color_table(flags);
    loop {
        let [block] = read::<1>(video, at, length)?;
        at = match block {
            // An extension and its label.
            0x21 => at + 2,
            // An image: its descriptor, its colours, the size of its codes.
            0x2c => {
                let [flags] = read::<1>(video, at + 9, length)?;
                at + 11 + color_table(flags)
            }
            // The trailer, or damage: FFmpeg's to judge.
            _ => return Some(()),
        };
        // Sub-blocks up to an empty one.
        loop {
            let [size] = read::<1>(video, at, length)?;
            at += 1 + u64::from(size);
            if size == 0 {
                break;
            }
        }
    }
}

fn read<const N: usize>(video: &File, at: u64, length: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if at.checked_add(N as u64)? > length {
        return None;
    }
    video.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
}

fn pad(short: [u8; 8]) -> Option<[u8; 16]> {
    let mut long = [0; 16];
    long[..8].copy_from_slice(&short);
    Some(long)
}

fn u32_be(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_be_bytes).unwrap_or_default()
}

fn u32_le(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_le_bytes).unwrap_or_default()
}
