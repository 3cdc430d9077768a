//! What encoded bytes are, by their first few: a name for error messages and a way to the right decoder. Nothing is
//! parsed here.

/// A container or picture format that callers send, rightly or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Avif,
    Heic,
    Mp4,
    QuickTime,
    WebM,
    Matroska,
    Avi,
    MpegTs,
    Flv,
}

impl Kind {
    /// The format with its article, as error messages say it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Png => "a PNG image",
            Self::Jpeg => "a JPEG image",
            Self::WebP => "a WebP image",
            Self::Gif => "a GIF image",
            Self::Bmp => "a BMP image",
            Self::Tiff => "a TIFF image",
            Self::Avif => "an AVIF image",
            Self::Heic => "a HEIC image",
            Self::Mp4 => "an MP4 video",
            Self::QuickTime => "a QuickTime video",
            Self::WebM => "a WebM video",
            Self::Matroska => "a Matroska video",
            Self::Avi => "an AVI video",
            Self::MpegTs => "an MPEG-TS video",
            Self::Flv => "an FLV video",
        }
    }
}

/// The format of `bytes`, `None` where no known magic number opens them.
pub(super) fn sniff(bytes: &[u8]) -> Option<Kind> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Kind::Png),
        [0xff, 0xd8, 0xff, ..] => Some(Kind::Jpeg),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Kind::Gif),
        [b'B', b'M', ..] => is_bmp(bytes).then_some(Kind::Bmp),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Kind::Tiff),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Kind::WebP),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => Some(Kind::Avi),
        [_, _, _, _, b'f', b't', b'y', b'p', b0, b1, b2, b3, ..] => Some(iso_brand([*b0, *b1, *b2, *b3])),
        // Old QuickTime files open with another atom than `ftyp`.
        [_, _, _, _, b'm', b'o', b'o', b'v', ..]
        | [_, _, _, _, b'm', b'd', b'a', b't', ..]
        | [_, _, _, _, b'w', b'i', b'd', b'e', ..] => Some(Kind::QuickTime),
        [0x1a, 0x45, 0xdf, 0xa3, header @ ..] => {
            // The document type stands in the EBML header, which is a few dozen bytes long.
            let header = header.get(..64).unwrap_or(header);
            let is_webm = header.windows(4).any(|window| window == b"webm");
            Some(if is_webm { Kind::WebM } else { Kind::Matroska })
        }
        [b'F', b'L', b'V', 1, ..] => Some(Kind::Flv),
        [0x47, ..] => (bytes.get(188) == Some(&0x47) && bytes.get(376) == Some(&0x47)).then_some(Kind::MpegTs),
        _ => None,
    }
}

/// "BM" opens many an English sentence: the size of the header that follows must be one that exists.
fn is_bmp(bytes: &[u8]) -> bool {
    matches!(bytes.get(14..18), Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
}

fn iso_brand(brand: [u8; 4]) -> Kind {
    match &brand {
        b"avif" | b"avis" => Kind::Avif,
        b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => Kind::Heic,
        b"qt  " => Kind::QuickTime,
        _ => Kind::Mp4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_it_sees() {
        let cases: [(&[u8], Option<Kind>); 12] = [
            (b"\x89PNG\r\n\x1a\n", Some(Kind::Png)),
            (b"\xff\xd8\xff\xe0", Some(Kind::Jpeg)),
            (b"GIF89a", Some(Kind::Gif)),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some(Kind::WebP)),
            (b"RIFF\0\0\0\0AVI LIST", Some(Kind::Avi)),
            (b"RIFF\0\0\0\0WAVEfmt ", None),
            (b"\0\0\0\x18ftypisom", Some(Kind::Mp4)),
            (b"\0\0\0\x14ftypqt  ", Some(Kind::QuickTime)),
            (b"\0\0\0\x18ftypavif", Some(Kind::Avif)),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", Some(Kind::WebM)),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", Some(Kind::Matroska)),
            (b"BMW builds cars, not bitmaps", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(sniff(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn short_input_is_unknown() {
        for length in 0..3 {
            assert_eq!(sniff(&b"\xff\xd8\xff"[..length]), None);
        }
    }
}
