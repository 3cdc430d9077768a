//! Which way is up, by Pillow's rules: the EXIF tag of the first directory, else `tiff:Orientation` in the XMP packet.

use ::image::metadata::Orientation;

use super::corrupt;
use crate::media::MediaError;

/// What a file says about its picture beside the pixels.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// The EXIF block, with or without the `Exif\0\0` that opens it in a JPEG.
    pub exif: Option<Vec<u8>>,
    /// The XMP packet.
    pub xmp: Option<Vec<u8>>,
    /// Orientation that the format itself holds (TIFF).
    pub orientation: Option<Orientation>,
}

impl Metadata {
    /// How to turn the decoded picture upright.
    pub(super) fn orientation(&self) -> Orientation {
        self.orientation
            .or_else(|| self.exif.as_deref().and_then(exif_orientation))
            .or_else(|| self.xmp.as_deref().and_then(xmp_orientation))
            .unwrap_or(Orientation::NoTransforms)
    }
}

fn exif_orientation(mut exif: &[u8]) -> Option<Orientation> {
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    Orientation::from_exif_chunk(exif)
}

/// Finds `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn xmp_orientation(xmp: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut ends = xmp.windows(NAME.len()).zip(NAME.len()..).filter(|(window, _)| *window == NAME).map(|(_, end)| end);
    ends.find_map(|end| match xmp.get(end..)? {
        [b'=', b'"', digit @ b'0'..=b'9', ..] | [b'>', digit @ b'0'..=b'9', ..] => Some(*digit - b'0'),
        _ => None,
    })
    .and_then(Orientation::from_exif)
}

/// The `eXIf` chunk of a PNG. It may stand after the pixels, where the decoder has stopped reading.
pub(super) fn png_exif(png: &[u8]) -> Result<Option<Vec<u8>>, MediaError> {
    let mut rest = png.get(8..).unwrap_or_default();
    while let Some((length, name, body)) = png_chunk(rest) {
        if name == *b"eXIf" {
            let exif = body.get(..length).ok_or_else(|| corrupt("the eXIf chunk is cut short"))?;
            return Ok(Some(exif.to_vec()));
        }
        // A checksum of 4 bytes follows the body.
        rest = body.get(length..).and_then(|tail| tail.get(4..)).unwrap_or_default();
    }
    Ok(None)
}

/// Length, name and all that follows of the chunk that `bytes` opens with.
fn png_chunk(bytes: &[u8]) -> Option<(usize, [u8; 4], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (name, body) = rest.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_be_bytes(*length)).ok()?, *name, body))
}
