//! The size that a header declares, where it can be read without a decoder: limits are checked against it before any
//! decoder runs. WebP and TIFF are left to their decoders, which read headers without decoding pixels.

use crate::media::sniff::Kind;

/// Width and height in pixels as declared; `None` where the format is not read here or the header is cut short.
pub(super) fn declared_size(kind: Kind, bytes: &[u8]) -> Option<(u32, u32)> {
    match kind {
        Kind::Png => Some((u32::from_be_bytes(array(bytes, 16)?), u32::from_be_bytes(array(bytes, 20)?))),
        Kind::Jpeg => jpeg_size(bytes),
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

/// Walks the segments to the frame header.
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let [marker, code] = array(bytes, at)?;
        if marker != 0xff {
            return None;
        }
        match code {
            // A fill byte before the marker.
            0xff => at += 1,
            // Markers without a segment.
            0x01 | 0xd0..=0xd8 => at += 2,
            // Frame headers: C4, C8 and CC are other things. Height comes first.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let height = u16::from_be_bytes(array(bytes, at + 5)?);
                let width = u16::from_be_bytes(array(bytes, at + 7)?);
                return Some((width.into(), height.into()));
            }
            0xd9 | 0xda => return None,
            _ => at += 2 + usize::from(u16::from_be_bytes(array(bytes, at + 2)?)),
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
