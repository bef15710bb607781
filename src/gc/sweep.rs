//! The sweep: condemns what is white, and removes the rows of what it condemned.
//!
//! Keeps true (I6): a chunk's fate is its cell's compare-and-swap; a row is removed only for a cell that says condemned.
//! A digest's row loses the condemned chunk only, and goes when it names no other: the same bytes may have been stored
//! anew.

use std::collections::HashMap;
use std::ops::Bound;

use crate::chunk::{ChunkId, Digest};
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, digest, id_key};
use crate::meta::{Counter, Table, WriteTxn};
use crate::pack::PackId;
use crate::sabotage::{Protection, out};
use crate::store::Store;
use crate::store::cells::{Cell, Cells};
use crate::sync::Arc;

use super::CycleRecord;

/// One transaction in so many is durable: pages that a transaction replaced can be used again only after a durable one,
/// and until then the database keeps account of them in memory.
const DURABLE_EVERY: u64 = 8;

/// What the live regions of a pack take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackUse {
    /// Bytes of records that have at least one live chunk.
    pub record_bytes: u64,
    /// The least of their ids.
    pub from: ChunkId,
    /// Above all of their ids, also those of absent chunks: where a row is split, its parts stay below it.
    pub to: ChunkId,
}

/// What the sweep learned about where live chunks are.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// By pack; a pack that is not here has nothing live.
    pub packs: HashMap<PackId, PackUse>,
    /// Regions of which less than half is live.
    pub sparse: Vec<ChunkId>,
}

impl Usage {
    fn note(&mut self, row: &RegionRow) {
        let live = row.live_bytes();
        if live > 0 {
            let none = PackUse { record_bytes: 0, from: row.first, to: row.end() };
            let pack = self.packs.entry(row.at.pack).or_insert(none);
            pack.record_bytes += u64::from(row.at.len);
            pack.from = pack.from.min(row.first);
            pack.to = pack.to.max(row.end());
            if live * 2 < u64::from(row.plain) {
                self.sparse.push(row.first);
            }
        }
    }
}

/// Rows that wait to be removed.
#[derive(Default)]
struct Doomed {
    /// Regions with condemned chunks, without these, as the sweep saw them.
    regions: Vec<RegionRow>,
    digests: Vec<(Digest, ChunkId)>,
    bytes: u64,
    /// About what they take in their packs.
    stored: u64,
}

/// Condemns and removes, `step` chunks or a few more a transaction; with `dry_run`, only counts. `go_on` is asked before
/// each transaction and after each.
pub(super) fn sweep(
    store: &Arc<Store>,
    cells: &Cells,
    (step, dry_run): (usize, bool),
    record: &mut CycleRecord,
    mut go_on: impl FnMut(bool) -> Result<()>,
) -> Result<Usage> {
    let mut usage = Usage::default();
    let (mut from, mut transactions) = (ChunkId(0), 0);
    loop {
        let mut doomed = Doomed::default();
        let next = look(store, from, cells, (step, dry_run), &mut usage, &mut doomed)?;
        go_on(false)?;
        transactions += 1;
        let durable = transactions % DURABLE_EVERY == 0;
        remove(store, &doomed, dry_run, durable, record)?;
        go_on(true)?;
        match next {
            Some(next) => from = next,
            None => return Ok(usage),
        }
    }
}

/// Condemns what is white in the regions from `from` on, until there is enough to remove; where to go on, if there is
/// more.
///
/// The view ends here, before anything is removed: the database keeps every page that changes while a view is held,
/// and would grow by all the pages that the sweep rewrites.
fn look(
    store: &Store,
    from: ChunkId,
    cells: &Cells,
    (step, dry_run): (usize, bool),
    usage: &mut Usage,
    doomed: &mut Doomed,
) -> Result<Option<ChunkId>> {
    // Rows of this view are no more than what was: those that change are read again when they do. What is healed
    // meanwhile counts as live in its old place, and is in a pack that this cycle leaves alone.
    let view = store.now().view.clone();
    let mut next = None;
    view.scan(Table::Regions, Bound::Included(&id_key(from.0)), Bound::Unbounded, |key, row| {
        let mut row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
        let removed = condemn(cells, &mut row, doomed, dry_run);
        usage.note(&row);
        // Not the next key: a row that is split meanwhile leaves a part behind this one, which was looked at.
        next = (doomed.digests.len() >= step).then(|| row.end());
        if removed {
            doomed.regions.push(row);
        }
        Ok(next.is_none())
    })?;
    Ok(next)
}

/// Takes the condemned chunks out of a row; true if there were any.
fn condemn(cells: &Cells, row: &mut RegionRow, doomed: &mut Doomed, dry_run: bool) -> bool {
    let mut removed = false;
    let first = row.first;
    for (index, entry) in row.entries.iter_mut().enumerate() {
        let id = first.offset(index as u64);
        if id >= cells.watermark() {
            break;
        }
        let Some(chunk) = entry else { continue };
        let goes = if dry_run { cells.look(id) == Cell::White } else { decide(cells, id) };
        if goes {
            doomed.digests.push((chunk.digest, id));
            doomed.bytes += u64::from(chunk.len);
            doomed.stored += u64::from(chunk.len) * u64::from(row.at.len) / u64::from(row.plain.max(1));
            *entry = None;
            removed = true;
        }
    }
    removed
}

fn decide(cells: &Cells, id: ChunkId) -> bool {
    cells.condemn(id) == Cell::Condemned
}

fn remove(
    store: &Arc<Store>,
    doomed: &Doomed,
    dry_run: bool,
    durable: bool,
    record: &mut CycleRecord,
) -> Result<()> {
    record.condemned += doomed.digests.len() as u64;
    record.condemned_bytes += doomed.bytes;
    if dry_run {
        record.freed_bytes += doomed.stored;
    }
    if dry_run || doomed.digests.is_empty() {
        return Ok(());
    }
    let bad: Vec<ChunkId> = doomed.digests.iter().map(|(_, id)| *id).filter(|id| store.is_bad(*id)).collect();
    store.rewrite(durable, |txn, sums| {
        remove_chunks(txn, doomed, sums)?;
        txn.apply(Table::Bad, bad.iter().map(|id| (id_key(id.0), None::<&[u8]>)))?;
        let mut digests: Vec<_> = doomed.digests.iter().map(|(digest, id)| (digest.0, *id)).collect();
        digests.sort_unstable();
        if out(Protection::DigestStillNames) {
            txn.apply(Table::Digests, digests.iter().map(|(digest, _)| (digest, None::<&[u8]>)))?;
        } else {
            txn.change(Table::Digests, digests, |gone, row| digest::without(row, gone))?;
        }
        sums[Counter::Chunks as usize] -= doomed.digests.len() as i64;
        sums[Counter::PlainBytes as usize] -= doomed.bytes as i64;
        Ok(())
    })?;
    store.forget_bad(bad);
    Ok(())
}

/// Takes the condemned chunks out of their rows. The rows are read again here: since the sweep looked at one, chunks of
/// it that were bad may have been stored anew, and have rows of their own by now.
fn remove_chunks(txn: &mut WriteTxn, doomed: &Doomed, sums: &mut [i64; Counter::ALL.len()]) -> Result<()> {
    // In the order of the ids, as the rows were scanned.
    let is_condemned = |id: ChunkId| doomed.digests.binary_search_by_key(&id, |(_, id)| *id).is_ok();
    let mut changes = Vec::new();
    for seen in &doomed.regions {
        let rows = if out(Protection::SweepReadsAgain) {
            vec![(id_key(seen.first.0).to_vec(), seen.encode())]
        } else {
            txn.rows(Table::Regions, &id_key(seen.first.0), &id_key(seen.end().0))?
        };
        for (key, row) in rows {
            let mut row = RegionRow::decode(ChunkId(chunk_of(&key)?), &row)?;
            for (index, entry) in row.entries.iter_mut().enumerate() {
                if is_condemned(row.first.offset(index as u64)) {
                    *entry = None;
                }
            }
            let stays = row.live().next().is_some();
            if !stays {
                sums[Counter::StoredBytes as usize] -= i64::from(row.at.len);
            }
            changes.push((key, stays.then(|| row.encode())));
        }
    }
    txn.apply(Table::Regions, changes)
}
