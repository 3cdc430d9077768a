//! What baseline JPEG loses: cosine coefficients of blocks of 8, rounded to multiples that grow as the quality falls
//! (ITU-T T.81, the example tables of annex K, scaled as libjpeg does). What it does not lose, the coding, is left out.
//! Written out here because encoders and decoders round differently by version and by processor.

use std::f32::consts::PI;

use crate::train::synth::canvas::Canvas;

const BLOCK: usize = 8;
const AREA: usize = BLOCK * BLOCK;

#[rustfmt::skip]
const LUMA: [f32; AREA] = [
    16.0, 11.0, 10.0, 16.0,  24.0,  40.0,  51.0,  61.0,
    12.0, 12.0, 14.0, 19.0,  26.0,  58.0,  60.0,  55.0,
    14.0, 13.0, 16.0, 24.0,  40.0,  57.0,  69.0,  56.0,
    14.0, 17.0, 22.0, 29.0,  51.0,  87.0,  80.0,  62.0,
    18.0, 22.0, 37.0, 56.0,  68.0, 109.0, 103.0,  77.0,
    24.0, 35.0, 55.0, 64.0,  81.0, 104.0, 113.0,  92.0,
    49.0, 64.0, 78.0, 87.0, 103.0, 121.0, 120.0, 101.0,
    72.0, 92.0, 95.0, 98.0, 112.0, 100.0, 103.0,  99.0,
];

#[rustfmt::skip]
const CHROMA: [f32; AREA] = [
    17.0, 18.0, 24.0, 47.0, 99.0, 99.0, 99.0, 99.0,
    18.0, 21.0, 26.0, 66.0, 99.0, 99.0, 99.0, 99.0,
    24.0, 26.0, 56.0, 99.0, 99.0, 99.0, 99.0, 99.0,
    47.0, 66.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0,
    99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0,
    99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0,
    99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0,
    99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0,
];

type Block = [f32; AREA];

/// Takes from the picture what JPEG would at quality 3 + 30 (1 - strength)², and nothing at strength 0.
pub(super) fn lose(canvas: &mut Canvas, strength: f32) {
    if strength <= 0.0 {
        return;
    }
    let kept = 1.0 - strength;
    let quality = 2.0 + 24.0 * kept * kept;
    let scale = if quality < 50.0 { 50.0 / quality } else { 2.0 - quality / 50.0 };
    let steps = [LUMA, CHROMA, CHROMA].map(|table| table.map(|step| (step * scale).round().clamp(1.0, 255.0)));
    let cosines = cosines();
    let side = canvas.side;
    for (top, left) in (0..side).step_by(BLOCK).flat_map(|top| (0..side).step_by(BLOCK).map(move |left| (top, left))) {
        let mut planes = [[0.0; AREA]; 3];
        for i in 0..AREA {
            let (x, y) = (left + i % BLOCK, top + i / BLOCK);
            let values = to_ycc(canvas.nearest(x as isize, y as isize));
            planes.iter_mut().zip(values).for_each(|(plane, value)| plane[i] = value);
        }
        for (plane, steps) in planes.iter_mut().zip(&steps) {
            let mut coefficients = transform(&cosines, plane);
            coefficients.iter_mut().zip(steps).for_each(|(value, step)| *value = (*value / step).round() * step);
            *plane = restore(&cosines, &coefficients);
        }
        let [luma, blue, red] = planes;
        for (i, ((luma, blue), red)) in luma.into_iter().zip(blue).zip(red).enumerate() {
            let (x, y) = (left + i % BLOCK, top + i / BLOCK);
            if x < side && y < side {
                canvas.pixels[y * side + x] = to_rgb([luma, blue, red]);
            }
        }
    }
}

/// The cosine of frequency u (row) at place x (column), scaled so that the transform keeps lengths.
fn cosines() -> Block {
    std::array::from_fn(|i| {
        let (u, x) = ((i / BLOCK) as f32, (i % BLOCK) as f32);
        let scale = if u == 0.0 { libm::sqrtf(0.125) } else { 0.5 };
        scale * libm::cosf((2.0 * x + 1.0) * u * PI / 16.0)
    })
}

/// `cosines * block * cosines transposed`.
fn transform(cosines: &Block, block: &Block) -> Block {
    let turned: Block = std::array::from_fn(|i| {
        let (row, u) = (i / BLOCK, i % BLOCK);
        (0..BLOCK).map(|x| block[row * BLOCK + x] * cosines[u * BLOCK + x]).sum()
    });
    std::array::from_fn(|i| {
        let (v, u) = (i / BLOCK, i % BLOCK);
        (0..BLOCK).map(|y| turned[y * BLOCK + u] * cosines[v * BLOCK + y]).sum()
    })
}

/// `cosines transposed * coefficients * cosines`.
fn restore(cosines: &Block, coefficients: &Block) -> Block {
    let turned: Block = std::array::from_fn(|i| {
        let (v, x) = (i / BLOCK, i % BLOCK);
        (0..BLOCK).map(|u| coefficients[v * BLOCK + u] * cosines[u * BLOCK + x]).sum()
    });
    std::array::from_fn(|i| {
        let (y, x) = (i / BLOCK, i % BLOCK);
        (0..BLOCK).map(|v| turned[v * BLOCK + x] * cosines[v * BLOCK + y]).sum()
    })
}

/// JFIF's luma, centred on 0 as the transform wants it, and colour differences.
fn to_ycc([r, g, b]: [f32; 3]) -> [f32; 3] {
    let luma = 0.299 * r + 0.587 * g + 0.114 * b;
    [luma - 128.0, 0.564_334 * (b - luma), 0.713_267 * (r - luma)]
}

fn to_rgb([luma, blue, red]: [f32; 3]) -> [f32; 3] {
    let luma = luma + 128.0;
    [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue]
}
