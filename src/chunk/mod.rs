//! Chunks: how file bytes are cut, named and recognised.
//!
//! Everything here is pure: no I/O, no locks, no state that outlives a call. The same bytes with the same parameters
//! must always be cut at the same places. A change of the cuts would not damage a store, but new data would no longer
//! be deduplicated against stored data.

pub mod cutter;
pub mod digest;
pub mod id;

pub use cutter::{CutIter, CutParams, Cutter};
pub use digest::Digest;
pub use id::ChunkId;

/// How many bytes [`is_zero`] looks at before it may stop: wide enough for two AVX-512 registers, so that the
/// compiler turns the inner loop into plain vector ORs without a branch per byte.
const BLOCK: usize = 128;

/// True where every byte is zero; an empty slice counts as zero.
pub fn is_zero(data: &[u8]) -> bool {
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    blocks.iter().all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn a_single_set_bit_is_seen_wherever_it_is() {
        for len in [0usize, 1, 7, 127, 128, 129, 1000, 4096] {
            let mut data = vec![0u8; len];
            assert!(is_zero(&data));
            for at in 0..len {
                data[at] = 1 << (at % 8);
                assert!(!is_zero(&data), "byte {at} of {len}");
                data[at] = 0;
            }
        }
    }
}
