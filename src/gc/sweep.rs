//! The sweep: condemns what is white, and removes the rows of what it condemned.
//!
//! Keeps true (I6): a chunk's fate is its cell's compare-and-swap; a row is removed only for a cell that says condemned.
//! A digest's row goes only if it still names the condemned chunk: the same bytes may have been stored anew.

use std::collections::HashMap;
use std::ops::Bound;

use crate::chunk::{ChunkId, Digest};
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::meta::{Counter, Table};
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
    /// Regions as they will stand.
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
    // Nobody else changes the regions below the watermark; those above it only serve the count of what is live.
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
    store.rewrite(false, |txn, sums| {
        let rows = doomed.regions.iter().map(|row| {
            let whole = row.live().next().is_none();
            let stays = (!whole).then(|| row.encode());
            (id_key(row.first.0), stays)
        });
        txn.apply(Table::Regions, rows)?;
        let mut digests: Vec<_> =
            doomed.digests.iter().map(|(digest, id)| (digest.0, id_key(id.0))).collect();
        digests.sort_unstable();
        if out(Protection::DigestStillNames) {
            txn.apply(Table::Digests, digests.iter().map(|(digest, _)| (digest, None::<&[u8]>)))?;
        } else {
            txn.remove_if(Table::Digests, &digests)?;
        }
        let stored: u64 = doomed
            .regions
            .iter()
            .filter(|row| row.live().next().is_none())
            .map(|r| u64::from(r.at.len))
            .sum();
        sums[Counter::Chunks as usize] -= doomed.digests.len() as i64;
        sums[Counter::PlainBytes as usize] -= doomed.bytes as i64;
        sums[Counter::StoredBytes as usize] -= stored as i64;
        Ok(())
    })
}
