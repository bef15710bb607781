//! The sweep: condemns what is white, then removes the rows of what it condemned.
//!
//! Keeps true (I6): only the compare-and-swap of its cell decides about a chunk; a row is removed only if the cell is
//! condemned.

mod remove;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use crate::chunk::{ChunkId, Digest};
use crate::error::Result;
use crate::meta::Table;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::pack::PackId;
use crate::sabotage::{Protection, out};
use crate::store::Store;
use crate::store::barrier::cells::{Cell, Cells};
use crate::sync::Arc;

use super::CycleRecord;

/// Region rows read in one view, for each row that a transaction may remove. While a view is held, the database cannot
/// reuse pages.
const SCAN_FACTOR: usize = 16;
/// Condemned digests that are remembered with their chunks, for each that a transaction removes: 40 MiB. If there are
/// more, all digests are read.
const MAX_LISTED: usize = 256;
/// Ids of a stretch, which is read again if anything in it was condemned.
const STRETCH: u64 = 4096;

/// What the live regions of a pack take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackUse {
    /// Bytes of records that have at least one live chunk.
    pub record_bytes: u64,
    /// Of these, bytes of records of which less than half is live; they move.
    pub sparse_bytes: u64,
    /// The least of their ids.
    pub from: ChunkId,
    /// Above all of their ids, also those of absent chunks: if a row is split, its parts stay below it.
    pub to: ChunkId,
}

/// Where live chunks are, as the sweep has seen.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// By pack; a pack without an entry has nothing live.
    pub packs: HashMap<PackId, PackUse>,
    /// Regions of which less than half is live.
    pub sparse: Vec<ChunkId>,
}

impl Usage {
    fn note(&mut self, row: &RegionRow) {
        let live = row.live_bytes();
        if live > 0 {
            let none = PackUse { record_bytes: 0, sparse_bytes: 0, from: row.first, to: row.end() };
            let pack = self.packs.entry(row.at.pack).or_insert(none);
            pack.record_bytes += u64::from(row.at.len);
            pack.from = pack.from.min(row.first);
            pack.to = pack.to.max(row.end());
            if live * 2 < u64::from(row.plain) {
                pack.sparse_bytes += u64::from(row.at.len);
                self.sparse.push(row.first);
            }
        }
    }
}

/// Condemns and removes, about `step` chunks in a transaction; with `dry_run`, only counts. `go_on` is asked before and
/// after each transaction.
pub(super) fn sweep(
    store: &Arc<Store>,
    cells: &Cells,
    (step, dry_run): (usize, bool),
    record: &mut CycleRecord,
    mut go_on: impl FnMut(bool) -> Result<()>,
) -> Result<Usage> {
    let (usage, listed, stretches) = (Usage::default(), Some(Vec::new()), BTreeSet::new());
    let mut look = RegionScan { cells, step, dry_run, record, usage, listed, stretches };
    let mut from = Some(ChunkId(0));
    while let Some(first) = from {
        from = look.from(store, first)?;
        go_on(false)?;
    }
    let RegionScan { usage, listed, stretches, .. } = look;
    if dry_run {
        return Ok(usage);
    }
    if !are_digests_first() {
        remove::chunks(store, cells, &stretches, step, &mut go_on)?;
    }
    remove::digests(store, cells, listed, step, &mut go_on)?;
    go_on(true)?;
    remove::chunks(store, cells, &stretches, step, &mut go_on)?;
    Ok(usage)
}

fn are_digests_first() -> bool {
    !out(Protection::DigestsFirst)
}

/// The scan of the regions, which condemns everything white.
struct RegionScan<'a> {
    cells: &'a Cells,
    step: usize,
    dry_run: bool,
    record: &'a mut CycleRecord,
    usage: Usage,
    /// The condemned digests, with their chunks; none once there were too many.
    listed: Option<Vec<(Digest, ChunkId)>>,
    /// Numbers of the stretches of ids in which a row with condemned chunks has a part.
    stretches: BTreeSet<u64>,
}

impl RegionScan<'_> {
    /// Scans some rows from `first` on; returns where to continue, if there are more.
    ///
    /// The view ends here, before anything is removed: while a view is held, the database keeps every page that
    /// changes, and would grow by all the pages that the sweep rewrites.
    fn from(&mut self, store: &Store, first: ChunkId) -> Result<Option<ChunkId>> {
        // Rows of this view may be out of date; they are read again before they are changed. A chunk that is healed
        // meanwhile counts as live in its old place, and its new place is in a pack that this cycle leaves alone.
        let view = store.layers().view.clone();
        let (mut next, mut looked) = (None, 0);
        view.scan(Table::Regions, Bound::Included(&id_key(first.0)), Bound::Unbounded, |key, row| {
            let mut row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
            self.condemn(&mut row);
            self.usage.note(&row);
            looked += 1;
            // Not the next key: if a row is split meanwhile, a part of it comes after this key, and it was already
            // scanned.
            next = (looked >= self.step * SCAN_FACTOR).then(|| row.end());
            Ok(next.is_none())
        })?;
        Ok(next)
    }

    /// Removes the white chunks from a row.
    fn condemn(&mut self, row: &mut RegionRow) {
        let (first, end) = (row.first, row.end());
        let mut any = false;
        for (index, entry) in row.entries.iter_mut().enumerate() {
            let id = first.offset(index as u64);
            if id >= self.cells.watermark() {
                break;
            }
            let Some(chunk) = entry else { continue };
            let goes = match self.dry_run {
                true => self.cells.get(id) == Cell::White,
                false => self.cells.condemn(id) == Cell::Condemned,
            };
            if goes {
                self.record.condemned += 1;
                self.record.condemned_bytes += u64::from(chunk.len);
                if self.dry_run {
                    let share = u64::from(chunk.len) * u64::from(row.at.len) / u64::from(row.plain.max(1));
                    self.record.freed_bytes += share;
                } else {
                    self.list(chunk.digest, id);
                }
                *entry = None;
                any = true;
            }
        }
        if any && !self.dry_run {
            // All ids of the row: it may be split before its chunks are removed.
            self.stretches.extend(first.0 / STRETCH..=(end.0 - 1) / STRETCH);
        }
    }

    fn list(&mut self, digest: Digest, id: ChunkId) {
        let most = self.step * MAX_LISTED;
        self.listed.take_if(|listed| listed.len() >= most);
        if let Some(listed) = &mut self.listed {
            listed.push((digest, id));
        }
    }
}
