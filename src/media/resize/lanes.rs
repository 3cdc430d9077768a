//! The arithmetic on many samples at once. A window's sum is exact in 32 bits, so that the order of its terms and the
//! way in which it is computed change nothing.

use super::windows::FRACTION;

/// Rows that are resized at once.
pub(super) const ROWS: usize = 8;
/// Samples that are summed at once: a pixel of every row, padded to 4 bytes.
pub(super) const LANES: usize = ROWS * 4;
/// Pixels of a row that are moved at once.
pub(super) const GROUP: usize = 4;
/// A group as it lies in a row, and 4 bytes that are nobody's.
pub(super) type Packed = [u8; GROUP * 3 + 4];

const HALF: i32 = 1 << (FRACTION - 1);

/// What both passes are made of.
pub(super) trait Lanes: Copy {
    /// [`LANES`] sums.
    type Sums: Copy;

    /// Sums of nothing: one half, so that cutting off the fraction rounds.
    fn half(self) -> Self::Sums;

    /// Adds `levels`, each times `weight`, to `sums`.
    fn add(self, sums: &mut Self::Sums, levels: &[u8; LANES], weight: i32);

    /// The sums without their fractions, clamped to 8 bits.
    fn levels(self, sums: Self::Sums) -> [u8; LANES];

    /// A group of pixels of every row to a group of columns of pixels.
    fn to_columns(self, rows: [Packed; ROWS]) -> [[u8; LANES]; GROUP];

    /// The reverse.
    fn to_rows(self, columns: [[u8; LANES]; GROUP]) -> [Packed; ROWS];
}

/// For every processor.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Lanes for Plain {
    type Sums = [i32; LANES];

    fn half(self) -> Self::Sums {
        [HALF; LANES]
    }

    // Inlined, the compiler takes many rows at a time instead of many lanes, which is slower.
    #[inline(never)]
    fn add(self, sums: &mut Self::Sums, levels: &[u8; LANES], weight: i32) {
        for (sum, &level) in sums.iter_mut().zip(levels) {
            *sum += i32::from(level) * weight;
        }
    }

    fn levels(self, sums: Self::Sums) -> [u8; LANES] {
        sums.map(|sum| (sum >> FRACTION).clamp(0, 255) as u8)
    }

    fn to_columns(self, rows: [Packed; ROWS]) -> [[u8; LANES]; GROUP] {
        let mut columns = [[0; LANES]; GROUP];
        for (r, row) in rows.iter().enumerate() {
            for (column, pixel) in columns.iter_mut().zip(row.as_chunks::<3>().0) {
                column[r * 4..][..3].copy_from_slice(pixel);
            }
        }
        columns
    }

    fn to_rows(self, columns: [[u8; LANES]; GROUP]) -> [Packed; ROWS] {
        let mut rows = [[0; _]; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            for (column, pixel) in columns.iter().zip(row.as_chunks_mut::<3>().0) {
                pixel.copy_from_slice(&column[r * 4..][..3]);
            }
        }
        rows
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256i;

    use pulp::cast;
    use pulp::x86::V3;

    use super::{FRACTION, GROUP, HALF, LANES, Lanes, Packed, ROWS};

    /// Zeroes the byte.
    const NONE: u8 = 0x80;

    impl Lanes for V3 {
        type Sums = [__m256i; 4];

        #[inline(always)]
        fn half(self) -> Self::Sums {
            [self.avx._mm256_set1_epi32(HALF); 4]
        }

        #[inline(always)]
        fn add(self, sums: &mut Self::Sums, levels: &[u8; LANES], weight: i32) {
            let weight = self.avx._mm256_set1_epi32(weight);
            for (sum, &eight) in sums.iter_mut().zip(levels.as_chunks::<8>().0) {
                let levels = self.avx2._mm256_cvtepu8_epi32(cast([eight, [0; 8]]));
                *sum = self.avx2._mm256_add_epi32(*sum, self.avx2._mm256_mullo_epi32(levels, weight));
            }
        }

        #[inline(always)]
        fn levels(self, [s0, s1, s2, s3]: Self::Sums) -> [u8; LANES] {
            let avx2 = self.avx2;
            let [s0, s1, s2, s3] = [
                avx2._mm256_srai_epi32::<{ FRACTION as i32 }>(s0),
                avx2._mm256_srai_epi32::<{ FRACTION as i32 }>(s1),
                avx2._mm256_srai_epi32::<{ FRACTION as i32 }>(s2),
                avx2._mm256_srai_epi32::<{ FRACTION as i32 }>(s3),
            ];
            let packed = avx2._mm256_packus_epi16(avx2._mm256_packs_epi32(s0, s1), avx2._mm256_packs_epi32(s2, s3));
            // Packing goes over each half of a register by itself.
            cast(avx2._mm256_permutevar8x32_epi32(packed, cast([0u32, 4, 1, 5, 2, 6, 3, 7])))
        }

        #[inline(always)]
        fn to_columns(self, [r0, r1, r2, r3, r4, r5, r6, r7]: [Packed; ROWS]) -> [[u8; LANES]; GROUP] {
            let spread = cast([[0, 1, 2, NONE, 3, 4, 5, NONE, 6, 7, 8, NONE, 9, 10, 11, NONE]; 2]);
            let spread = |low, high| self.avx2._mm256_shuffle_epi8(cast([low, high]), spread);
            cast(transpose(self, [spread(r0, r4), spread(r1, r5), spread(r2, r6), spread(r3, r7)]))
        }

        #[inline(always)]
        fn to_rows(self, columns: [[u8; LANES]; GROUP]) -> [Packed; ROWS] {
            let pack = cast([[0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, NONE, NONE, NONE, NONE]; 2]);
            let pack = |pixels| cast::<_, [Packed; 2]>(self.avx2._mm256_shuffle_epi8(pixels, pack));
            let [r0, r1, r2, r3] = transpose(self, cast(columns));
            let [[r0, r4], [r1, r5], [r2, r6], [r3, r7]] = [pack(r0), pack(r1), pack(r2), pack(r3)];
            [r0, r1, r2, r3, r4, r5, r6, r7]
        }
    }

    /// Four by four pixels, in each half of the registers.
    #[inline(always)]
    fn transpose(simd: V3, [r0, r1, r2, r3]: [__m256i; 4]) -> [__m256i; 4] {
        let avx2 = simd.avx2;
        let (upper_left, upper_right) = (avx2._mm256_unpacklo_epi32(r0, r1), avx2._mm256_unpackhi_epi32(r0, r1));
        let (lower_left, lower_right) = (avx2._mm256_unpacklo_epi32(r2, r3), avx2._mm256_unpackhi_epi32(r2, r3));
        [
            avx2._mm256_unpacklo_epi64(upper_left, lower_left),
            avx2._mm256_unpackhi_epi64(upper_left, lower_left),
            avx2._mm256_unpacklo_epi64(upper_right, lower_right),
            avx2._mm256_unpackhi_epi64(upper_right, lower_right),
        ]
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;
    use pulp::x86::V3;

    use super::*;

    /// What every sum of a window's terms can be, and the way there.
    fn summed<L: Lanes>(lanes: L, terms: &[([u8; LANES], i32)]) -> [u8; LANES] {
        let mut sums = lanes.half();
        terms.iter().for_each(|(levels, weight)| lanes.add(&mut sums, levels, *weight));
        lanes.levels(sums)
    }

    proptest! {
        #[test]
        fn every_processor_computes_the_same(
            terms in proptest::collection::vec((any::<[u8; LANES]>(), -(1 << 20)..(1 << 22)), 0..2),
            rows: [Packed; ROWS],
            columns: [[u8; LANES]; GROUP],
        ) {
            let Some(avx2) = V3::try_new() else { return Ok(()) };
            prop_assert_eq!(summed(Plain, &terms), summed(avx2, &terms));

            // The fourth byte of a pixel in a column and the last four of a row are nobody's.
            let pixels = |columns: [[u8; LANES]; GROUP]| columns.as_flattened().as_chunks::<4>().0.iter()
                .map(|&[red, green, blue, _]| [red, green, blue]).collect::<Vec<_>>();
            prop_assert_eq!(pixels(Plain.to_columns(rows)), pixels(avx2.to_columns(rows)));
            let packed = |rows: [Packed; ROWS]| rows.map(|row| row[..GROUP * 3].to_vec());
            prop_assert_eq!(packed(Plain.to_rows(columns)), packed(avx2.to_rows(columns)));
            prop_assert_eq!(packed(Plain.to_rows(Plain.to_columns(rows))), packed(rows));
        }
    }
}
