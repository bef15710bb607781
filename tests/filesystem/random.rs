//! Random numbers that a printed seed brings back.

pub use cairnfs::media::sim::Rng as Random;

pub use crate::seed::{seed, seeds};

/// Bytes that are the same for the same `kind`, so that equal content comes up again and again.
pub fn content(kind: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(kind);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.draw().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
