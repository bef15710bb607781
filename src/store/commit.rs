//! Group commit.
//!
//! Keeps true: a batch enters the database in one durable transaction, after the last of its members has left (I5),
//! after its regions were appended and synced (I1), and after the batch before it. A sync or a transaction that fails
//! is final: the store is latched (I8). A disk that is full when a region is appended is not a failure of that kind:
//! nothing is lost that is not still in memory, so the batch waits, sealed, and the next commit goes on with it.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::meta::rows::{STATE_KEY, State, digest};
use crate::meta::{Counter, Table};
use crate::sabotage::{Protection, out};
use crate::sync::thread::caught;
use crate::sync::{Arc, Ordering};

use super::Store;
use super::batch::Batch;
use super::region_builder::PendingRegion;

/// Guarded by the lock of commits.
#[derive(Debug, Default)]
pub(super) struct CommitState {
    /// A sealed batch whose commit has not come to its end: it failed on a full disk.
    unfinished: Option<Arc<Batch>>,
    /// ChunkIds below this belong to the sealed batch or to earlier ones.
    sealed_below: u64,
}

impl Store {
    /// Makes everything durable that was in a batch when this was called. Callers at the same time share the work.
    pub fn commit(self: &Arc<Self>) -> Result<()> {
        let wanted = self.gate.open();
        if wanted.rows.is_empty() && self.committed.load(Ordering::Acquire) + 1 == wanted.number {
            return Ok(());
        }
        let mut state = self.committing.lock();
        if self.committed.load(Ordering::Acquire) >= wanted.number {
            return Ok(());
        }
        self.writable()?;
        self.finish(&mut state)?;
        if self.committed.load(Ordering::Acquire) >= wanted.number {
            return Ok(());
        }
        self.swap_batch(&mut state, || {});
        self.finish(&mut state)
    }

    /// Seals the open batch. `at_swap` runs in the moment in which nobody can join. Returns how long joining was held.
    fn swap_batch(&self, state: &mut CommitState, at_swap: impl FnOnce()) -> Duration {
        let (old, held) = self.gate.swap(|old, next| {
            at_swap();
            // Before the new batch is the open one: a reader looks into the open batch first, then into this.
            *self.sealed.write() = Some(old.clone());
            state.sealed_below = self.next_chunk.load(Ordering::Acquire);
            self.meta.seal(next.rows.clone());
        });
        state.unfinished = Some(old);
        held
    }

    /// Swaps batches with `at_swap` in the moment between them, and commits everything before it; for the flip.
    pub(super) fn commit_with(self: &Arc<Self>, at_swap: impl FnOnce()) -> Result<Duration> {
        let mut state = self.committing.lock();
        self.writable()?;
        self.finish(&mut state)?;
        let held = self.swap_batch(&mut state, at_swap);
        self.finish(&mut state)?;
        Ok(held)
    }

    /// Brings the sealed batch, if there is one, to its end.
    fn finish(self: &Arc<Self>, state: &mut CommitState) -> Result<()> {
        let Some(batch) = state.unfinished.clone() else {
            return Ok(());
        };
        caught(|| self.finish_batch(state, &batch)).unwrap_or_else(|| {
            let error = Error::panicked("a commit");
            self.latch(&error);
            Err(error)
        })
    }

    fn finish_batch(self: &Arc<Self>, state: &mut CommitState, batch: &Arc<Batch>) -> Result<()> {
        batch.wait_until_empty().inspect_err(|error| self.latch(error))?;
        for (region, _) in batch.regions.take_failed() {
            // The disk was full the last time; it may have room now.
            self.write_region(batch, region);
        }
        self.write_open_regions(batch)?;
        self.append_heals(batch).inspect_err(|error| {
            if !error.is_no_space() {
                self.latch(error);
            }
        })?;
        self.space.prepare(batch.rows.bytes());
        let synced = if out(Protection::BytesBeforeNames) { Ok(()) } else { self.writer.sync() };
        let result = synced.and_then(|()| self.apply(batch));
        match result {
            Ok(()) => {
                self.settled.store(state.sealed_below, Ordering::Release);
                self.committed.store(batch.number, Ordering::Release);
                self.changed.fetch_add(batch.rows.bytes(), Ordering::Relaxed);
                *self.sealed.write() = None;
                state.unfinished = None;
                self.space.committed();
                Ok(())
            }
            Err(error) => {
                self.latch(&error);
                Err(error)
            }
        }
    }

    /// Closes the batch's last region and waits until all of them are in packs.
    fn write_open_regions(self: &Arc<Self>, batch: &Arc<Batch>) -> Result<()> {
        if let Some(region) = batch.regions.close() {
            self.write_region(batch, region);
        }
        loop {
            while batch.regions.is_writing() && self.pool.help() {}
            let failed = batch.regions.wait();
            let Some((_, error)) = failed.first() else {
                return Ok(());
            };
            let retry = error.is_no_space() && self.space.give_up_reserve();
            if !retry {
                return Err(self.keep_failed(batch, failed));
            }
            for (region, _) in failed {
                self.write_region(batch, region);
            }
        }
    }

    /// Puts regions that could not be written back to where the next commit finds them.
    fn keep_failed(&self, batch: &Batch, failed: Vec<(Arc<PendingRegion>, Error)>) -> Error {
        let errno = failed.first().map_or(libc::EIO, |(_, error)| error.errno());
        for (region, error) in failed {
            if !error.is_no_space() {
                self.latch(&error);
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
                    // Batches name chunks and take none away. The batch before may have stored the same bytes.
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
        let healed = self.point_heals(batch, &mut txn, &mut sums)?;
        txn.put(Table::State, STATE_KEY, &self.state(sums).encode())?;
        txn.commit(true)?;
        *counters = sums;
        // With the counters' lock still held, a sum is never taken with the batch counted twice or not at all.
        self.meta.publish(true)?;
        self.healed(&healed);
        Ok(())
    }

    /// The state row with these sums. Numbers may be ahead of the batch that is committed, never behind it.
    pub(super) fn state(&self, counters: [i64; Counter::ALL.len()]) -> State {
        State {
            generation: self.generation.load(Ordering::Acquire),
            next_chunk: self.next_chunk.load(Ordering::Acquire),
            next_ino: self.next_ino.load(Ordering::Acquire),
            next_pack: self.writer.next_pack().0,
            counters,
        }
    }
}
