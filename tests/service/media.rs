//! Images and clips made on the spot, good and bad.

use std::io::Cursor;
use std::process::Command;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// A picture of `width` by `height` in which every pixel differs from its neighbours; `seed` gives another picture.
pub fn picture(width: u32, height: u32, seed: u32) -> DynamicImage {
    let pixel = |x: u32, y: u32| {
        let wave = |n: u32| (n.wrapping_mul(37 + seed).wrapping_add(seed * 11) % 256) as u8;
        Rgb([wave(x), wave(y), wave(x + y)])
    };
    RgbImage::from_fn(width, height, pixel).into()
}

pub fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub fn png(seed: u32) -> Vec<u8> {
    encoded(&picture(96, 64, seed), ImageFormat::Png)
}

/// A PNG whose header promises `width` by `height` pixels and whose body holds one.
pub fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(&picture(1, 1, 0), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let check = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// An uncompressed TIFF whose directory promises `width` by `height` pixels of RGB and whose body holds none.
pub fn tiff_that_claims(width: u32, height: u32) -> Vec<u8> {
    let (short, long) = (3_u16, 4_u16);
    let length = width.wrapping_mul(height).wrapping_mul(3);
    let entries = [
        (256, long, width),
        (257, long, height),
        (258, short, 8),
        (259, short, 1),
        (262, short, 2),
        (273, long, 8),
        (277, short, 3),
        (278, long, height),
        (279, long, length),
    ];
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, value) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

/// What the ffmpeg command line makes of `arguments`, in a file that ends in `extension`.
pub fn ffmpeg(arguments: &str, extension: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(format!("clip.{extension}"));
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error"])
        .args(arguments.split_whitespace())
        .arg(&path)
        .output()
        .expect("the ffmpeg command line is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(path).unwrap()
}

/// An H.264 clip of `frames` frames.
pub fn clip(frames: u32) -> Vec<u8> {
    let arguments = format!("-f lavfi -i testsrc=size=128x96:rate=10 -frames:v {frames} -c:v libx264 -pix_fmt yuv420p");
    ffmpeg(&arguments, "mp4")
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
