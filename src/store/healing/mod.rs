//! Bad chunks, and how the files that refer to them become whole again.
//!
//! A chunk that did not read back is remembered, in memory and in the table `bad`, together with the others of its
//! region; and what is found by its digest in a pack with such chunks is read before it is used again. When content comes whose digest names
//! a bad chunk, its bytes are stored once more **under the old ChunkId**: every file that refers to the chunk reads the
//! new bytes from then on, since ids do not change and the region rows say where an id is.
//!
//! Keeps true: whoever refers anew to a chunk that is known to be bad has its bytes in his own batch, so nothing that
//! becomes durable depends on a healing that does not (I1, I4); the bytes are synced before a row points to them (I1);
//! rows are pointed inside the transaction of the batch, after reading them in it, and the collector reads the rows that
//! it changes in its transactions too, so neither overwrites what the other did. The barrier is asked as for any other
//! hit: a chunk that the sweep condemned is stored as a new one and its old id is not healed (I6).
//!
//! A simpler way, a new id with a row that says "the old one is this", fails: the mark would have to follow such rows,
//! and the new chunk would be needed by files that do not name it.

mod bad;
mod presence;
mod rows;

use std::collections::BTreeMap;

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::rows::{RegionRow, bad_row, chunk_of, id_key};
use crate::meta::{Counter, Meta, Table, WriteTxn};
use crate::pack::PackId;
use crate::sabotage::{Protection, out};
use crate::sync::Arc;

use super::batches::{Batch, Batches, Waiting};
use super::packs::Packs;
use bad::BadChunks;
use rows::point_row;

pub use rows::split;

/// What a store knows of its bad chunks, and how they are mended.
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
    !out(Protection::HiccupsPass)
}

fn keeps_old_ids() -> bool {
    !out(Protection::HealOldId)
}

impl Healing {
    /// Knows the chunks that the database says are bad.
    pub fn new(
        meta: Arc<Meta>,
        batches: Arc<Batches>,
        packs: Arc<Packs>,
        region_size: usize,
    ) -> Result<Self> {
        Ok(Self { bad: BadChunks::load(meta.kv())?, meta, batches, packs, region_size })
    }

    /// Is this chunk known not to read back?
    pub fn is_bad(&self, id: ChunkId) -> bool {
        self.bad.has(id)
    }

    /// How many chunks are known not to read back.
    pub fn count(&self) -> u64 {
        self.bad.count()
    }

    /// True if any chunk was found bad since the store was opened, or is known from before.
    pub fn has_any(&self) -> bool {
        !self.bad.is_empty()
    }

    /// Were bad chunks found in this pack? Damage seldom comes alone.
    pub fn suspects(&self, pack: PackId) -> bool {
        self.bad.has_pack(pack)
    }

    /// Chunks of this pack did not read back: they are reused only by a writer that supplies their bytes. Remembered with
    /// the next commit; where nothing can be written, until the store is closed.
    pub fn distrust(&self, ids: impl IntoIterator<Item = ChunkId>, pack: PackId) {
        let new: Vec<ChunkId> = ids.into_iter().filter(|id| self.bad.add(*id, pack)).collect();
        if !new.is_empty()
            && let Ok(member) = self.batches.join()
        {
            for id in new {
                member.rows.put(Table::Bad, &id_key(id.0), &bad_row(pack));
            }
        }
    }

    /// Chunks of a row did not read back, and `why`. Bytes that are wrong or not there are remembered as bad. What the host
    /// could not read is bad only once it could not be read at another moment either: until then its pack is suspected, and
    /// read before anything in it is used again. That the host would not look says nothing.
    pub fn note_unread(&self, row: &RegionRow, why: &Error) {
        if why.is_unread() && may_pass() {
            self.bad.suspect(row.at.pack);
        } else if !why.is_refusal() || !may_pass() {
            self.distrust(row.live().map(|(id, _)| id), row.at.pack);
        }
    }

    /// What is found in this pack is read before it is used again, until the store is closed.
    pub fn suspect(&self, pack: PackId) {
        self.bad.suspect(pack);
    }

    /// A chunk that was known to be bad reads back: what failed was not its bytes.
    pub fn trust(&self, id: ChunkId) {
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

    /// Takes the bytes of a bad chunk into a batch, of which the caller is a member.
    pub fn bring(&self, batch: &Batch, id: ChunkId, digest: Digest, bytes: &[u8]) {
        let mut waiting = batch.heals.lock();
        if waiting.add(id, digest, bytes, self.region_size)
            && let Err(error) = self.write(&mut waiting)
        {
            // They stay where they are; the commit tries once more and fails in its own way.
            tracing::warn!("the bytes of damaged chunks are not stored yet: {error}");
        }
    }

    /// Appends what waits to a pack, as one region.
    fn write(&self, waiting: &mut Waiting) -> Result<()> {
        let (chunks, plain) = waiting.region();
        if chunks.is_empty() {
            return Ok(());
        }
        let at = self.packs.append(&self.packs.encode(&chunks, &plain))?;
        waiting.is_at(chunks, plain.len() as u32, at);
        Ok(())
    }

    /// Brings all bytes for bad chunks into packs; for the commit, before it syncs them.
    pub fn append(&self, batch: &Batch) -> Result<()> {
        self.write(&mut batch.heals.lock())
    }

    /// The bytes that a batch brings for a bad chunk.
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

    /// Points the region rows of healed chunks to their new bytes, and forgets in the database that they were bad.
    /// Returns the ids. Their bytes were synced (I1).
    pub fn point_rows(
        &self,
        batch: &Batch,
        txn: &mut WriteTxn,
        sums: &mut [i64; Counter::ALL.len()],
    ) -> Result<Vec<ChunkId>> {
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
            point_row(&row, &here, txn, sums)?;
        }
        let bad = ids.iter().map(|id| (id_key(id.0), None::<&[u8]>));
        txn.apply(Table::Bad, bad)?;
        Ok(ids)
    }

    /// The healing of these chunks is in the database.
    pub fn are_healed(&self, ids: &[ChunkId]) {
        if !ids.is_empty() {
            tracing::info!(
                "{} damaged chunks are whole again: their content was written once more",
                ids.len()
            );
            self.bad.forget(ids.iter().copied());
        }
    }
}
