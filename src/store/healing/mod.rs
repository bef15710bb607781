//! Bad chunks, and how the files that refer to them become whole again.
//!
//! A chunk that could not be read is recorded as bad, in memory and in the table `bad`, together with the other chunks
//! of its region. Other chunks of a pack with bad chunks are read before they are reused. If content is written whose
//! digest names a bad chunk, its bytes are stored again **under the old ChunkId**. Then every file that refers to the
//! chunk reads the new bytes, since ids do not change and the region rows say where an id is.
//!
//! Keeps true: a writer that refers to a known bad chunk has its bytes in its own batch, so nothing durable depends on
//! a healing that is not durable (I1, I4). The bytes are synced before a row points to them (I1). Rows are read and
//! changed inside the transaction of the batch, and the collector does the same in its transactions, so neither
//! overwrites changes of the other. The barrier is asked as for any other hit: a chunk that the sweep condemned is
//! stored as a new one, and its old id is not healed (I6).
//!
//! A simpler way, a new id and a row that maps the old id to it, fails: the mark would have to follow such rows, and
//! files would need a chunk that they do not name.

mod bad;
mod missing_packs;
mod rows;

use std::collections::BTreeMap;

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::rows::{RegionRow, bad_row, chunk_of, id_key};
use crate::meta::{Meta, Sums, Table, Txn};
use crate::pack::PackId;
use crate::sabotage::{Protection, out};
use crate::sync::Arc;

use super::batches::{Batch, Batches, QueuedHeals};
use super::packs::Packs;
use bad::BadChunks;
use rows::redirect_row;

pub use rows::split_row;

/// The bad chunks of a store, and how they are healed.
pub struct Healing {
    bad: BadChunks,
    meta: Arc<Meta>,
    batches: Arc<Batches>,
    packs: Arc<Packs>,
    /// Plain bytes after which a region is full.
    region_size: usize,
}

/// What the host could not read at one moment it may read at another.
fn may_pass() -> bool {
    !out(Protection::TransientErrorsPass)
}

fn keeps_old_ids() -> bool {
    !out(Protection::HealOldId)
}

impl Healing {
    /// Loads the bad chunks from the database.
    pub fn new(
        meta: Arc<Meta>,
        batches: Arc<Batches>,
        packs: Arc<Packs>,
        region_size: usize,
    ) -> Result<Self> {
        Ok(Self { bad: BadChunks::load(&meta.layers().view)?, meta, batches, packs, region_size })
    }

    /// Is this chunk known to be bad?
    pub fn is_bad(&self, id: ChunkId) -> bool {
        self.bad.has(id)
    }

    /// How many chunks are known to be bad.
    pub fn count(&self) -> u64 {
        self.bad.count()
    }

    /// True if any chunk is known to be bad, or any pack is suspected.
    pub fn has_any(&self) -> bool {
        !self.bad.is_empty()
    }

    /// Were bad chunks found in this pack? Damage seldom comes alone.
    pub fn is_suspect(&self, pack: PackId) -> bool {
        self.bad.has_pack(pack)
    }

    /// Records chunks of this pack as bad: they are reused only by a writer that supplies their bytes. The record is
    /// durable with the next commit; if nothing can be written, it is kept until the store is closed.
    pub fn mark_bad(&self, ids: impl IntoIterator<Item = ChunkId>, pack: PackId) {
        let new: Vec<ChunkId> = ids.into_iter().filter(|id| self.bad.add(*id, pack)).collect();
        if !new.is_empty()
            && let Ok(member) = self.batches.join()
        {
            for id in new {
                member.rows.put(Table::Bad, &id_key(id.0), &bad_row(pack));
            }
        }
    }

    /// Notes that the chunks of a row could not be read, and `why`. Wrong or missing bytes are recorded as bad. If the
    /// host could not read them, they are bad only if a second attempt fails too: until then their pack is suspected,
    /// and its chunks are read before they are reused. If the host refused access, nothing is noted.
    pub fn note_read_error(&self, row: &RegionRow, why: &Error) {
        if why.is_read_error() && may_pass() {
            self.bad.suspect(row.at.pack);
        } else if !why.is_access_error() || !may_pass() {
            self.mark_bad(row.live().map(|(id, _)| id), row.at.pack);
        }
    }

    /// Suspects a pack: until the store is closed, its chunks are read before they are reused.
    pub fn suspect(&self, pack: PackId) {
        self.bad.suspect(pack);
    }

    /// A known bad chunk can be read: its bytes are good.
    pub fn clear_bad(&self, id: ChunkId) {
        if self.bad.has(id)
            && let Ok(member) = self.batches.join()
        {
            self.bad.forget([id]);
            tracing::info!("chunk {} reads back again", id.0);
            member.rows.delete(Table::Bad, &id_key(id.0));
        }
    }

    /// Forgets bad chunks that were swept; their rows go in the transaction of the sweep.
    pub fn forget(&self, ids: impl IntoIterator<Item = ChunkId>) {
        self.bad.forget(ids);
    }

    /// Adds the bytes of a bad chunk to a batch, of which the caller is a member.
    pub fn supply(&self, batch: &Batch, id: ChunkId, digest: Digest, bytes: &[u8]) {
        let mut waiting = batch.heals.lock();
        if waiting.add(id, digest, bytes, self.region_size)
            && let Err(error) = self.write(&mut waiting)
        {
            // The bytes stay in memory; the commit tries once more and reports the failure.
            tracing::warn!("the bytes of damaged chunks are not stored yet: {error}");
        }
    }

    /// Appends the waiting bytes to a pack, as one region.
    fn write(&self, waiting: &mut QueuedHeals) -> Result<()> {
        let (chunks, plain) = waiting.region();
        if chunks.is_empty() {
            return Ok(());
        }
        let at = self.packs.append(&self.packs.encode(&chunks, &plain))?;
        waiting.is_at(chunks, plain.len() as u32, at);
        Ok(())
    }

    /// Appends all bytes for bad chunks to packs; for the commit, before it syncs them.
    pub fn append(&self, batch: &Batch) -> Result<()> {
        self.write(&mut batch.heals.lock())
    }

    /// The bytes that a batch has for a bad chunk.
    pub fn bytes(&self, batch: &Batch, id: ChunkId) -> Option<Vec<u8>> {
        let waiting = batch.heals.lock();
        if let Some(bytes) = waiting.bytes(id) {
            return Some(bytes.to_vec());
        }
        let at = waiting.written.get(&id)?.at;
        drop(waiting);
        let region = self.packs.load(&at).ok()?;
        region.chunk(id).map(<[u8]>::to_vec)
    }

    /// Points the region rows of healed chunks to their new bytes, and forgets in the rows that they were bad. Returns
    /// the ids. Their bytes become durable before the rows do (I1).
    pub fn redirect_rows(&self, batch: &Batch, txn: &mut Txn<'_>, sums: &mut Sums) -> Result<Vec<ChunkId>> {
        let waiting = batch.heals.lock();
        let ids: Vec<ChunkId> = waiting.written.keys().copied().collect();
        if !keeps_old_ids() || ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut todo = waiting.written.iter().peekable();
        while let Some(&(&id, _)) = todo.peek() {
            let found = txn.last(Table::Regions, &id_key(0), &id_key(id.0))?;
            let row = match found {
                Some((key, row)) => RegionRow::decode(ChunkId(chunk_of(&key)?), &row)?,
                None => {
                    todo.next();
                    continue;
                }
            };
            let mut here = BTreeMap::new();
            while let Some((&id, healed)) = todo.next_if(|(id, _)| **id < row.end()) {
                here.insert(id, *healed);
            }
            if here.is_empty() {
                todo.next();
                continue;
            }
            redirect_row(&row, &here, txn, sums);
        }
        let bad = ids.iter().map(|id| (id_key(id.0), None::<&[u8]>));
        txn.apply(Table::Bad, bad);
        Ok(ids)
    }

    /// Notes that the healing of these chunks is in the database.
    pub fn mark_healed(&self, ids: &[ChunkId]) {
        if !ids.is_empty() {
            tracing::info!(
                "{} damaged chunks are whole again: their content was written once more",
                ids.len()
            );
            self.bad.forget(ids.iter().copied());
        }
    }
}
