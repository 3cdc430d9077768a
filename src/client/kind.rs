//! Image or video: which RPC a file belongs to. The server decides for good; this only picks the door.

use std::path::Path;

/// What an item is scored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By ScoreImage.
    Image,
    /// By ScoreVideo.
    Video,
}

impl Kind {
    /// `image` or `video`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
        }
    }
}

/// By content where the first bytes are known, else by the end of the name.
pub fn of(bytes: &[u8], path: &Path) -> Option<Kind> {
    by_content(bytes).or_else(|| by_name(path))
}

/// By the end of the name.
pub fn by_name(path: &Path) -> Option<Kind> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "png" | "jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff" => Some(Kind::Image),
        "mp4" | "m4v" | "mov" | "webm" | "mkv" | "avi" => Some(Kind::Video),
        _ => None,
    }
}

/// True for the GIF signature, animated or not.
pub fn is_gif(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a")
}

fn by_content(bytes: &[u8]) -> Option<Kind> {
    if is_gif(bytes) {
        return Some(if is_animated_gif(bytes) { Kind::Video } else { Kind::Image });
    }
    const IMAGES: [&[u8]; 6] = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"];
    if IMAGES.iter().any(|magic| bytes.starts_with(magic)) {
        return Some(Kind::Image);
    }
    const MATROSKA: &[u8] = b"\x1a\x45\xdf\xa3";
    if bytes.starts_with(MATROSKA) {
        return Some(Kind::Video);
    }
    if bytes.starts_with(b"RIFF") {
        return match bytes.get(8..12)? {
            b"WEBP" => Some(Kind::Image),
            b"AVI " => Some(Kind::Video),
            _ => None,
        };
    }
    match bytes.get(4..8)? {
        b"ftyp" => Some(match bytes.get(8..12)? {
            b"avif" | b"avis" | b"heic" | b"heix" | b"mif1" | b"msf1" => Kind::Image,
            _ => Kind::Video,
        }),
        // QuickTime files older than the `ftyp` box, and files that begin with padding.
        b"moov" | b"mdat" | b"wide" | b"free" | b"skip" => Some(Kind::Video),
        // A bitmap's two letters are too few to trust without its reserved zeros.
        _ if bytes.starts_with(b"BM") && bytes.get(6..10)? == [0; 4] => Some(Kind::Image),
        _ => None,
    }
}

/// True when a GIF holds a second frame; false as soon as its blocks stop making sense.
fn is_animated_gif(bytes: &[u8]) -> bool {
    frames_up_to_two(bytes).unwrap_or(1) > 1
}

/// Walks the blocks of a GIF (GIF89a, section 15 and after) without decoding them.
fn frames_up_to_two(bytes: &[u8]) -> Option<u32> {
    const EXTENSION: u8 = 0x21;
    const IMAGE: u8 = 0x2c;
    let colour_table = |flags: u8| if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 };
    let skip_sub_blocks = |mut at: usize| loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length => at += 1 + usize::from(length),
        }
    };
    let mut at = 13 + colour_table(*bytes.get(10)?);
    let mut frames = 0;
    while frames < 2 {
        match bytes.get(at).copied() {
            Some(EXTENSION) => at = skip_sub_blocks(at + 2)?,
            Some(IMAGE) => {
                frames += 1;
                at = skip_sub_blocks(at + 11 + colour_table(*bytes.get(at + 9)?)).unwrap_or(bytes.len());
            }
            _ => break,
        }
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gif(frames: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
        for _ in 0..frames {
            encoder.encode_frame(image::Frame::new(image::RgbaImage::new(3, 2))).unwrap();
        }
        drop(encoder);
        bytes
    }

    #[test]
    fn only_a_gif_that_moves_is_a_video() {
        let still = gif(1);
        let moving = gif(3);
        assert_eq!(of(&still, Path::new("a.mp4")), Some(Kind::Image));
        assert_eq!(of(&moving, Path::new("a.gif")), Some(Kind::Video));
        for length in 0..moving.len() {
            of(&moving[..length], Path::new("a.gif"));
        }
    }

    #[test]
    fn content_wins_over_the_name() {
        let cases: [(&[u8], &str, Option<Kind>); 12] = [
            (b"\x89PNG\r\n\x1a\n....", "a.mp4", Some(Kind::Image)),
            (b"\xff\xd8\xff\xe0", "a", Some(Kind::Image)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "a.avi", Some(Kind::Image)),
            (b"RIFF\x10\0\0\0AVI LIST", "a.webp", Some(Kind::Video)),
            (b"RIFF\x10\0\0\0WAVEfmt ", "a.wav", None),
            (b"\0\0\0\x18ftypisom", "a.png", Some(Kind::Video)),
            (b"\0\0\0\x18ftypavif", "a.png", Some(Kind::Image)),
            (b"\0\0\0\x08moov", "a", Some(Kind::Video)),
            (b"\x1a\x45\xdf\xa3", "a.png", Some(Kind::Video)),
            (b"BM\x46\0\0\0\0\0\0\0\x36\0", "a", Some(Kind::Image)),
            (b"BMusic is text", "a.txt", None),
            (b"plain text", "A.JPEG", Some(Kind::Image)),
        ];
        for (bytes, name, kind) in cases {
            assert_eq!(of(bytes, Path::new(name)), kind, "{name} {bytes:?}");
        }
        assert_eq!(of(b"", Path::new("a.mov")), Some(Kind::Video));
        assert_eq!(of(b"", Path::new(".png")), None);
    }
}
