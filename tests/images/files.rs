//! Files of every format, whole, cut and damaged.

use image::RgbImage;
use pcqa::media::ImageLimits;
use proptest::prelude::*;

use crate::{Case, cases, decode, file, read, sha256};

/// What is wrong with our reading of a case, if anything.
fn fault(case: &Case) -> Option<String> {
    let picture = match decode(&file(case), &ImageLimits::default()) {
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
            if decode(&bytes[..length], &limits).is_ok() {
                accepted.push(format!("{} cut to {length} of {}", case.file, bytes.len()));
            }
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
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
        if let Ok(picture) = decode(&bytes, &limits) {
            prop_assert!(u64::from(picture.width()) * u64::from(picture.height()) <= limits.max_pixels);
            prop_assert!(picture.width() > 0 && picture.height() > 0);
        }
    }

    #[test]
    fn bytes_of_no_format_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &ImageLimits::default());
    }
}
