//! The numbers that a store gives out, each only once.
//!
//! Keeps true: the next numbers in a commit are above every number in its rows. A number is not given out twice after a
//! crash: each opening skips more numbers than the batches that a crash can lose may have used
//! (`docs/decisions/0007-id-gaps.md`).

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::rows::State;
use crate::meta::versions::Version;
use crate::meta::versions::subvolumes::{LOCAL_LIMIT, SUBVOLUME_LIMIT};
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

    /// A new inode number; none is ever given twice. ENOSPC once all are given: a greater one would be that of an
    /// inode in another subvolume.
    pub fn new_ino(&self) -> Result<u64> {
        next(&self.ino, LOCAL_LIMIT, "inode")
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

    /// The number of a new subvolume; ENOSPC once all are given.
    pub fn new_subvolume(&self) -> Result<u64> {
        next(&self.subvolume, SUBVOLUME_LIMIT, "subvolume")
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

fn next(of: &AtomicU64, limit: u64, what: &str) -> Result<u64> {
    let more = |number: u64| (number < limit).then(|| number + 1);
    of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| {
        tracing::error!("this store has given all {limit} numbers of its kind: no new {what} can be made");
        Error::Posix(libc::ENOSPC)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::versions::subvolumes::public_ino;

    #[test]
    fn the_last_number_is_given_and_none_after_it() {
        let last = |limit: u64| AtomicU64::new(limit - 1);
        let numbers = Numbers {
            chunk: AtomicU64::new(1),
            ino: last(LOCAL_LIMIT),
            version: AtomicU64::new(1),
            subvolume: last(SUBVOLUME_LIMIT),
            generation: AtomicU64::new(1),
        };
        assert_eq!(numbers.new_ino().unwrap(), (1 << 36) - 1);
        let highest = numbers.new_subvolume().unwrap();
        assert_eq!(highest, (1 << 27) - 1);
        assert!(
            public_ino(highest, LOCAL_LIMIT - 1) < 1 << 63,
            "the numbers from there on are the control directory's"
        );
        for _ in 0..2 {
            assert!(matches!(numbers.new_ino(), Err(Error::Posix(libc::ENOSPC))));
            assert!(matches!(numbers.new_subvolume(), Err(Error::Posix(libc::ENOSPC))));
        }
        assert_eq!((numbers.next_ino(), numbers.next_subvolume()), (1 << 36, 1 << 27));
    }
}
