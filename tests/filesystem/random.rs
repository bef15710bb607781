//! Random numbers that a printed seed brings back.

pub use cairnfs::media::sim::Rng as Random;

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

/// The seed of a run: from `CAIRNFS_SEED`, or else this one. Printed, so that a failure can be replayed.
pub fn seed(test: &str, otherwise: u64) -> u64 {
    let seed = std::env::var("CAIRNFS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    println!("{test}: CAIRNFS_SEED={seed}");
    seed
}
