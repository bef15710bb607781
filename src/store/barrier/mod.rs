//! The barrier: decides whether an existing chunk may get a new reference.
//!
//! Keeps true (I4, I6): while a cycle runs, a chunk from before its flip gets a new reference only after its cell was
//! marked. If the collector condemned it first, the caller has to store the bytes again. While no cycle runs, nothing
//! is decided, because nothing is freed.
//!
//! It relies on `batches/` and `gc/` for this: a caller is a member of an open batch from before it looked the chunk up
//! until its reference is in that batch. The flip waits for members that asked before the barrier was armed. The end of
//! the cycle waits for members that may hold an answer from before the sweep (I9).
//!
//! Simpler ways fail. A clock ("chunks younger than a day stay") guesses the length of the longest backup. A list of
//! snapshots, made at the start, misses a later snapshot whose base is pruned before the list reaches it. Marking only
//! newly written chunks loses reused ones.

pub mod cells;

use crate::chunk::ChunkId;
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, RwLock};

use cells::{Cell, Cells};

/// The barrier of one store.
#[derive(Debug, Default)]
pub struct Barrier {
    /// The cells of the running cycle. Locked only to clone or to replace them.
    cells: RwLock<Option<Arc<Cells>>>,
}

/// May an existing chunk get a new reference?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Yes, and it will stay.
    Reuse,
    /// No, it is condemned: store the bytes as a new chunk.
    StoreAnew,
}

fn marks_on_hit() -> bool {
    !out(Protection::MarkOnHit)
}

impl Barrier {
    /// Asks for one chunk.
    pub fn reuse(&self, id: ChunkId) -> Verdict {
        let cells = self.cells.read();
        match cells.as_ref() {
            Some(_) if !marks_on_hit() => Verdict::Reuse,
            Some(cells) if id < cells.watermark() => match cells.mark(id) {
                Cell::Condemned => Verdict::StoreAnew,
                Cell::Marked | Cell::White => Verdict::Reuse,
            },
            // No cycle, or an id above the watermark.
            _ => Verdict::Reuse,
        }
    }

    /// Asks for a run that a live extent already refers to (a clone). Such a run cannot be condemned, since the mark
    /// saw its extent or its extent passed this barrier. If an id is returned, it is condemned, which proves damage.
    pub fn reuse_run(&self, first: ChunkId, count: u64) -> Option<ChunkId> {
        let cells = self.cells.read();
        cells.as_ref().and_then(|cells| cells.mark_run(first, count).1)
    }

    /// Begins a cycle. From here on the cells decide every reuse of an id below their watermark.
    pub fn arm(&self, cells: Arc<Cells>) {
        let mut slot = self.cells.write();
        debug_assert!(slot.is_none(), "one cycle at a time");
        *slot = Some(cells);
    }

    /// Ends a cycle. Call this only after every cache of condemned ids was cleared (I9).
    pub fn disarm(&self) {
        *self.cells.write() = None;
    }

    /// True while a cycle runs.
    pub fn is_armed(&self) -> bool {
        self.cells.read().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cycle_everything_is_reused_and_nothing_is_decided() {
        let barrier = Barrier::default();
        assert_eq!(barrier.reuse(ChunkId(3)), Verdict::Reuse);
        let cells = Arc::new(Cells::new(ChunkId(10)));
        barrier.arm(cells.clone());
        assert_eq!(cells.get(ChunkId(3)), Cell::White);
    }

    #[test]
    fn in_a_cycle_reuse_marks_and_a_condemned_chunk_is_refused() {
        let barrier = Barrier::default();
        let cells = Arc::new(Cells::new(ChunkId(10)));
        barrier.arm(cells.clone());
        assert_eq!(barrier.reuse(ChunkId(3)), Verdict::Reuse);
        assert_eq!(cells.condemn(ChunkId(3)), Cell::Marked, "the reuse came first");
        assert_eq!(cells.condemn(ChunkId(4)), Cell::Condemned);
        assert_eq!(barrier.reuse(ChunkId(4)), Verdict::StoreAnew, "the sweep came first");
        assert_eq!(barrier.reuse(ChunkId(10)), Verdict::Reuse, "live by birth");
        assert_eq!(barrier.reuse_run(ChunkId(5), 2), None);
        assert_eq!(barrier.reuse_run(ChunkId(2), 5), Some(ChunkId(4)));
        barrier.disarm();
        assert!(!barrier.is_armed());
    }
}
