//! Still images against what Pillow makes of them: `golden/images/make_images.py` writes the files and the expectations.

use std::fs;
use std::path::PathBuf;

use image::RgbImage;
use pcqa::media::{ImageLimits, MediaError, decode_image, resize, sample_indices};
use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A file that Pillow reads.
#[derive(Deserialize)]
struct Case {
    file: String,
    width: u32,
    height: u32,
    /// How far a level may be off; 0 means that `sha256` holds.
    tolerance: u8,
    sha256: Option<String>,
    expected: Option<String>,
    /// Cut to one of these lengths, Pillow refuses the file.
    refused_lengths: Vec<usize>,
}

/// A file that must be refused, and the name of the error's variant.
#[derive(Deserialize)]
struct Refused {
    file: String,
    error: String,
}

#[derive(Deserialize)]
struct ResizeVector {
    width: u32,
    height: u32,
    side: u32,
    sha256: String,
}

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/images", name].iter().collect()
}

fn read(name: &str) -> Vec<u8> {
    fs::read(golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn read_json<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    serde_json::from_slice(&read(name)).unwrap()
}

fn cases() -> Vec<Case> {
    read_json("index.json")
}

fn file(case: &Case) -> Vec<u8> {
    read(&format!("files/{}", case.file))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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

/// What is wrong with our reading of a case, if anything.
fn fault(case: &Case) -> Option<String> {
    let picture = match decode_image(&file(case), &ImageLimits::default()) {
        Ok(picture) => picture,
        Err(error) => return Some(error.to_string()),
    };
    if picture.dimensions() != (case.width, case.height) {
        return Some(format!("{:?} instead of {:?}", picture.dimensions(), (case.width, case.height)));
    }
    if let Some(expected) = &case.sha256 {
        return (sha256(&picture) != *expected).then(|| "other pixels than Pillow's".to_owned());
    }
    let expected =
        image::load_from_memory(&read(&format!("expected/{}", case.expected.as_ref()?))).unwrap().into_rgb8();
    let largest = largest_difference(&picture, &expected);
    (largest > case.tolerance).then(|| format!("{largest} levels off, {} allowed", case.tolerance))
}

fn largest_difference(ours: &RgbImage, theirs: &RgbImage) -> u8 {
    ours.iter().zip(theirs.iter()).map(|(ours, theirs)| ours.abs_diff(*theirs)).max().unwrap_or(0)
}

#[test]
fn every_file_is_read_as_pillow_reads_it() {
    let cases = cases();
    let faults: Vec<_> = cases.iter().filter_map(|case| Some(format!("{}: {}", case.file, fault(case)?))).collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

#[test]
fn a_cut_that_pillow_refuses_is_refused() {
    let limits = ImageLimits::default();
    let mut accepted = Vec::new();
    for case in cases() {
        let bytes = file(&case);
        for &length in &case.refused_lengths {
            if decode_image(&bytes[..length], &limits).is_ok() {
                accepted.push(format!("{} cut to {length} of {}", case.file, bytes.len()));
            }
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

#[test]
fn refusals_name_the_fault() {
    for case in read_json::<Refused>("refused.json") {
        let error = decode_image(&read(&format!("files/{}", case.file)), &ImageLimits::default()).unwrap_err();
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
        assert!(decode_image(&bytes, &exact).is_ok(), "{}", case.file);

        let fewer_bytes = ImageLimits { max_bytes: exact.max_bytes - 1, ..exact.clone() };
        let expected = MediaError::TooManyBytes { bytes: exact.max_bytes, limit: exact.max_bytes - 1 };
        assert_eq!(decode_image(&bytes, &fewer_bytes), Err(expected), "{}", case.file);

        let fewer_pixels = ImageLimits { max_pixels: pixels - 1, ..exact };
        let error = decode_image(&bytes, &fewer_pixels).unwrap_err();
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
    assert_eq!(decode_image(&bmp(65_535), &limits).unwrap().dimensions(), (1, 65_535));
    let error = decode_image(&bmp(65_536), &limits).unwrap_err();
    assert_eq!(error.to_string(), "is 1x65536 pixels, the longest side allowed is 65535");
    assert!(error.is_callers_fault());
}

#[test]
fn junk_before_the_frame_header_hides_no_size() {
    let mut bomb = read("files/bomb.jpg");
    let frame = bomb.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bomb.splice(frame..frame, *b"junk");
    let error = decode_image(&bomb, &ImageLimits::default()).unwrap_err();
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
        decode_image(&bytes, &ImageLimits::default())
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
        let error = decode_image(&bytes, &ImageLimits::default()).unwrap_err();
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
        let decoded = decode_image(&palette_tiff(bits), &ImageLimits::default());
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
    let error = decode_image(&bytes, &ImageLimits::default()).unwrap_err();
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
        match decode_image(bytes, &ImageLimits::default()) {
            Err(MediaError::WrongKind { found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn unknown_bytes_are_told_what_is_known() {
    let error = decode_image(b"plain text", &ImageLimits::default()).unwrap_err();
    assert_eq!(error.to_string(), "is not in a known format; expected a PNG, JPEG, WebP, GIF, BMP or TIFF image");
}

/// The picture that make_images.py computes in the same way.
fn pattern(width: u32, height: u32) -> Vec<u8> {
    (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn resizing_equals_pillow() {
    for vector in read_json::<ResizeVector>("resize_vectors.json") {
        let ResizeVector { width, height, side, sha256: expected } = vector;
        let resized = resize(&pattern(width, height), width, height, side);
        assert_eq!(sha256(&resized), expected, "{width}x{height} to {side}");
    }
}

/// Any file of the index with a few bytes overwritten and perhaps its end missing.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let files: Vec<Vec<u8>> = cases().iter().map(file).collect();
    let file = proptest::sample::select(files);
    let writes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    (file, writes, any::<proptest::sample::Index>(), any::<bool>()).prop_map(|(mut bytes, writes, end, cut)| {
        for (at, byte) in writes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic_and_never_pass_a_limit(bytes in damaged()) {
        let limits = ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 16 };
        if let Ok(picture) = decode_image(&bytes, &limits) {
            prop_assert!(u64::from(picture.width()) * u64::from(picture.height()) <= limits.max_pixels);
            prop_assert!(picture.width() > 0 && picture.height() > 0);
        }
    }

    #[test]
    fn bytes_of_no_format_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_image(&bytes, &ImageLimits::default());
    }
}

proptest! {
    #[test]
    fn one_colour_stays_that_colour(rgb: [u8; 3], width in 1u32..60, height in 1u32..60, side in 1u32..60) {
        let resized = resize(&rgb.repeat((width * height) as usize), width, height, side);
        prop_assert_eq!(resized, rgb.repeat((side * side) as usize));
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing(side in 1u32..40) {
        let picture = pattern(side, side);
        prop_assert_eq!(resize(&picture, side, side, side), picture);
    }

    #[test]
    fn resizing_commutes_with_mirroring(width in 1u32..50, height in 1u32..50, side in 1u32..50) {
        let mirror = |rgb: Vec<u8>, width: u32, height: u32| {
            let picture = RgbImage::from_raw(width, height, rgb).unwrap();
            image::imageops::flip_vertical(&picture).into_raw()
        };
        let picture = pattern(width, height);
        let first = resize(&mirror(picture.clone(), width, height), width, height, side);
        let last = mirror(resize(&picture, width, height, side), side, side);
        prop_assert!(first.iter().zip(&last).all(|(a, b)| a.abs_diff(*b) <= 1));
    }

    #[test]
    fn sampled_frames_follow_the_rule(total in 0..u64::MAX / 64, max in 1u32..=16) {
        check_samples(total, max)?;
    }

    #[test]
    fn sampled_frames_of_short_clips_follow_the_rule(total in 0u64..200, max in 1u32..=16) {
        check_samples(total, max)?;
    }
}

fn check_samples(total: u64, max: u32) -> Result<(), TestCaseError> {
    let indices = sample_indices(total, max);
    prop_assert_eq!(indices.len() as u64, total.min(max.into()));
    prop_assert!(indices.windows(2).all(|pair| pair[0] < pair[1]), "ascending and distinct: {:?}", indices);
    prop_assert!(indices.iter().all(|&index| index < total), "in range: {:?}", indices);
    if total > u64::from(max) {
        // The centre of each of `max` equal segments.
        for (segment, &index) in indices.iter().enumerate() {
            let centre = (2 * segment as u128 + 1) * u128::from(total) / (2 * u128::from(max));
            prop_assert_eq!(u128::from(index), centre);
        }
    } else {
        prop_assert_eq!(indices, (0..total).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn sixteen_frames_of_a_minute() {
    // 1,800 frames: the first index is 1800 / 32.
    let indices = sample_indices(1800, 16);
    assert_eq!(indices.first(), Some(&56));
    assert_eq!(indices.last(), Some(&1743));
}
