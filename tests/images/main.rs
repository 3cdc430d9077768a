//! Still images against what Pillow makes of them: `golden/images/make_images.py` writes the files and the expectations.

mod cancel;
mod files;
mod frames;
mod refusals;
mod resize;

use std::fs;
use std::path::PathBuf;

use image::RgbImage;
use pcqa::media::{Cancel, ImageLimits, MediaError, decode_image};
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

/// Decodes for a caller who stays.
fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, MediaError> {
    decode_image(bytes, limits, &Cancel::new())
}
