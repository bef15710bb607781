//! Random numbers that a printed seed brings back.

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bytes that are the same for the same `kind`, so that equal content comes up again and again.
    pub fn content(kind: u64, len: usize) -> Vec<u8> {
        let mut random = Random::new(kind);
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// The seed of a run: from `CAIRNFS_SEED`, or else this one. Printed, so that a failure can be replayed.
pub fn seed(test: &str, otherwise: u64) -> u64 {
    let seed = std::env::var("CAIRNFS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    println!("{test}: CAIRNFS_SEED={seed}");
    seed
}
