//! What the collector may do to a store: flip, rewrite rows, free packs, end.
//!
//! The order in which these are called is `gc/`'s; what each of them keeps true by itself is said here.

use std::time::Duration;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::rows::{STATE_KEY, State};
use crate::meta::{Counter, ReadView, Table, WriteTxn};
use crate::pack::{Location, PackId};
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, Ordering};

use super::Store;
use super::cells::Cells;

/// What a flip led to.
pub struct FlipInfo {
    /// The generation that begins.
    pub generation: u64,
    /// The cells of the cycle; ids below their watermark are looked at.
    pub cells: Arc<Cells>,
    /// Packs below this are sealed, and all their regions have rows in the database.
    pub packs_below: PackId,
    /// How long writers were held.
    pub held: Duration,
}

impl Store {
    /// Raises the generation, arms the barrier, and takes the read snapshot once every batch of the generation before
    /// is in the database: all references from before the flip (I5). Let go of it after the mark: while it is held, no
    /// page of the database that changes can be used again.
    pub fn flip(self: &Arc<Self>) -> Result<(FlipInfo, ReadView)> {
        if self.barrier.is_armed() {
            // An earlier cycle could not wait for its grace period; it has to before the next one begins.
            self.end_cycle()?;
        }
        self.writer.seal()?;
        // In this order: whatever opens or rolls over meanwhile, no pack below the result is still written to.
        let next = self.writer.next_pack();
        let packs_below = match self.writer.open_pack() {
            _ if out(Protection::UnsealedStays) => PackId(u64::MAX),
            Some(open) => open.min(next),
            None => next,
        };
        let early = out(Protection::DrainBeforeSnapshot).then(|| self.meta.kv().read()).transpose()?;
        let mut armed = None;
        let held = self.commit_with(|| {
            let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
            // Without the watermark, chunks that are about to be born would be looked at like old ones.
            let beyond = if out(Protection::Watermark) { 4096 } else { 0 };
            let cells = Arc::new(Cells::new(self.next_chunk().offset(beyond)));
            self.barrier.arm(cells.clone());
            armed = Some((generation, cells));
        })?;
        // I5: the batch of the generation before has drained and is in the database.
        let view = match early {
            Some(view) => view,
            None => self.meta.kv().read()?,
        };
        let (generation, cells) =
            armed.ok_or_else(|| Error::CycleEnded("the flip did not happen".to_owned()))?;
        Ok((FlipInfo { generation, cells, packs_below, held }, view))
    }

    /// A cycle has found all that was garbage when `bytes` were counted as deleted: they are a reason for another no
    /// more. It is recorded with the end of the cycle, and after a crash the reason still stands.
    pub fn forget_deleted(&self, bytes: u64) -> Result<()> {
        self.join()?.rows.count(Counter::Deleted, -(bytes as i64));
        Ok(())
    }

    /// Ends a cycle (I9): forgets remembered answers, waits for members that may hold one, then disarms the barrier.
    /// If that fails, the barrier stays armed, which costs memory and nothing else.
    pub fn end_cycle(self: &Arc<Self>) -> Result<()> {
        if !out(Protection::ForgetRemembered) {
            self.locality.forget_all();
        }
        if !out(Protection::Grace) {
            self.commit_with(|| {})?;
        }
        self.barrier.disarm();
        Ok(())
    }

    /// Changes rows directly in the database, in one transaction, with the store's sums.
    pub fn rewrite<R>(
        &self,
        durable: bool,
        change: impl FnOnce(&mut WriteTxn<'_>, &mut [i64; Counter::ALL.len()]) -> Result<R>,
    ) -> Result<R> {
        self.writable()?;
        let mut txn = self.meta.kv().write()?;
        let mut counters = self.counters.lock();
        let mut sums = *counters;
        let result = change(&mut txn, &mut sums)?;
        // Only the sums: the other numbers belong to the commits of batches.
        let row = txn.get(Table::State, STATE_KEY)?;
        let state = match row {
            Some(row) => State { counters: sums, ..State::decode(&row)? },
            None => self.state(sums),
        };
        let written = txn
            .put(Table::State, STATE_KEY, &state.encode())
            .and_then(|()| txn.commit(durable))
            .and_then(|()| {
                *counters = sums;
                self.meta.publish(false)
            });
        written.inspect_err(|error| self.latch(error))?;
        Ok(result)
    }

    /// All packs there are, by the names of their files.
    pub fn packs(&self) -> Result<Vec<PackId>> {
        crate::pack::list_packs(self.media.as_ref())
    }

    /// Length and allocated bytes of a pack's file.
    pub fn pack_size(&self, pack: PackId) -> Result<(u64, u64)> {
        let failed = |error| Error::io(format!("looking at {}", pack.path()), error);
        let file = self.media.open(&pack.path(), false).map_err(failed)?;
        Ok((file.len().map_err(failed)?, file.allocated().map_err(failed)?))
    }

    /// Removes a pack nothing refers to. Only after the batch that removed its last name is durable (I3).
    pub fn remove_pack(&self, pack: PackId) -> Result<()> {
        self.media
            .remove(&pack.path())
            .map_err(|error| Error::io(format!("removing {}", pack.path()), error))?;
        self.reader.forget(pack);
        Ok(())
    }

    /// Where the records of a pack that is no longer written to end.
    pub fn pack_records_end(&self, pack: PackId) -> Result<u64> {
        self.reader.records_end(pack)
    }

    /// The next ChunkId.
    pub fn next_chunk(&self) -> ChunkId {
        ChunkId(self.next_chunk.load(Ordering::Acquire))
    }

    /// Gives back the bytes of a dead stretch of a sealed pack; false where the host cannot (I3 as above).
    pub fn punch_pack(&self, pack: PackId, offset: u64, len: u64) -> Result<bool> {
        self.reader.punch(pack, offset, len)
    }

    /// The record of a region as it stands in its pack, checked.
    pub fn region_record(&self, at: &Location) -> Result<(Vec<u8>, crate::pack::Region)> {
        let record = self.reader.read_record(at)?;
        let region = crate::pack::decode_region(&record)?;
        Ok((record, region))
    }

    /// Appends a region that moves; its row still points to the old place.
    pub fn append_moved(&self, record: &[u8]) -> Result<Location> {
        self.append(record)
    }

    /// Makes everything appended so far durable (I1, before rows point to it).
    pub fn sync_packs(&self) -> Result<()> {
        self.writer.sync().inspect_err(|error| self.latch(error))
    }

    /// How regions are compressed.
    pub fn compression(&self) -> crate::pack::Compression {
        self.compression
    }

    /// Makes room for the rows of a cycle: on a full disk the reserve is given up.
    pub fn make_room(&self) {
        self.space.prepare(16 << 20);
    }
}
