//! Storing chunks.
//!
//! Keeps true (I4): an existing chunk gets a new reference only after the barrier allowed it, and the caller is a
//! member of its batch all the time. A member uses only chunks that its own batch or an earlier one names, never those
//! of a later batch: its batch is committed first and must not depend on rows that may never be committed.

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::memtable::LayerLookup;
use crate::meta::rows::{RegionEntry, RegionRow, digest, id_key};
use crate::meta::{Counter, Layers, Table};
use crate::sabotage::{Protection, out};
use crate::sync::thread::caught;
use crate::sync::{Arc, Ordering};

use super::super::barrier::Verdict;
use super::super::batches::{Batch, Member, PendingRegion};
use super::{Chunks, find_region};

/// If unwritten regions have more plain bytes than this, a writer helps to write them.
const PENDING_LIMIT: u64 = 32 << 20;
/// Files from this size on may be read at random, like disk images. Their regions are shorter, so that a small read
/// decompresses less (`docs/decisions/0012-region-lengths.md`).
const LARGE_FILE: u64 = 4 << 20;

impl Chunks {
    /// Stores a chunk of a file of `file_size` bytes, or finds it. `digest` is that of `bytes`.
    pub fn put(
        self: &Arc<Self>,
        member: &Member,
        digest: Digest,
        bytes: &[u8],
        file_size: u64,
    ) -> Result<ChunkId> {
        // The clear count first: cached digests then come from layers that are at least as new (I9).
        let clear_count = self.digest_cache.clear_count();
        let layers = self.meta.layers();
        let usable = |id: ChunkId| self.may_reuse(member, id, digest, bytes);
        if let Some(id) = self.find(member, clear_count, &layers, &digest, usable)? {
            return Ok(id);
        }
        let known = || own_digest(member, &digest).filter(|id| usable(*id));
        let born = |id: ChunkId| {
            member.rows.put(Table::Digests, &digest.0, &id_key(id.0));
            member.rows.count(Counter::Chunks, 1);
            member.rows.count(Counter::PlainBytes, bytes.len() as i64);
            self.pending_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        };
        let full = self.region_size;
        let size = if file_size < LARGE_FILE { full } else { full / 4 };
        match member.regions.add(&self.numbers.chunk, size, (digest, bytes), known, born) {
            Err(id) => Ok(id),
            Ok(added) => {
                for region in added.full {
                    self.queue_region(&member.batch(), region);
                }
                Ok(added.id)
            }
        }
    }

    /// The caller helps to write regions while too many wait. Not for members, which must not wait.
    pub fn help_write_regions(&self) {
        while self.pending_bytes.load(Ordering::Relaxed) > PENDING_LIMIT && self.workers.help() {}
    }

    /// Asks the barrier about a chunk that was found. If it may be used and is known to be bad, `member` supplies its
    /// bytes.
    fn may_reuse(&self, member: &Member, id: ChunkId, digest: Digest, bytes: &[u8]) -> bool {
        if self.barrier.reuse(id) != Verdict::Reuse {
            return false;
        }
        self.verify_before_reuse(id);
        if self.needs_bytes(id) {
            self.healing.supply(member, id, digest, bytes);
        }
        true
    }

    fn needs_bytes(&self, id: ChunkId) -> bool {
        self.healing.is_bad(id) && !out(Protection::NeverReuseBad)
    }

    /// If bad chunks were found in its pack, reads the region of a chunk before it gets a new reference: damage seldom
    /// comes alone.
    fn verify_before_reuse(&self, id: ChunkId) {
        if !self.healing.has_any() || self.healing.is_bad(id) {
            return;
        }
        if let Ok(Some(row)) = find_region(&self.meta.layers(), id)
            && self.healing.is_suspect(row.at.pack)
        {
            // A read error is noted there; this read is the second attempt.
            if self.region_of(id).is_err_and(|error| error.is_read_error()) {
                self.healing.mark_bad(row.live().map(|(id, _)| id), row.at.pack);
            }
        }
    }

    /// A chunk with this digest that is `usable`, from the places that `member` may use.
    ///
    /// A chunk that is not usable is condemned and may have been stored again; then a later place has the new id. With
    /// only the first answer, an old cached digest would make the same bytes be stored again and again while the cycle
    /// runs.
    fn find(
        &self,
        member: &Member,
        clear_count: u64,
        layers: &Layers,
        digest: &Digest,
        usable: impl Fn(ChunkId) -> bool,
    ) -> Result<Option<ChunkId>> {
        if let Some(id) = own_digest(member, digest).filter(|id| usable(*id)) {
            return Ok(Some(id));
        }
        if let Some(sealed) = &layers.sealed
            && let LayerLookup::Value(row) = sealed.get(Table::Digests, &digest.0)
            && Arc::ptr_eq(&layers.active, &member.rows)
            && let Some(id) = digest::chunk_ids(&row)?.find(|id| usable(*id))
        {
            return Ok(Some(id));
        }
        if let Some(id) = self.digest_cache.get(digest).filter(|id| usable(*id)) {
            return Ok(Some(id));
        }
        let Some(row) = layers.view.get(Table::Digests, &digest.0)? else {
            return Ok(None);
        };
        let found = digest::chunk_ids(&row)?.find(|id| usable(*id));
        if let Some(id) = found {
            self.digest_cache.preload(clear_count, &layers.view, id)?;
        }
        Ok(found)
    }

    /// Has a closed region written by the pool.
    fn queue_region(self: &Arc<Self>, batch: &Arc<Batch>, region: Arc<PendingRegion>) {
        let (chunks, batch) = (self.clone(), batch.clone());
        self.workers.urgent(move || chunks.write_region(&batch, region));
    }

    /// Compresses a region, appends it to a pack and notes where it is.
    pub fn write_region(&self, batch: &Batch, region: Arc<PendingRegion>) {
        // Whoever commits the batch waits for this region.
        let outcome = caught(|| self.store_region(batch, &region));
        if let Err(error) = outcome.unwrap_or_else(|| Err(Error::panicked("writing a region"))) {
            // At once, and not at the commit: until then others would go on writing into memory (I8).
            if !error.is_no_space() {
                self.batches.latch().set(&error);
            }
            batch.regions.failed(region, error);
        }
    }

    fn store_region(&self, batch: &Batch, region: &PendingRegion) -> Result<()> {
        let Some(first) = region.first() else {
            return Ok(());
        };
        let record = self.packs.encode(&region.chunks, &region.plain);
        let at = self.packs.append(&record)?;
        let entry = |len, digest| Some(RegionEntry { len, digest });
        let row = RegionRow {
            first,
            at,
            plain: region.plain.len() as u32,
            entries: region.chunks.iter().map(|chunk| entry(chunk.len, chunk.digest)).collect(),
        };
        batch.rows.put(Table::Regions, &id_key(first.0), &row.encode());
        batch.rows.count(Counter::StoredBytes, record.len() as i64);
        self.pending_bytes.fetch_sub(region.plain.len() as u64, Ordering::Relaxed);
        batch.regions.written(first);
        Ok(())
    }
}

fn own_digest(member: &Member, digest: &Digest) -> Option<ChunkId> {
    match member.rows.get(Table::Digests, &digest.0) {
        LayerLookup::Value(row) => digest::chunk_ids(&row).ok()?.next(),
        LayerLookup::Absent | LayerLookup::Removed => None,
    }
}
