//! The second pass: every column to the output's height, taking the source's rows in order.

use std::collections::VecDeque;

use super::Band;
use super::lanes::{Lanes, ROWS};
use super::windows::Windows;

/// Adds rows, weighted, to the output rows whose windows hold them.
pub(super) struct Down<L: Lanes> {
    windows: Windows,
    /// Source rows taken so far.
    taken: usize,
    /// Output rows complete so far.
    complete: usize,
    /// The sums of the output rows after them that have begun.
    open: VecDeque<Vec<L::Sums>>,
    /// Sums of complete rows, to be used again.
    spare: Vec<Vec<L::Sums>>,
}

impl<L: Lanes> Down<L> {
    pub(super) fn new(height: usize, side: usize) -> Self {
        let windows = Windows::new(height, side);
        Self { windows, taken: 0, complete: 0, open: VecDeque::new(), spare: Vec::new() }
    }

    /// Takes the next source rows and appends the output rows that they complete to `out`.
    #[inline(always)]
    pub(super) fn add(&mut self, lanes: L, band: &Band, out: &mut Vec<u8>) {
        let rows: [_; ROWS] = std::array::from_fn(|row| &band.chunks[row * band.stride..][..band.stride]);
        let end = self.taken + band.rows;
        for position in self.complete..self.windows.len() {
            let (start, weights) = self.windows.get(position);
            if start >= end {
                break;
            }
            let open = position - self.complete;
            if open == self.open.len() {
                let mut sums = self.spare.pop().unwrap_or_default();
                sums.clear();
                sums.resize(band.stride, lanes.half());
                self.open.push_back(sums);
            }
            // The part of the window that lies in this band.
            let rows = &rows[start.saturating_sub(self.taken)..band.rows];
            let weights_here = &weights[self.taken.saturating_sub(start)..];
            for (chunk, sums) in self.open[open].iter_mut().enumerate() {
                let mut more = *sums;
                for (row, &weight) in rows.iter().zip(weights_here) {
                    lanes.add(&mut more, &row[chunk], weight);
                }
                *sums = more;
            }
            // Windows end in their order, so that it is the first one.
            if start + weights.len() <= end
                && let Some(sums) = self.open.pop_front()
            {
                let length = out.len() + band.row_bytes;
                sums.iter().for_each(|&sums| out.extend_from_slice(&lanes.levels(sums)));
                out.truncate(length);
                self.spare.push(sums);
                self.complete += 1;
            }
        }
        self.taken = end;
    }
}
