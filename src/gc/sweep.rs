//! The sweep: condemns what is white, then removes the rows of what it condemned.
//!
//! Keeps true (I6): a chunk's fate is its cell's compare-and-swap; a row is removed only for a cell that says condemned.

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

/// Region rows looked at in one view, for each row that a transaction may remove. Whoever holds a view keeps the database
/// from using pages again.
const LOOK: usize = 16;
/// Digests that are remembered with their chunks, for each that a transaction removes: 40 MiB. If more are condemned, all
/// digests are looked at.
const LISTED: usize = 256;
/// Ids of a stretch that is looked at again if anything in it was condemned.
const STRETCH: u64 = 4096;

/// What the live regions of a pack take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackUse {
    /// Bytes of records that have at least one live chunk.
    pub record_bytes: u64,
    /// Those of them of which less than half is live, which move.
    pub sparse_bytes: u64,
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

/// Condemns and removes, `step` chunks or a few more a transaction; with `dry_run`, only counts. `go_on` is asked before
/// each transaction and after each.
pub(super) fn sweep(
    store: &Arc<Store>,
    cells: &Cells,
    (step, dry_run): (usize, bool),
    record: &mut CycleRecord,
    mut go_on: impl FnMut(bool) -> Result<()>,
) -> Result<Usage> {
    let (usage, listed, stretches) = (Usage::default(), Some(Vec::new()), BTreeSet::new());
    let mut look = Look { cells, step, dry_run, record, usage, listed, stretches };
    let mut from = Some(ChunkId(0));
    while let Some(first) = from {
        from = look.from(store, first)?;
        go_on(false)?;
    }
    let Look { usage, listed, stretches, .. } = look;
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

/// A look at the regions, in which everything white is condemned.
struct Look<'a> {
    cells: &'a Cells,
    step: usize,
    dry_run: bool,
    record: &'a mut CycleRecord,
    usage: Usage,
    /// The digests of what was condemned, with their chunks; none once there were too many.
    listed: Option<Vec<(Digest, ChunkId)>>,
    /// Numbers of the stretches of ids in which a row with condemned chunks has a part.
    stretches: BTreeSet<u64>,
}

impl Look<'_> {
    /// Looks at some rows from `first` on; where to go on, if there are more.
    ///
    /// The view ends here, before anything is removed: the database keeps every page that changes while a view is held,
    /// and would grow by all the pages that the sweep rewrites.
    fn from(&mut self, store: &Store, first: ChunkId) -> Result<Option<ChunkId>> {
        // Rows of this view are no more than what was: those that change are read again when they do. What is healed
        // meanwhile counts as live in its old place, and is in a pack that this cycle leaves alone.
        let view = store.now().view.clone();
        let (mut next, mut looked) = (None, 0);
        view.scan(Table::Regions, Bound::Included(&id_key(first.0)), Bound::Unbounded, |key, row| {
            let mut row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
            self.condemn(&mut row);
            self.usage.note(&row);
            looked += 1;
            // Not the next key: a row that is split meanwhile leaves a part behind this one, which was looked at.
            next = (looked >= self.step * LOOK).then(|| row.end());
            Ok(next.is_none())
        })?;
        Ok(next)
    }

    /// Takes what is white out of a row.
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
                true => self.cells.look(id) == Cell::White,
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
            // All of the row: it may be split before its chunks are removed.
            self.stretches.extend(first.0 / STRETCH..=(end.0 - 1) / STRETCH);
        }
    }

    fn list(&mut self, digest: Digest, id: ChunkId) {
        let most = self.step * LISTED;
        self.listed.take_if(|listed| listed.len() >= most);
        if let Some(listed) = &mut self.listed {
            listed.push((digest, id));
        }
    }
}
