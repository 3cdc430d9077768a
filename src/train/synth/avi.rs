//! Motion JPEG in an AVI 1.0 file: the oldest container that every player reads, one chunk per frame and an index.

use anyhow::Context;

/// Every frame is a picture of its own that can be sought.
const KEYFRAME: u32 = 0x10;
const HAS_INDEX: u32 = 0x10;

/// A file of `frames`, each a whole JPEG of `side * side` pixels, `rate` of them a second.
pub(super) fn mux(frames: &[Vec<u8>], side: u32, rate: u32) -> anyhow::Result<Vec<u8>> {
    let longest = length(frames.iter().map(Vec::len).max().unwrap_or_default())?;
    let count = length(frames.len())?;
    let mut movie = b"movi".to_vec();
    let mut index = Vec::new();
    for frame in frames {
        index.extend(b"00dc");
        index.extend(words(&[KEYFRAME, length(movie.len())?, length(frame.len())?]));
        movie.extend(chunk(b"00dc", frame)?);
    }
    let body = [
        b"AVI ".to_vec(),
        list(b"hdrl", &[main_header(count, longest, side, rate)?, list(b"strl", &stream(count, longest, side, rate)?)?])?,
        chunk(b"LIST", &movie)?,
        chunk(b"idx1", &index)?,
    ];
    chunk(b"RIFF", &body.concat())
}

fn main_header(count: u32, longest: u32, side: u32, rate: u32) -> anyhow::Result<Vec<u8>> {
    let microseconds = 1_000_000 / rate.max(1);
    let streams = 1;
    let values =
        [microseconds, longest.saturating_mul(rate), 0, HAS_INDEX, count, 0, streams, longest, side, side, 0, 0, 0, 0];
    chunk(b"avih", &words(&values))
}

fn stream(count: u32, longest: u32, side: u32, rate: u32) -> anyhow::Result<[Vec<u8>; 2]> {
    // Type, codec, flags, priority and language, initial frames, scale, rate, start, length, buffer, quality, sample
    // size, rectangle.
    let mut header = b"vidsMJPG".to_vec();
    header.extend(words(&[0, 0, 0, 1, rate, 0, count, longest, u32::MAX, 0, 0, side << 16 | side]));
    // BITMAPINFOHEADER: its size, width, height, one plane of 24 bits, codec, bytes, and nothing more.
    let mut format = words(&[40, side, side, 24 << 16 | 1]);
    format.extend(b"MJPG");
    format.extend(words(&[side * side * 3, 0, 0, 0, 0]));
    Ok([chunk(b"strh", &header)?, chunk(b"strf", &format)?])
}

fn list(name: &[u8; 4], parts: &[Vec<u8>]) -> anyhow::Result<Vec<u8>> {
    chunk(b"LIST", &[name.as_slice(), &parts.concat()].concat())
}

/// Name, length, contents, and a byte more where they are odd.
fn chunk(name: &[u8; 4], contents: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut chunk = name.to_vec();
    chunk.extend(length(contents.len())?.to_le_bytes());
    chunk.extend(contents);
    chunk.resize(chunk.len().next_multiple_of(2), 0);
    Ok(chunk)
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn length(bytes: usize) -> anyhow::Result<u32> {
    u32::try_from(bytes).context("a clip is too long for an AVI file")
}
