//! What is refused, and in which words.

use pcqa::media::{ImageLimits, MediaError};
use serde::Deserialize;

use crate::{cases, decode, file, read, read_json};

/// A file that must be refused, and the name of the error's variant.
#[derive(Deserialize)]
struct Refused {
    file: String,
    error: String,
}

fn variant(error: &MediaError) -> &'static str {
    match error {
        MediaError::Empty => "Empty",
        MediaError::TooManyBytes { .. } => "TooManyBytes",
        MediaError::UnknownFormat { .. } => "UnknownFormat",
        MediaError::WrongKind { .. } => "WrongKind",
        MediaError::TooManyPixels { .. } => "TooManyPixels",
        MediaError::TooLongSide { .. } => "TooLongSide",
        MediaError::ZeroSized { .. } => "ZeroSized",
        MediaError::Corrupt { .. } => "Corrupt",
        _ => "another",
    }
}

#[test]
fn refusals_name_the_fault() {
    for case in read_json::<Refused>("refused.json") {
        let error = decode(&read(&format!("files/{}", case.file)), &ImageLimits::default()).unwrap_err();
        assert_eq!(variant(&error), case.error, "{}: {error}", case.file);
        assert!(error.is_callers_fault(), "{}", case.file);
    }
}

#[test]
fn limits_are_inclusive() {
    for case in cases() {
        let bytes = file(&case);
        let pixels = u64::from(case.width) * u64::from(case.height);
        let exact = ImageLimits { max_bytes: bytes.len() as u64, max_pixels: pixels };
        assert!(decode(&bytes, &exact).is_ok(), "{}", case.file);

        let fewer_bytes = ImageLimits { max_bytes: exact.max_bytes - 1, ..exact.clone() };
        let expected = MediaError::TooManyBytes { bytes: exact.max_bytes, limit: exact.max_bytes - 1 };
        assert_eq!(decode(&bytes, &fewer_bytes), Err(expected), "{}", case.file);

        let fewer_pixels = ImageLimits { max_pixels: pixels - 1, ..exact };
        let error = decode(&bytes, &fewer_pixels).unwrap_err();
        assert_eq!(variant(&error), "TooManyPixels", "{}: {error}", case.file);
    }
}

#[test]
fn no_side_is_longer_than_any_picture_has() {
    // A BMP of one pixel per row, as small as such a file gets.
    let bmp = |height: u32| {
        let mut bytes = vec![0; 54 + 4 * height as usize];
        bytes[..2].copy_from_slice(b"BM");
        for (at, value) in [(10, 54), (14, 40), (18, 1), (22, height), (26, 1 | 24 << 16)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    };
    let limits = ImageLimits::default();
    assert_eq!(decode(&bmp(65_535), &limits).unwrap().dimensions(), (1, 65_535));
    let error = decode(&bmp(65_536), &limits).unwrap_err();
    assert_eq!(error.to_string(), "is 1x65536 pixels, the longest side allowed is 65535");
    assert!(error.is_callers_fault());
}

#[test]
fn junk_before_the_frame_header_hides_no_size() {
    let mut bomb = read("files/bomb.jpg");
    let frame = bomb.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bomb.splice(frame..frame, *b"junk");
    let error = decode(&bomb, &ImageLimits::default()).unwrap_err();
    assert_eq!(variant(&error), "TooManyPixels", "{error}");
}

#[test]
fn scans_are_limited_since_each_costs_time_and_next_to_no_bytes() {
    let file = cases().into_iter().map(|case| case.file).find(|file| file.contains("progressive")).unwrap();
    let with_scans = |count: usize| {
        let mut bytes = read(&format!("files/{file}"));
        let comment = [0xff, 0xda].repeat(count);
        let length = u16::try_from(comment.len() + 2).unwrap().to_be_bytes();
        bytes.splice(2..2, [&[0xff, 0xfe], &length[..], &comment].concat());
        decode(&bytes, &ImageLimits::default())
    };
    with_scans(400).unwrap();
    assert_eq!(with_scans(501).unwrap_err().to_string(), "could not be decoded: it has more than 500 scans");
}

/// A RIFF chunk of even length.
fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [name, &(body.len() as u32).to_le_bytes()[..], body].concat()
}

/// An extended WebP of one pixel; the animation and the transparency that the flags announce follow in `chunks`.
fn extended_webp(flags: u8, chunks: &[u8]) -> Vec<u8> {
    let header = chunk(b"VP8X", &[flags, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chunk(b"RIFF", &[b"WEBP", &header[..], chunks].concat())
}

#[test]
fn no_canvas_hides_the_size_of_its_frame() {
    const ANIMATED: u8 = 2;
    // A key frame of 16383x16383 pixels with an empty first partition.
    let vp8 = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f, 0, 0, 0, 0, 0, 0];
    let frame = |chunks: &[u8]| {
        let animation = chunk(b"ANIM", &[0; 6]);
        [animation, chunk(b"ANMF", &[&[0; 16], chunks].concat())].concat()
    };
    let alpha = chunk(b"ALPH", &[0, 7]);
    let cases = [
        ("still", extended_webp(0, &chunk(b"VP8 ", &vp8)), "TooManyPixels"),
        ("animated", extended_webp(ANIMATED, &frame(&chunk(b"VP8 ", &vp8))), "TooManyPixels"),
        ("unnamed", extended_webp(ANIMATED, &frame(&[alpha, chunk(b"none", &vp8)].concat())), "Corrupt"),
    ];
    for (name, bytes, expected) in cases {
        let error = decode(&bytes, &ImageLimits::default()).unwrap_err();
        assert_eq!(variant(&error), expected, "{name}: {error}");
        assert!(name != "unnamed" || error.to_string().contains("another size"), "{error}");
    }
}

/// A one-strip little-endian TIFF with a palette of `bits` bits, 4x4 pixels.
fn palette_tiff(bits: u16) -> Vec<u8> {
    let colours = 3 << bits;
    let strip = 8 + 2 + 9 * 12 + 4;
    let length = u32::from(bits * 4).div_ceil(8) * 4;
    // Tag, type (3: 16 bits, 4: 32 bits), count, value.
    let entries: [(u16, u16, u32, u32); 9] = [
        (256, 3, 1, 4),
        (257, 3, 1, 4),
        (258, 3, 1, bits.into()),
        (259, 3, 1, 1),
        (262, 3, 1, 3),
        (273, 4, 1, strip),
        (278, 3, 1, 4),
        (279, 4, 1, length),
        (320, 3, colours, strip + length),
    ];
    let mut bytes = b"II\x2a\0\x08\0\0\0\x09\0".to_vec();
    for (tag, kind, count, value) in entries {
        bytes.extend([tag, kind].map(u16::to_le_bytes).concat());
        bytes.extend([count, value].map(u32::to_le_bytes).concat());
    }
    bytes.resize((strip + length + colours * 2) as usize, 0);
    bytes
}

#[test]
fn palettes_of_unusual_depths_are_refused() {
    for bits in 1..=8 {
        let decoded = decode(&palette_tiff(bits), &ImageLimits::default());
        match bits {
            1 | 2 | 4 | 8 => assert!(decoded.is_ok(), "{bits}: {decoded:?}"),
            _ => {
                let expected = format!("could not be decoded: palettes of {bits} bits are not supported");
                assert_eq!(decoded.unwrap_err().to_string(), expected);
            }
        }
    }
}

#[test]
fn no_tiff_hides_the_size_of_its_jpeg() {
    let mut jpeg = read("files/bomb.jpg");
    let size = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap() + 5;
    jpeg[size..size + 4].copy_from_slice(&[16_000u16, 16_000].map(u16::to_be_bytes).concat());
    let mut bytes = palette_tiff(8);
    let strip = bytes.len() as u32;
    // Entries in their order: compression, interpretation, where the strip is and how long.
    for (entry, value) in [(3, 7), (4, 1), (5, strip), (7, jpeg.len() as u32)] {
        let at = 10 + entry * 12 + 8;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes.extend(jpeg);
    let error = decode(&bytes, &ImageLimits::default()).unwrap_err();
    assert!(error.to_string().starts_with("is 16000x16000 = "), "{error}");
}

#[test]
fn a_video_is_named_as_such() {
    let videos: [(&[u8], &str); 7] = [
        (b"\0\0\0\x18ftypisom\0\0\x02\0", "an MP4 video"),
        (b"\0\0\0\x14ftypqt  \0\0\x02\0", "a QuickTime video"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", "a WebM video"),
        (b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\x01\x42\x82\x88matroska", "a Matroska video"),
        (b"RIFF\x24\x10\0\0AVI LIST", "an AVI video"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
    ];
    for (bytes, name) in videos {
        match decode(bytes, &ImageLimits::default()) {
            Err(MediaError::WrongKind { found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn unknown_bytes_are_told_what_is_known() {
    let error = decode(b"plain text", &ImageLimits::default()).unwrap_err();
    assert_eq!(error.to_string(), "is not in a known format; expected a PNG, JPEG, WebP, GIF, BMP or TIFF image");
}
