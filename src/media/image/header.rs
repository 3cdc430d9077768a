//! The size that a header declares, where it can be read without a decoder: limits are checked against it before any
//! decoder runs. JPEG, WebP, GIF and TIFF are left to their decoders, which read headers without decoding pixels; what
//! WebP's leaves unchecked is read here.

use crate::media::sniff::Kind;

/// Width and height in pixels as declared; `None` where the format is not read here or the header is cut short.
pub(super) fn declared_size(kind: Kind, bytes: &[u8]) -> Option<(u32, u32)> {
    match kind {
        Kind::Png => Some((u32::from_be_bytes(array(bytes, 16)?), u32::from_be_bytes(array(bytes, 20)?))),
        Kind::Bmp => bmp_size(bytes),
        _ => None,
    }
}

fn bmp_size(bytes: &[u8]) -> Option<(u32, u32)> {
    if u32::from_le_bytes(array(bytes, 14)?) == 12 {
        return Some((u16::from_le_bytes(array(bytes, 18)?).into(), u16::from_le_bytes(array(bytes, 20)?).into()));
    }
    // A negative height means top-down rows.
    let width = i32::from_le_bytes(array(bytes, 18)?);
    let height = i32::from_le_bytes(array(bytes, 22)?);
    Some((width.unsigned_abs(), height.unsigned_abs()))
}

/// The sizes of all that may be a VP8 frame of an extended WebP, whose header declares only the canvas: the decoder
/// makes room for the frame before it compares. A lossless frame is compared first.
pub(super) fn vp8_sizes(webp: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    let chunks = webp.windows(4).enumerate().filter(|(_, name)| name == b"VP8 ").map(|(at, _)| at);
    chunks.filter_map(|at| vp8_size(webp, at))
}

/// Sizes of the first animated frame and of the VP8 frame within where transparency precedes it: the decoder takes it
/// on trust there that they are equal, and that the second chunk is VP8.
pub(super) fn frame_with_alpha(webp: &[u8]) -> Option<[(u32, u32); 2]> {
    let mut at = 12;
    while array(webp, at)? != *b"ANMF" {
        at = next_chunk(webp, at)?;
    }
    let side = |at| array(webp, at).map(|[low, middle, high]| u32::from_le_bytes([low, middle, high, 0]) + 1);
    let declared = (side(at + 14)?, side(at + 17)?);
    let alpha = at + 24;
    if array(webp, alpha)? != *b"ALPH" {
        return None;
    }
    Some([declared, vp8_size(webp, next_chunk(webp, alpha)?)?])
}

/// Where the chunk after the one at `at` begins. Chunks are padded to an even length.
fn next_chunk(webp: &[u8], at: usize) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes(array(webp, at + 4)?)).ok()?;
    at.checked_add(8)?.checked_add(length)?.checked_add(length & 1)
}

/// Size of the VP8 key frame in the chunk at `at`.
fn vp8_size(webp: &[u8], at: usize) -> Option<(u32, u32)> {
    // The upper 2 bits ask for upscaling, which nobody does.
    let side = |at| array(webp, at).map(|pair| u32::from(u16::from_le_bytes(pair) & 0x3fff));
    let start_code = array(webp, at + 11)?;
    if start_code != [0x9d, 0x01, 0x2a] {
        return None;
    }
    Some((side(at + 14)?, side(at + 16)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
