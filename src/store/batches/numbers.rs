//! The numbers that a store gives out, each only once.
//!
//! Keeps true: the next numbers in a commit are above every number in its rows. A number is not given out twice after a
//! crash: each opening skips more numbers than the batches that a crash can lose may have used
//! (`docs/decisions/0007-id-gaps.md`).

use crate::chunk::ChunkId;
use crate::meta::rows::State;
use crate::meta::versions::Version;
use crate::sync::{AtomicU64, Ordering};

/// Inode numbers below this are the root's and the control directory's.
pub const FIRST_INO: u64 = 16;

/// Numbers skipped at each opening: more than the two batches that a crash can lose give out.
pub const NUMBER_GAP: u64 = 1 << 20;

/// The next numbers.
#[derive(Debug)]
pub struct Numbers {
    /// The next ChunkId; ordered by the locks of the region builders.
    pub chunk: AtomicU64,
    ino: AtomicU64,
    /// Counts down.
    version: AtomicU64,
    subvolume: AtomicU64,
    /// Raised by the flip while nobody can join.
    generation: AtomicU64,
}

impl Numbers {
    /// Continues after the numbers in `state`.
    pub fn after(state: &State) -> Self {
        let fresh = state.next_ino == FIRST_INO;
        Self {
            // A crash may have left bytes or handles with numbers that no commit recorded; those are not reused.
            chunk: AtomicU64::new(state.next_chunk + NUMBER_GAP),
            ino: AtomicU64::new(state.next_ino + if fresh { 0 } else { NUMBER_GAP }),
            // These are durable before anybody sees them.
            version: AtomicU64::new(state.next_version),
            subvolume: AtomicU64::new(state.next_subvolume),
            generation: AtomicU64::new(state.generation),
        }
    }

    /// The next ChunkId.
    pub fn next_chunk(&self) -> ChunkId {
        ChunkId(self.chunk.load(Ordering::Acquire))
    }

    /// A new inode number; none is ever given twice.
    pub fn new_ino(&self) -> u64 {
        self.ino.fetch_add(1, Ordering::Relaxed)
    }

    /// The next inode number.
    pub fn next_ino(&self) -> u64 {
        self.ino.load(Ordering::Acquire)
    }

    /// A new version, below all others.
    pub fn new_version(&self) -> Version {
        Version(self.version.fetch_sub(1, Ordering::Relaxed))
    }

    /// The next version.
    pub fn next_version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The number of a new subvolume.
    pub fn new_subvolume(&self) -> u64 {
        self.subvolume.fetch_add(1, Ordering::Relaxed)
    }

    /// The next number of a subvolume.
    pub fn next_subvolume(&self) -> u64 {
        self.subvolume.load(Ordering::Acquire)
    }

    /// The present generation.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Begins the next generation and returns its number.
    pub fn raise_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }
}
