//! Pillow's 8-bit bicubic resize, bit for bit (`Resample.c` of Pillow 12): rows first, then columns, each pass skipped
//! where it would change nothing, 8 bits between the passes, weights as 22-bit fixed-point numbers. Unlike Pillow, both
//! passes go over the source once, a few rows at a time: a narrow and very tall picture would be many times its own
//! size between the passes.
//!
//! The passes are two shapes of one sum: a column's pixels in [`ROWS`] rows at once, then a row's samples side by side,
//! [`LANES`] of them, every one times the same weight. [`lanes`] does these sums with AVX2 where the processor has it.

mod across;
mod down;
mod lanes;
mod windows;

use self::across::Across;
use self::down::Down;
use self::lanes::{LANES, Lanes, Plain, ROWS};

/// Resizes `width * height * 3` bytes of packed RGB to `side * side * 3`, squashing the aspect ratio. `rgb` must be of
/// that length and every size at least 1.
///
/// Beside the result, memory grows with `width + height` (the weights and a few rows) and with the few output rows that
/// a source row reaches, never with the number of pixels.
pub fn resize(rgb: &[u8], width: u32, height: u32, side: u32) -> Vec<u8> {
    let (width, height, side) = (width as usize, height as usize, side as usize);
    assert_eq!(rgb.len(), width * height * 3, "the picture is not {width}x{height}");
    if (width, height) == (side, side) {
        return rgb.to_vec();
    }
    let resize = Resize { rgb, width, height, side };
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        return avx2.vectorize(OnAvx2(avx2, resize));
    }
    resize.run(Plain)
}

/// One call's arguments.
struct Resize<'a> {
    rgb: &'a [u8],
    width: usize,
    height: usize,
    side: usize,
}

impl Resize<'_> {
    /// Inlined, like all that takes [`Lanes`], into the one function that is compiled for the processor at hand.
    #[inline(always)]
    fn run<L: Lanes>(&self, lanes: L) -> Vec<u8> {
        let Self { rgb, width, height, side } = *self;
        let mut across = (width != side).then(|| Across::new(width, side));
        let mut down = (height != side).then(|| Down::new(height, side));
        let mut band = Band::new(side);
        let mut out = Vec::with_capacity(side * side * 3 + LANES);
        for source in rgb.chunks(ROWS * width * 3) {
            match &mut across {
                Some(across) => across.resize(lanes, source, &mut band),
                None => band.copy(source),
            }
            match &mut down {
                Some(down) => down.add(lanes, &band, &mut out),
                None => band.append_to(&mut out),
            }
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
struct OnAvx2<'a>(pulp::x86::V3, Resize<'a>);

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for OnAvx2<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn call(self) -> Vec<u8> {
        self.1.run(self.0)
    }
}

/// Up to [`ROWS`] consecutive rows at the output's width, on their way from one pass to the other. Rows are padded to
/// whole chunks of [`LANES`] samples and whole groups of 4 pixels.
struct Band {
    /// Bytes of a row that are pixels.
    row_bytes: usize,
    /// Chunks of a row.
    stride: usize,
    chunks: Vec<[u8; LANES]>,
    /// Rows that hold something.
    rows: usize,
}

impl Band {
    fn new(side: usize) -> Self {
        let stride = (side.div_ceil(4) * 12).div_ceil(LANES);
        Self { row_bytes: side * 3, stride, chunks: vec![[0; LANES]; stride * ROWS], rows: 0 }
    }

    /// Takes rows that need no resizing.
    fn copy(&mut self, source: &[u8]) {
        let rows = source.chunks_exact(self.row_bytes);
        self.rows = rows.len();
        for (row, copy) in rows.zip(self.chunks.chunks_exact_mut(self.stride)) {
            copy.as_flattened_mut()[..self.row_bytes].copy_from_slice(row);
        }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        for row in self.chunks.chunks_exact(self.stride).take(self.rows) {
            out.extend_from_slice(&row.as_flattened()[..self.row_bytes]);
        }
    }
}
