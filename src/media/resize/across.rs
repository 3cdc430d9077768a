//! The first pass: every row to the output's width.

use super::Band;
use super::lanes::{GROUP, LANES, Lanes, Packed, ROWS};
use super::windows::Windows;

const GROUP_BYTES: usize = GROUP * 3;

/// Resizes bands of rows.
pub(super) struct Across {
    windows: Windows,
    row_bytes: usize,
    /// The band turned on its side: for every source column its pixel in every row.
    columns: Vec<[[u8; LANES]; GROUP]>,
}

impl Across {
    pub(super) fn new(width: usize, side: usize) -> Self {
        let columns = vec![[[0; LANES]; GROUP]; width.div_ceil(GROUP)];
        Self { windows: Windows::new(width, side), row_bytes: width * 3, columns }
    }

    /// Resizes 1 to [`ROWS`] rows of `source` into `band`.
    #[inline(always)]
    pub(super) fn resize<L: Lanes>(&mut self, lanes: L, source: &[u8], band: &mut Band) {
        // Where the picture ends within the band, its first row stands for those that are missing; nobody reads them.
        let mut rows = [&source[..self.row_bytes]; ROWS];
        let present = source.chunks_exact(self.row_bytes);
        band.rows = present.len();
        rows.iter_mut().zip(present).for_each(|(row, present)| *row = present);

        let row_bytes = band.stride * LANES;
        let resized = band.chunks.as_flattened_mut();
        let mut turned = 0;
        let mut group = [[0; LANES]; GROUP];
        for position in 0..self.windows.len() {
            let (start, weights) = self.windows.get(position);
            // Turned when first needed, to be used while it is in the nearest cache.
            while turned * GROUP < start + weights.len() {
                self.columns[turned] = lanes.to_columns(pixels(rows, turned * GROUP_BYTES));
                turned += 1;
            }
            let mut sums = lanes.half();
            for (column, &weight) in self.columns.as_flattened()[start..].iter().zip(weights) {
                lanes.add(&mut sums, column, weight);
            }
            group[position % GROUP] = lanes.levels(sums);
            if position % GROUP == GROUP - 1 || position + 1 == self.windows.len() {
                let at = position / GROUP * GROUP_BYTES;
                for (row, pixels) in resized.chunks_exact_mut(row_bytes).zip(lanes.to_rows(group)) {
                    row[at..at + GROUP_BYTES].copy_from_slice(&pixels[..GROUP_BYTES]);
                }
            }
        }
    }
}

/// The group of pixels of every row that begins at the byte `at`; zeros beyond the end of a row.
#[inline(always)]
fn pixels(rows: [&[u8]; ROWS], at: usize) -> [Packed; ROWS] {
    let mut group = [Packed::default(); ROWS];
    for (pixels, row) in group.iter_mut().zip(rows) {
        match row[at..].first_chunk() {
            Some(chunk) => *pixels = *chunk,
            None => *pixels = padded(&row[at..]),
        }
    }
    group
}

/// Out of line, lest the compiler make one copy of unknown length out of both.
#[cold]
fn padded(rest: &[u8]) -> Packed {
    let mut pixels = Packed::default();
    pixels[..rest.len()].copy_from_slice(rest);
    pixels
}
