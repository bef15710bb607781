//! The sweep: condemns what is white, and removes the rows of what it condemned.
//!
//! Keeps true (I6): a chunk's fate is its cell's compare-and-swap; a row is removed only for a cell that says condemned.
//! A digest's row goes only if it still names the condemned chunk: the same bytes may have been stored anew.

use std::collections::HashMap;
use std::ops::Bound;

use crate::chunk::{ChunkId, Digest};
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::meta::{Counter, Table, WriteTxn};
use crate::pack::PackId;
use crate::sabotage::{Protection, out};
use crate::store::Store;
use crate::store::cells::{Cell, Cells};
use crate::sync::Arc;

use super::CycleRecord;

/// Chunks whose rows one transaction removes: bounds how long it holds up a commit.
const CHUNKS_AT_A_TIME: usize = 4096;

/// What the live regions of a pack take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PackUse {
    /// Bytes of records that have at least one live chunk.
    pub record_bytes: u64,
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
            self.packs.entry(row.at.pack).or_default().record_bytes += u64::from(row.at.len);
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

/// Condemns and removes; with `dry_run`, only counts. `go_on` is asked before each transaction and after each.
pub(super) fn sweep(
    store: &Arc<Store>,
    cells: &Cells,
    dry_run: bool,
    record: &mut CycleRecord,
    mut go_on: impl FnMut(bool) -> Result<()>,
) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut doomed = Doomed::default();
    // Rows of this view are no more than what was: those that change are read again when they do. What is healed
    // meanwhile counts as live in its old place, and is in a pack that this cycle leaves alone.
    let view = store.now().view.clone();
    view.scan(Table::Regions, Bound::Unbounded, Bound::Unbounded, |key, row| {
        let mut row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
        let removed = condemn(cells, &mut row, &mut doomed, dry_run);
        usage.note(&row);
        if removed {
            doomed.regions.push(row);
        }
        if doomed.digests.len() >= CHUNKS_AT_A_TIME {
            go_on(false)?;
            remove(store, &mut doomed, dry_run, record)?;
            go_on(true)?;
        }
        Ok(true)
    })?;
    go_on(false)?;
    remove(store, &mut doomed, dry_run, record)?;
    go_on(true)?;
    Ok(usage)
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

fn remove(store: &Arc<Store>, doomed: &mut Doomed, dry_run: bool, record: &mut CycleRecord) -> Result<()> {
    let doomed = std::mem::take(doomed);
    record.condemned += doomed.digests.len() as u64;
    record.condemned_bytes += doomed.bytes;
    if dry_run {
        record.freed_bytes += doomed.stored;
    }
    if dry_run || doomed.digests.is_empty() {
        return Ok(());
    }
    let bad: Vec<ChunkId> = doomed.digests.iter().map(|(_, id)| *id).filter(|id| store.is_bad(*id)).collect();
    store.rewrite(false, |txn, sums| {
        remove_chunks(txn, &doomed, sums)?;
        txn.apply(Table::Bad, bad.iter().map(|id| (id_key(id.0), None::<&[u8]>)))?;
        let mut digests: Vec<_> =
            doomed.digests.iter().map(|(digest, id)| (digest.0, id_key(id.0))).collect();
        digests.sort_unstable();
        if out(Protection::DigestStillNames) {
            txn.apply(Table::Digests, digests.iter().map(|(digest, _)| (digest, None::<&[u8]>)))?;
        } else {
            txn.remove_if(Table::Digests, &digests)?;
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
