//! Group commit.
//!
//! Keeps true: a batch enters the database in one durable transaction, after its last member has left (I5), after its
//! regions were appended and synced (I1), and after the previous batch. A failed sync or transaction is final: the
//! store is latched (I8). A full disk while a region is appended is no such failure: everything is still in memory, so
//! the batch stays sealed, and the next commit continues with it.

mod direct;

use std::time::Duration;

use crate::error::{Error, Result};
use crate::meta::rows::{STATE_KEY, State, digest};
use crate::meta::{Counter, Memtable, Meta, Table};
use crate::sabotage::{Protection, out};
use crate::sync::thread::caught;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

use super::batches::{Batch, Batches, Numbers, PendingRegion};
use super::chunks::Chunks;
use super::healing::Healing;
use super::packs::Packs;
use super::space::SpaceKeeper;
use super::workers::Pool;

/// The commits of one store.
pub struct Commits {
    meta: Arc<Meta>,
    batches: Arc<Batches>,
    packs: Arc<Packs>,
    healing: Arc<Healing>,
    chunks: Arc<Chunks>,
    numbers: Arc<Numbers>,
    space: Arc<SpaceKeeper>,
    workers: Arc<Pool>,
    /// One commit at a time.
    committing: Mutex<CommitState>,
    /// The sums in the database.
    counters: Mutex<Sums>,
    /// Bytes of rows committed since the last metadata backup.
    changed: AtomicU64,
}

/// A sum over the whole store for each [`Counter`].
pub type Sums = [i64; Counter::ALL.len()];

/// The parts of a store that its commits use.
pub struct Parts {
    /// Where rows become durable.
    pub meta: Arc<Meta>,
    /// What is committed.
    pub batches: Arc<Batches>,
    /// Synced before rows point to them.
    pub packs: Arc<Packs>,
    /// The bytes that batches supply for bad chunks.
    pub healing: Arc<Healing>,
    /// Write the regions of a batch.
    pub chunks: Arc<Chunks>,
    /// Recorded with each commit.
    pub numbers: Arc<Numbers>,
    /// Gives up its reserve on a full disk.
    pub space: Arc<SpaceKeeper>,
    /// Their urgent jobs are done while waiting for regions.
    pub workers: Arc<Pool>,
}

/// Guarded by the lock of commits.
#[derive(Debug, Default)]
struct CommitState {
    /// A sealed batch whose commit did not finish, because the disk was full.
    unfinished: Option<Arc<Batch>>,
    /// ChunkIds below this belong to the sealed batch or to earlier ones.
    sealed_below: u64,
}

impl Commits {
    /// Begins with the sums in the database.
    pub fn new(sums: Sums, parts: Parts) -> Self {
        let Parts { meta, batches, packs, healing, chunks, numbers, space, workers } = parts;
        Self {
            meta,
            batches,
            packs,
            healing,
            chunks,
            numbers,
            space,
            workers,
            committing: Mutex::new(CommitState::default()),
            counters: Mutex::new(sums),
            changed: AtomicU64::new(0),
        }
    }

    /// Makes everything durable that is in a batch when this is called. Concurrent callers share a commit.
    pub fn commit(&self) -> Result<()> {
        let wanted = self.batches.open();
        if wanted.rows.is_empty() && self.batches.committed() + 1 == wanted.number {
            return Ok(());
        }
        let mut state = self.committing.lock();
        if self.batches.committed() >= wanted.number {
            return Ok(());
        }
        self.batches.writable()?;
        self.finish(&mut state)?;
        if self.batches.committed() >= wanted.number {
            return Ok(());
        }
        self.swap_batch(&mut state, || {});
        self.finish(&mut state)
    }

    /// Seals the open batch. `at_swap` runs in the moment in which nobody can join. Returns how long joining was
    /// blocked.
    fn swap_batch(&self, state: &mut CommitState, at_swap: impl FnOnce()) -> Duration {
        let (old, held) = self.batches.seal(|_, next| {
            at_swap();
            state.sealed_below = self.numbers.next_chunk().0;
            self.meta.seal(next.rows.clone());
        });
        state.unfinished = Some(old);
        held
    }

    /// Swaps batches, with `at_swap` in the moment between them, and commits everything before it; for the flip.
    pub fn commit_with(&self, at_swap: impl FnOnce()) -> Result<Duration> {
        let mut state = self.committing.lock();
        self.batches.writable()?;
        self.finish(&mut state)?;
        let held = self.swap_batch(&mut state, at_swap);
        self.finish(&mut state)?;
        Ok(held)
    }

    /// Finishes the commit of the sealed batch, if there is one.
    fn finish(&self, state: &mut CommitState) -> Result<()> {
        let Some(batch) = state.unfinished.clone() else {
            return Ok(());
        };
        caught(|| self.finish_batch(state, &batch)).unwrap_or_else(|| {
            let error = Error::panicked("a commit");
            self.batches.latch().set(&error);
            Err(error)
        })
    }

    fn finish_batch(&self, state: &mut CommitState, batch: &Arc<Batch>) -> Result<()> {
        batch.wait_until_empty().inspect_err(|error| self.batches.latch().set(error))?;
        for (region, _) in batch.regions.take_failed() {
            // The disk was full the last time; it may have space now.
            self.chunks.write_region(batch, region);
        }
        self.write_open_regions(batch)?;
        self.healing.append(batch).inspect_err(|error| {
            if !error.is_no_space() {
                self.batches.latch().set(error);
            }
        })?;
        self.space.prepare(batch.rows.bytes());
        let synced = if out(Protection::BytesBeforeNames) { Ok(()) } else { self.packs.sync() };
        let result = synced.and_then(|()| self.apply(batch));
        match result {
            Ok(()) => {
                self.batches.is_durable(batch, state.sealed_below);
                self.changed.fetch_add(batch.rows.bytes(), Ordering::Relaxed);
                self.batches.forget_sealed();
                state.unfinished = None;
                self.space.committed();
                Ok(())
            }
            Err(error) => {
                self.batches.latch().set(&error);
                Err(error)
            }
        }
    }

    /// Closes the batch's last region and waits until all of them are in packs.
    fn write_open_regions(&self, batch: &Arc<Batch>) -> Result<()> {
        if let Some(region) = batch.regions.close() {
            self.chunks.write_region(batch, region);
        }
        loop {
            while batch.regions.is_writing() && self.workers.help() {}
            let failed = batch.regions.wait();
            let Some((_, error)) = failed.first() else {
                return Ok(());
            };
            let retry = error.is_no_space() && self.space.give_up_reserve();
            if !retry {
                return Err(self.keep_failed(batch, failed));
            }
            for (region, _) in failed {
                self.chunks.write_region(batch, region);
            }
        }
    }

    /// Puts regions that could not be written back to where the next commit finds them.
    fn keep_failed(&self, batch: &Batch, failed: Vec<(Arc<PendingRegion>, Error)>) -> Error {
        let errno = failed.first().map_or(libc::EIO, |(_, error)| error.errno());
        for (region, error) in failed {
            if !error.is_no_space() {
                self.batches.latch().set(&error);
            }
            batch.regions.failed(region, Error::Posix(errno));
        }
        Error::Posix(errno)
    }

    /// One durable transaction with all rows of the batch (I1: its packs were synced before).
    fn apply(&self, batch: &Batch) -> Result<()> {
        let mut txn = self.meta.kv().write()?;
        for table in Table::ALL {
            batch.rows.with_changes(table, |changes| {
                let changes = changes.iter().map(|(key, value)| (key, value.as_ref()));
                if table == Table::Digests {
                    // Batches only add chunks to digests. The previous batch may have stored the same bytes.
                    let named = changes.filter_map(|(key, value)| Some((key, value?)));
                    return txn.merge(table, named, digest::both);
                }
                txn.apply(table, changes)
            })?;
        }
        let mut counters = self.counters.lock();
        let mut sums = *counters;
        for counter in Counter::ALL {
            sums[counter as usize] += batch.rows.counted(counter);
        }
        let healed = self.healing.point_rows(batch, &mut txn, &mut sums)?;
        txn.put(Table::State, STATE_KEY, &self.state(sums).encode())?;
        txn.commit(true)?;
        *counters = sums;
        // The lock of the counters is still held, so that no sum counts the batch twice or not at all.
        self.meta.publish(true)?;
        self.healing.are_healed(&healed);
        Ok(())
    }

    /// The state row with these sums. Its next numbers may be higher than the batch needs, never lower.
    fn state(&self, counters: Sums) -> State {
        State {
            generation: self.numbers.generation(),
            next_chunk: self.numbers.next_chunk().0,
            next_ino: self.numbers.next_ino(),
            next_pack: self.packs.next().0,
            counters,
        }
    }

    /// A sum over the whole store, the open batches included.
    pub fn counter(&self, counter: Counter) -> u64 {
        let sums = self.counters.lock();
        let (layers, base) = (self.meta.now(), sums[counter as usize]);
        let sealed = layers.sealed.as_ref().map_or(0, |batch: &Arc<Memtable>| batch.counted(counter));
        (base + sealed + layers.active.counted(counter)).max(0) as u64
    }

    /// Bytes of rows committed since the last [`Self::begin_changes`].
    pub fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }

    /// Resets the changed bytes to 0; returns how many there were.
    pub fn begin_changes(&self) -> u64 {
        self.changed.swap(0, Ordering::Relaxed)
    }

    /// Adds `bytes` back to the changed bytes, after a failed backup.
    pub fn still_changed(&self, bytes: u64) {
        self.changed.fetch_add(bytes, Ordering::Relaxed);
    }
}
