//! The batches of a store: the open one, the one that is being committed, and which of them are durable.
//!
//! Keeps true: a reader that looks into the open batch first and then into the sealed one misses nothing, since a batch
//! is noted as sealed before another one becomes the open batch.

mod batch;
mod heals;
mod latch;
mod numbers;
mod regions;
mod usage;

use std::time::Duration;

use crate::chunk::ChunkId;
use crate::error::Result;
use crate::sync::{Arc, AtomicU64, Ordering, RwLock};

pub use batch::{Batch, Gate, Member};
pub use heals::{HealQueue, Healed, QueuedHeals};
pub use latch::Latch;
pub use numbers::{FIRST_INO, NUMBER_GAP, Numbers};
pub use regions::PendingRegion;
pub use usage::UsageChanges;

/// The batches of one store.
#[derive(Debug)]
pub struct Batches {
    gate: Gate,
    /// The batch that is being committed.
    sealed: RwLock<Option<Arc<Batch>>>,
    /// Number of the last batch that is durable.
    committed: AtomicU64,
    /// Every chunk with an id below this has its row in the database.
    in_database_below: AtomicU64,
    latch: Arc<Latch>,
}

impl Batches {
    /// Begins with `first`; chunks below `in_database_below` have their rows in the database.
    pub fn new(first: Arc<Batch>, in_database_below: u64, latch: Arc<Latch>) -> Self {
        Self {
            gate: Gate::new(first),
            sealed: RwLock::new(None),
            committed: AtomicU64::new(0),
            in_database_below: AtomicU64::new(in_database_below),
            latch,
        }
    }

    /// Joins the open batch. Take the locks of inodes first; see [`batch`].
    pub fn join(&self) -> Result<Member> {
        self.latch.check()?;
        Ok(self.gate.join())
    }

    /// Refuses where nothing may be changed.
    pub fn writable(&self) -> Result<()> {
        self.latch.check()
    }

    /// Whether changes are accepted.
    pub fn latch(&self) -> &Latch {
        &self.latch
    }

    /// The open batch, without joining.
    pub fn open(&self) -> Arc<Batch> {
        self.gate.open()
    }

    /// The number of the open batch.
    pub fn open_number(&self) -> u64 {
        self.open().number
    }

    /// Bytes of rows in the open batch.
    pub fn open_bytes(&self) -> u64 {
        self.open().rows.bytes()
    }

    /// The batches that are not durable. The open one comes first: a batch that is sealed in between may come twice,
    /// but is never missed.
    pub fn undurable(&self) -> impl Iterator<Item = Arc<Batch>> {
        let open = Some(self.gate.open());
        [open, self.sealed.read().clone()].into_iter().flatten()
    }

    /// True if a batch is sealed and not durable.
    pub fn is_committing(&self) -> bool {
        self.sealed.read().is_some()
    }

    /// Seals the open batch. Calls `at_swap` with it and the next one in the moment in which nobody can join. Returns
    /// the sealed batch and how long joining was blocked.
    pub fn seal(&self, at_swap: impl FnOnce(&Arc<Batch>, &Arc<Batch>)) -> (Arc<Batch>, Duration) {
        self.gate.swap(|old, next| {
            // Before the new batch is the open one: see above.
            *self.sealed.write() = Some(old.clone());
            at_swap(old, next);
        })
    }

    /// Notes that the sealed batch is durable, and so is the row of every chunk below `in_database_below`.
    pub fn mark_durable(&self, batch: &Batch, in_database_below: u64) {
        self.in_database_below.store(in_database_below, Ordering::Release);
        self.committed.store(batch.number, Ordering::Release);
    }

    /// Drops the sealed batch, which is durable.
    pub fn drop_sealed(&self) {
        *self.sealed.write() = None;
    }

    /// The number of the last batch that is durable.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// True if the row of this chunk is in the database.
    pub fn is_in_database(&self, id: ChunkId) -> bool {
        id.0 < self.in_database_below.load(Ordering::Acquire)
    }

    /// The number of the last batch all of whose rows are durable: that of the open batch while it is empty. Its
    /// members may still add rows, so ask after the relevant members have left.
    pub fn last_durable_number(&self) -> u64 {
        let open = self.gate.open();
        let committed = self.committed();
        let nothing_waits = committed + 1 == open.number && open.rows.is_empty();
        if nothing_waits { open.number } else { committed }
    }
}
