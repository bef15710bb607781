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

use std::collections::{BTreeMap, HashSet};

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::rows::{RegionRow, bad_pack, bad_row, chunk_of, id_key};
use crate::meta::{Counter, Kv, Table, WriteTxn};
use crate::pack::{Location, PackId, RegionChunk, encode_region};
use crate::sabotage::{Protection, out};
use crate::sync::{Mutex, RwLock};

use super::Store;
use super::batch::Batch;
use super::get::find_region;

/// The chunks that did not read back, of the whole store: some 20 bytes each.
#[derive(Debug, Default)]
pub(super) struct BadChunks {
    inner: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    ids: HashSet<u64>,
    /// Packs in which bad chunks were found since the store was opened, and those of the ones known before.
    packs: HashSet<PackId>,
}

impl BadChunks {
    /// Those that are in the database.
    pub fn load(kv: &Kv) -> Result<Self> {
        let mut known = Known::default();
        let rows = kv.read()?.rows(Table::Bad)?;
        let told = |error: &Error| tracing::error!("which chunks are bad cannot be read to the end: {error}");
        for (key, row) in rows.map_while(|row| row.inspect_err(told).ok()) {
            // What cannot be read here is found bad once more by whoever reads the chunk.
            let Ok(id) = chunk_of(&key) else { continue };
            if let Ok(pack) = row.and_then(|row| bad_pack(&row)) {
                known.ids.insert(id);
                known.packs.insert(pack);
            }
        }
        Ok(Self { inner: RwLock::new(known) })
    }

    pub fn has(&self, id: ChunkId) -> bool {
        self.inner.read().ids.contains(&id.0)
    }

    pub fn count(&self) -> u64 {
        self.inner.read().ids.len() as u64
    }

    fn has_pack(&self, pack: PackId) -> bool {
        self.inner.read().packs.contains(&pack)
    }

    fn is_empty(&self) -> bool {
        self.inner.read().packs.is_empty()
    }

    /// What is found in this pack is read before it is used again.
    fn suspect(&self, pack: PackId) {
        if !self.has_pack(pack) {
            self.inner.write().packs.insert(pack);
        }
    }

    /// True if it was not known before.
    fn add(&self, id: ChunkId, pack: PackId) -> bool {
        let mut known = self.inner.write();
        known.packs.insert(pack);
        known.ids.insert(id.0)
    }

    fn forget(&self, ids: impl IntoIterator<Item = ChunkId>) {
        let mut known = self.inner.write();
        for id in ids {
            known.ids.remove(&id.0);
        }
    }
}

/// A chunk whose new bytes are in a pack, and whose region row does not say so yet.
#[derive(Debug, Clone, Copy)]
struct Healed {
    digest: Digest,
    at: Location,
    /// Plain bytes of the record.
    plain: u32,
}

#[derive(Debug, Default)]
struct Inner {
    /// Bytes that are in no pack yet.
    open: BTreeMap<ChunkId, (Digest, Vec<u8>)>,
    open_bytes: usize,
    written: BTreeMap<ChunkId, Healed>,
}

/// The bytes that one batch brings for chunks that are bad.
#[derive(Debug, Default)]
pub struct Heals {
    /// Everything here; held while a region is appended.
    inner: Mutex<Inner>,
}

impl Store {
    /// Is this chunk known not to read back?
    pub fn is_bad(&self, id: ChunkId) -> bool {
        self.bad.has(id)
    }

    /// Chunks of this pack did not read back: from now on their ids are given only to those who bring their bytes
    /// again. Remembered with the next commit; where nothing can be written, until the store is closed.
    pub fn distrust(&self, ids: impl IntoIterator<Item = ChunkId>, pack: PackId) {
        let new: Vec<ChunkId> = ids.into_iter().filter(|id| self.bad.add(*id, pack)).collect();
        if !new.is_empty()
            && let Ok(member) = self.join()
        {
            for id in new {
                member.rows.put(Table::Bad, &id_key(id.0), &bad_row(pack));
            }
        }
    }

    /// Chunks of a row did not read back, and `why`. Bytes that are wrong or not there are remembered as bad. What the host
    /// could not read is bad only once it could not be read at another moment either: until then its pack is suspected, and
    /// read before anything in it is used again. That the host would not look says nothing.
    pub(super) fn note_unread(&self, row: &RegionRow, why: &Error) {
        if why.is_unread() && !out(Protection::HiccupsPass) {
            self.bad.suspect(row.at.pack);
        } else if !why.is_refusal() || out(Protection::HiccupsPass) {
            self.distrust(row.live().map(|(id, _)| id), row.at.pack);
        }
    }

    /// What is found in this pack is read before it is used again, until the store is closed.
    pub fn suspect(&self, pack: PackId) {
        self.bad.suspect(pack);
    }

    /// Reads the region of a chunk that is about to be referred to anew, where others of its pack were found bad: damage
    /// seldom comes alone.
    pub(super) fn look_before_reuse(&self, id: ChunkId) {
        if self.bad.is_empty() || self.bad.has(id) {
            return;
        }
        if let Ok(Some(row)) = find_region(&self.now(), id)
            && self.bad.has_pack(row.at.pack)
        {
            // What does not read back is noted in there; and this is the other moment.
            if self.region_of(id).is_err_and(|error| error.is_unread()) {
                self.distrust(row.live().map(|(id, _)| id), row.at.pack);
            }
        }
    }

    /// A chunk that was known to be bad reads back: what failed was not its bytes.
    pub fn trust(&self, id: ChunkId) {
        if self.bad.has(id)
            && let Ok(member) = self.join()
        {
            self.bad.forget([id]);
            tracing::info!("chunk {} reads back again", id.0);
            member.rows.delete(Table::Bad, &id_key(id.0));
        }
    }

    /// Forgets bad chunks that were swept; their rows go in the transaction of the sweep.
    pub fn forget_bad(&self, ids: impl IntoIterator<Item = ChunkId>) {
        self.bad.forget(ids);
    }

    /// Takes the bytes of a bad chunk into a batch, of which the caller is a member.
    pub(super) fn heal(&self, batch: &Batch, id: ChunkId, digest: Digest, bytes: &[u8]) {
        let mut inner = batch.heals.inner.lock();
        if inner.written.contains_key(&id) || inner.open.contains_key(&id) {
            return;
        }
        inner.open_bytes += bytes.len();
        inner.open.insert(id, (digest, bytes.to_vec()));
        if inner.open_bytes >= self.config.region_size as usize
            && let Err(error) = self.write_heals(&mut inner)
        {
            // They stay where they are; the commit tries once more and fails in its own way.
            tracing::warn!("the bytes of damaged chunks are not stored yet: {error}");
        }
    }

    /// Appends what waits in `inner` to a pack, as one region.
    fn write_heals(&self, inner: &mut Inner) -> Result<()> {
        let mut chunks = Vec::with_capacity(inner.open.len());
        let mut plain = Vec::with_capacity(inner.open_bytes);
        for (&id, (digest, bytes)) in &inner.open {
            chunks.push(RegionChunk { id, digest: *digest, len: bytes.len() as u32 });
            plain.extend_from_slice(bytes);
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let at = self.append(&encode_region(&chunks, &plain, self.compression))?;
        for chunk in chunks {
            let healed = Healed { digest: chunk.digest, at, plain: plain.len() as u32 };
            inner.written.insert(chunk.id, healed);
        }
        inner.open.clear();
        inner.open_bytes = 0;
        Ok(())
    }

    /// Brings all bytes for bad chunks into packs; for the commit, before it syncs them.
    pub(super) fn append_heals(&self, batch: &Batch) -> Result<()> {
        self.write_heals(&mut batch.heals.inner.lock())
    }

    /// The bytes that a batch brings for a bad chunk.
    pub(super) fn healing_bytes(&self, batch: &Batch, id: ChunkId) -> Option<Vec<u8>> {
        let inner = batch.heals.inner.lock();
        if let Some((_, bytes)) = inner.open.get(&id) {
            return Some(bytes.clone());
        }
        let at = inner.written.get(&id)?.at;
        drop(inner);
        let region = self.load(&at).ok()?;
        region.chunk(id).map(<[u8]>::to_vec)
    }

    /// Points the region rows of healed chunks to their new bytes, and forgets in the database that they were bad.
    /// Returns the ids. Their bytes were synced (I1).
    pub(super) fn point_heals(
        &self,
        batch: &Batch,
        txn: &mut WriteTxn,
        sums: &mut [i64; Counter::ALL.len()],
    ) -> Result<Vec<ChunkId>> {
        let inner = batch.heals.inner.lock();
        let ids: Vec<ChunkId> = inner.written.keys().copied().collect();
        if out(Protection::HealOldId) || ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut todo = inner.written.iter().peekable();
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
    pub(super) fn healed(&self, ids: &[ChunkId]) {
        if !ids.is_empty() {
            tracing::info!(
                "{} damaged chunks are whole again: their content was written once more",
                ids.len()
            );
            self.bad.forget(ids.iter().copied());
        }
    }
}

/// Writes one region row anew with its healed chunks in their new places; it becomes several rows where its chunks are
/// in several places now, since the row of an id is the last one that begins at or before it.
fn point_row(
    row: &RegionRow,
    healed: &BTreeMap<ChunkId, Healed>,
    txn: &mut WriteTxn,
    sums: &mut [i64; Counter::ALL.len()],
) -> Result<()> {
    let parts = split(row, |id, digest| {
        healed.get(&id).filter(|healed| healed.digest == *digest).map(|healed| (healed.at, healed.plain))
    });
    let stored = |rows: &[RegionRow]| rows.iter().map(|row| i64::from(row.at.len)).sum::<i64>();
    sums[Counter::StoredBytes as usize] += stored(&parts) - i64::from(row.at.len);
    let gone = std::iter::once((id_key(row.first.0), None));
    let rows = parts.iter().map(|part| (id_key(part.first.0), Some(part.encode())));
    txn.apply(Table::Regions, gone.chain(rows))
}

/// The rows that a row becomes when some of its chunks are elsewhere: `place` says where a chunk is now, with the plain
/// bytes of the record there; none if it stays. Chunks that were swept are left out at the ends of rows.
pub fn split(row: &RegionRow, place: impl Fn(ChunkId, &Digest) -> Option<(Location, u32)>) -> Vec<RegionRow> {
    let mut parts: Vec<RegionRow> = Vec::new();
    for (id, entry) in row.live() {
        let (at, plain) = place(id, &entry.digest).unwrap_or((row.at, row.plain));
        match parts.last_mut() {
            Some(part) if part.at == at => {
                let gap = id.0 - part.end().0;
                part.entries.extend((0..gap).map(|_| None));
                part.entries.push(Some(*entry));
            }
            _ => parts.push(RegionRow { first: id, at, plain, entries: vec![Some(*entry)] }),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::rows::RegionEntry;

    const OLD: Location = Location { pack: PackId(1), offset: 64, len: 500 };
    const NEW: Location = Location { pack: PackId(9), offset: 64, len: 200 };

    fn row(lens: &[u32]) -> RegionRow {
        let entry = |&len: &u32| (len > 0).then_some(RegionEntry { len, digest: Digest([len as u8; 32]) });
        RegionRow { first: ChunkId(10), at: OLD, plain: 99, entries: lens.iter().map(entry).collect() }
    }

    #[test]
    fn a_row_is_split_where_its_chunks_part() {
        let row = row(&[1, 2, 0, 4, 5, 6]);
        for mask in 0u32..1 << 6 {
            let is_new = |id: ChunkId| mask >> (id.0 - 10) & 1 == 1;
            let parts = split(&row, |id, _| is_new(id).then_some((NEW, 7)));
            let mut end = 0;
            for part in &parts {
                assert!(part.first.0 >= end, "{mask:b}: rows do not overlap");
                end = part.end().0;
            }
            for (id, entry) in row.live() {
                let of_id = parts.iter().rev().find(|part| part.first <= id).unwrap();
                assert_eq!(of_id.entry(id), Some(entry), "{mask:b}: the last row before it has it");
                assert_eq!(of_id.at, if is_new(id) { NEW } else { OLD }, "{mask:b}");
                assert_eq!(of_id.plain, if is_new(id) { 7 } else { 99 });
            }
        }
        assert_eq!(split(&row, |_, _| None).len(), 1);
    }
}
