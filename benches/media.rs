//! Bytes to squares: the resize beside fast_image_resize (whose pixels differ; the ratio of the times is what is looked
//! for), the decoders, and both together on one and on two threads.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{Rgb, RgbImage};
use pcqa::media::{Cancel, ImageLimits, decode_image, resize};

const SIDE: u32 = 448;

/// Waves with a little noise: neither flat nor noise alone, as photographs are.
fn picture(width: u32, height: u32) -> RgbImage {
    let mut state = 1u32;
    RgbImage::from_fn(width, height, |x, y| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (x, y) = (x as f32 / 37.0, y as f32 / 23.0);
        let wave = 110.0 + 60.0 * x.sin() * y.cos() + 30.0 * (x * 5.0 + y * 7.0).sin();
        let noise = (state % 16) as f32;
        Rgb([wave + noise, wave * 0.7 + noise + 20.0, 240.0 - wave + noise].map(|level| level as u8))
    })
}

/// The picture in the three formats that most requests bring.
fn files(picture: &RgbImage) -> [(&'static str, Vec<u8>); 3] {
    let (mut png, mut jpeg, mut webp) = (Vec::new(), Vec::new(), Vec::new());
    picture.write_with_encoder(PngEncoder::new(&mut png)).expect("a writable buffer");
    picture.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, 90)).expect("a writable buffer");
    picture.write_with_encoder(WebPEncoder::new_lossless(&mut webp)).expect("a writable buffer");
    [("png", png), ("jpeg", jpeg), ("webp", webp)]
}

fn decode(bytes: &[u8]) -> RgbImage {
    decode_image(bytes, &ImageLimits::default(), &Cancel::new()).expect("a good picture")
}

fn squared(picture: &RgbImage) -> Vec<u8> {
    resize(picture, picture.width(), picture.height(), SIDE)
}

fn squared_by_fast_image_resize(resizer: &mut Resizer, picture: &RgbImage) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let source = ImageRef::new(width, height, picture, PixelType::U8x3).expect("packed RGB");
    let mut square = Image::new(SIDE, SIDE, PixelType::U8x3);
    let bicubic = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize(&source, &mut square, &bicubic).expect("two pictures of the same kind");
    square.into_vec()
}

fn resizing(criterion: &mut Criterion) {
    for (width, height) in [(1024, 1024), (1920, 1080), (SIDE, SIDE)] {
        let picture = picture(width, height);
        let mut group = criterion.benchmark_group(format!("resize {width}x{height} to {SIDE}"));
        group.throughput(Throughput::Elements(u64::from(width) * u64::from(height)));
        group.bench_function("pcqa", |bencher| bencher.iter(|| squared(black_box(&picture))));
        let mut resizer = Resizer::new();
        group.bench_function("fast_image_resize", |bencher| {
            bencher.iter(|| squared_by_fast_image_resize(&mut resizer, black_box(&picture)));
        });
        group.finish();
    }
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode 1024x1024");
    for (format, bytes) in files(&picture(1024, 1024)) {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format, |bencher| bencher.iter(|| decode(black_box(&bytes))));
    }
    group.finish();
}

/// Elements are pictures: twice as many a second on two threads is perfect. The JPEG decoder brings threads of its own,
/// so that one of ours already keeps more than one core busy.
fn scaling(criterion: &mut Criterion) {
    const PICTURES: usize = 4;
    for (format, bytes) in files(&picture(1024, 1024)) {
        let mut group = criterion.benchmark_group(format!("decode {format} 1024x1024 and resize to {SIDE}"));
        for threads in [1, 2] {
            group.throughput(Throughput::Elements((threads * PICTURES) as u64));
            group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
                bencher.iter(|| {
                    thread::scope(|scope| {
                        for _ in 0..threads {
                            scope.spawn(|| (0..PICTURES).for_each(|_| drop(black_box(squared(&decode(&bytes))))));
                        }
                    });
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = media;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = resizing, decoding, scaling
}
criterion_main!(media);
