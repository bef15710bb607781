//! Cutting by content: FastCDC (2020), with one level of normalization.
//!
//! What callers may rely on, each with a test below:
//! * the pieces, one after the other, are the data;
//! * every piece but the last is between `min` and `max` bytes long, the last is at most `max`;
//! * a cut depends only on the bytes since the previous cut. So every piece but the last of a prefix of some data is
//!   also a piece of the whole data, and so is the last piece if it is `max` bytes long. A stream can therefore be cut
//!   as it arrives, if its last piece is held back;
//! * inserting or removing bytes moves only the cuts near them.

use fastcdc::v2020::{self, Normalization};

use crate::error::{Error, Result};

/// The smallest average that can be asked for.
pub const AVG_MIN: u32 = 4 << 10;
/// The largest average that can be asked for. `max` is then 16 MiB, the limit of FastCDC's tables.
pub const AVG_MAX: u32 = 4 << 20;

/// The sizes of the chunks of a store, fixed when the store is made.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct CutParams {
    /// No piece but a file's last is shorter.
    pub min: u32,
    /// The average length of pieces of random bytes, approximately.
    pub avg: u32,
    /// No piece is longer.
    pub max: u32,
}

impl CutParams {
    /// Parameters for an average size, which must be a power of two between 4 KiB and 4 MiB.
    pub fn new(avg: u32) -> Result<Self> {
        if !avg.is_power_of_two() || !(AVG_MIN..=AVG_MAX).contains(&avg) {
            return Err(Error::Usage(format!(
                "an average chunk size of {avg} bytes is not possible; give a power of two between {AVG_MIN} (4 KiB) \
                 and {AVG_MAX} (4 MiB)"
            )));
        }
        Ok(Self { min: avg / 4, avg, max: avg * 4 })
    }
}

/// Cuts data into pieces. Holds no state between calls; one can serve all threads.
#[derive(Clone, Debug)]
pub struct Cutter {
    params: CutParams,
    /// FastCDC's masks for positions before and after the average.
    mask_small: u64,
    mask_large: u64,
}

impl Cutter {
    /// A cutter for these parameters.
    pub fn new(params: CutParams) -> Self {
        let (mask_small, mask_large) = v2020::select_masks(params.avg as usize, Normalization::Level1);
        Self { params, mask_small, mask_large }
    }

    /// The parameters.
    pub fn params(&self) -> &CutParams {
        &self.params
    }

    /// The pieces of `data`, in order; the last is whatever is left.
    pub fn cut<'a>(&self, data: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        CutIter { cutter: self.clone(), rest: data }
    }

    /// The length of the first piece of `data`, 0 for no data.
    pub fn first(&self, data: &[u8]) -> usize {
        v2020::cut(
            data,
            self.params.min as usize,
            self.params.avg as usize,
            self.params.max as usize,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
        )
        .1
    }
}

/// The iterator behind [`Cutter::cut`].
#[derive(Debug)]
pub struct CutIter<'a> {
    cutter: Cutter,
    rest: &'a [u8],
}

impl<'a> Iterator for CutIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at(self.cutter.first(self.rest));
        self.rest = rest;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::Digest;

    /// Bytes that look random and are the same in every run.
    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    fn cutter(avg: u32) -> Cutter {
        Cutter::new(CutParams::new(avg).unwrap())
    }

    #[test]
    fn only_powers_of_two_in_range_are_taken() {
        for avg in [0, 1, 2048, 5000, 4097, 8 << 20, u32::MAX] {
            assert!(CutParams::new(avg).is_err(), "{avg}");
        }
        for shift in 12..=22 {
            let params = CutParams::new(1 << shift).unwrap();
            assert_eq!((params.min * 4, params.max), (params.avg, params.avg * 4));
            // The largest parameters must suit the tables of the library, which only debug builds check.
            assert_eq!(Cutter::new(params).cut(&[7; 100]).count(), 1);
        }
    }

    /// Cut points are part of what makes a store deduplicate against its own past: another version of the library
    /// that cuts elsewhere must not come in unnoticed.
    #[test]
    fn cut_points_never_change() {
        let data = noise(1 << 20, 1);
        let lengths: Vec<u8> =
            cutter(16 << 10).cut(&data).flat_map(|piece| (piece.len() as u32).to_le_bytes()).collect();
        assert_eq!(format!("{:?}", Digest::of(&lengths)), "1b1ccca35fe4e8f7");
    }

    #[test]
    fn the_average_is_near_what_was_asked_for() {
        let data = noise(8 << 20, 2);
        let count = cutter(16 << 10).cut(&data).count();
        let average = data.len() / count;
        assert!((12 << 10..28 << 10).contains(&average), "the average is {average}");
    }

    #[test]
    fn zeros_are_cut_at_the_maximum() {
        let data = vec![0; 1 << 20];
        assert!(cutter(16 << 10).cut(&data).all(|piece| piece.len() == 64 << 10));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_are_the_data_and_within_bounds(len in 0usize..400_000, seed: u64, shift in 12u32..15) {
            let data = noise(len, seed);
            let cutter = cutter(1 << shift);
            let pieces: Vec<&[u8]> = cutter.cut(&data).collect();
            prop_assert_eq!(&pieces.concat(), &data);
            let (min, max) = (cutter.params().min as usize, cutter.params().max as usize);
            for (at, piece) in pieces.iter().enumerate() {
                prop_assert!(!piece.is_empty() && piece.len() <= max);
                prop_assert!(piece.len() >= min || at + 1 == pieces.len());
            }
        }

        #[test]
        fn a_prefix_is_cut_like_the_whole(len in 1usize..300_000, part in 0.0f64..1.0, seed: u64) {
            let data = noise(len, seed);
            let prefix = &data[..(len as f64 * part) as usize];
            let cutter = cutter(4096);
            let whole: Vec<&[u8]> = cutter.cut(&data).collect();
            let mut first: Vec<&[u8]> = cutter.cut(prefix).collect();
            if first.last().is_some_and(|last| last.len() < cutter.params().max as usize) {
                first.pop();
            }
            prop_assert_eq!(&whole[..first.len()], &first[..]);
        }

        #[test]
        fn bytes_put_in_front_move_few_cuts(front in 1usize..5000, seed: u64) {
            let data = noise(1 << 20, seed);
            let mut moved = noise(front, seed ^ 0x5eed);
            moved.extend_from_slice(&data);
            let cutter = cutter(4096);
            let known: std::collections::HashSet<&[u8]> = cutter.cut(&data).collect();
            let fresh: usize = cutter.cut(&moved).filter(|piece| !known.contains(piece)).map(<[u8]>::len).sum();
            prop_assert!(fresh < 200_000, "{} of {} bytes were cut anew", fresh, moved.len());
        }
    }
}
