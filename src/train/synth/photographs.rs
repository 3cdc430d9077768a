//! Real pictures as the source of distortions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::canvas::Canvas;
use super::distort::Distortion;
use crate::media::{Cancel, ImageLimits, decode_image, resize};

/// What is taken for a picture by its name.
const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];

const LIMITS: ImageLimits = ImageLimits { max_bytes: 1 << 28, max_pixels: 1 << 28 };

/// Rising, since what is wanted of a judge is that its score falls.
const STRENGTHS: [f32; 5] = [0.2, 0.4, 0.6, 0.8, 1.0];

/// A photograph, cropped to its middle square and brought to the side of the data.
pub(super) struct Photograph {
    /// Unlike all others'.
    pub(super) name: String,
    /// The words of its file's name.
    pub(super) prompt: String,
    pub(super) canvas: Canvas,
}

/// The pictures of a folder, in the order of their names.
pub(super) fn read(folder: &Path, side: u32) -> anyhow::Result<Vec<Photograph>> {
    let place = || format!("{}: cannot be read", folder.display());
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).with_context(place)? {
        paths.push(entry.with_context(place)?.path());
    }
    paths.retain(|path| is_picture(path));
    paths.sort();
    if paths.is_empty() {
        bail!("{}: holds no pictures (expected names that end in {})", folder.display(), EXTENSIONS.join(", "));
    }
    let read = |(number, path): (usize, &PathBuf)| {
        read_one(number, path, side).with_context(|| path.display().to_string())
    };
    paths.iter().enumerate().map(read).collect()
}

/// Nothing, then every distortion of a picture at rising strengths.
pub(super) fn ladder() -> impl Iterator<Item = Option<(Distortion, f32)>> {
    let rungs = |&distortion: &Distortion| STRENGTHS.map(|strength| Some((distortion, strength)));
    std::iter::once(None).chain(Distortion::STILL.iter().flat_map(rungs))
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

fn read_one(number: usize, path: &Path, side: u32) -> anyhow::Result<Photograph> {
    let picture = decode_image(&fs::read(path)?, &LIMITS, &Cancel::new())?;
    let (width, height) = picture.dimensions();
    let square = width.min(height);
    let cropped =
        image::imageops::crop_imm(&picture, (width - square) / 2, (height - square) / 2, square, square).to_image();
    let rgb = resize(cropped.as_raw(), square, square, side);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Photograph {
        name: format!("{number:03}-{stem}"),
        prompt: stem.replace(['-', '_'], " "),
        canvas: Canvas::from_bytes(side as usize, &rgb),
    })
}
