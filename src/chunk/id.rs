//! [`ChunkId`]: the name of a chunk inside one store.

use std::fmt;

/// The name of a chunk inside one store: given once, in increasing order, never reused. The order of ids is the order
/// in which chunks were made; the collector's watermark relies on that.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct ChunkId(pub u64);

impl ChunkId {
    /// The id given after this one.
    #[must_use]
    pub fn next(self) -> Self {
        self.offset(1)
    }

    /// The id `n` places after this one. At a million new chunks a second the ids last for 580,000 years.
    #[must_use]
    pub fn offset(self, n: u64) -> Self {
        Self(self.0.checked_add(n).expect("chunk ids are given one by one and cannot run out"))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
