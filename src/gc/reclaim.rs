//! The reclaim: gives the space of condemned chunks back to the host.
//!
//! Keeps true (I3): it begins only after the removal of the names is durable. Before the old place of a moved region is
//! freed, the region is synced in its new place (I1), and its changed row is durable. ChunkIds do not change, so files
//! do not change. A region that cannot be read stays where it is, and so does its pack.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;

use crate::chunk::ChunkId;
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::meta::{Counter, Table};
use crate::pack::{HEADER_LEN, Location, PackId, PackInfo};
use crate::store::{Priority, Store};
use crate::sync::Arc;

use super::CycleRecord;
use super::plan::Plan;
use super::sweep::Usage;

/// Bytes of records that are moved before a sync and the change of their rows.
const MOVE_BYTES: u64 = 32 << 20;
/// Plain bytes of regions that are copied at a time, plus one region. Each needs twice its size in memory.
const COPIED_TOGETHER: u64 = 8 << 20;
/// Region rows that are read under one view in the search for regions to move.
const LOOKED_TOGETHER: usize = 65_536;
/// Packs whose live regions are held in memory at a time while holes are punched.
const PACKS_AT_A_TIME: usize = 1024;
/// Shorter ranges are not worth a hole.
const MIN_HOLE: u64 = 4096;

/// Frees what is dead by `usage`, in packs below `below`. `moved` is called when the regions are in their new places.
pub(super) fn reclaim(
    store: &Arc<Store>,
    usage: &Usage,
    below: PackId,
    record: &mut CycleRecord,
    mut moved: impl FnMut() -> Result<()>,
) -> Result<()> {
    let can_punch = store.packs.can_punch();
    let plan = Plan::decide(&store.packs.infos()?, usage, below, can_punch);
    // Steps that need no space come first: on a full disk they make some.
    for pack in &plan.remove {
        remove(store, pack, record)?;
    }
    let kept = move_regions(store, &plan, below, record)?;
    moved()?;
    // Durable in the database before an old place is freed (I3).
    store.commits.fold()?;
    for pack in &plan.compact {
        if !kept.contains(&pack.id) {
            remove(store, pack, record)?;
            record.packs_compacted += 1;
        }
    }
    for group in plan.punch.chunks(PACKS_AT_A_TIME) {
        punch_group(store, group, usage, record)?;
    }
    // Packs that could not be emptied are punched instead; a read error may have kept them.
    for pack in plan.compact.iter().filter(|pack| can_punch && kept.contains(&pack.id)) {
        if let Err(error) = punch_group(store, &[*pack], usage, record) {
            tracing::warn!("the dead parts of {} stay as well: {error}", store.packs.name(pack.id));
            store.batches.writable()?;
        }
    }
    Ok(())
}

fn remove(store: &Store, pack: &PackInfo, record: &mut CycleRecord) -> Result<()> {
    store.packs.remove(pack.id)?;
    record.packs_removed += 1;
    record.freed_bytes += pack.taken;
    Ok(())
}

/// A region that is being moved.
struct Move {
    first: ChunkId,
    /// The id after the last chunk of its row.
    end: ChunkId,
    from: Location,
    to: Location,
    plain: u32,
}

/// Regions that are being moved, and what could not be moved.
#[derive(Default)]
struct Moving {
    /// In their new places, which are not synced yet.
    moves: Vec<Move>,
    /// Bytes of their records.
    bytes: u64,
    /// The disk is full; nothing more is moved.
    full: bool,
    /// Packs that stay because not everything could be moved out of them.
    stay: HashSet<PackId>,
}

/// Moves all regions of the packs that are to go, and the sparse ones; returns the packs that have to stay.
fn move_regions(
    store: &Arc<Store>,
    plan: &Plan,
    below: PackId,
    record: &mut CycleRecord,
) -> Result<HashSet<PackId>> {
    let (packs, mut moving) = (plan.moving(), Moving::default());
    if packs.is_empty() && plan.sparse.is_empty() {
        return Ok(moving.stay);
    }
    let is_moving = |row: &RegionRow| {
        row.at.pack < below && (packs.contains(&row.at.pack) || plan.sparse.contains(&row.first))
    };
    let mut next = Some(0);
    while let Some(from) = next {
        let (rows, behind) = next_rows(store, from, is_moving)?;
        next = behind;
        moving.copy(store, rows, record)?;
    }
    commit_moves(store, moving.moves)?;
    Ok(moving.stay)
}

/// The next rows to move, from the id `from` on, and where the rows after them begin. The view ends here: if it were
/// held while regions are copied, the database would grow by everything that is committed.
fn next_rows(
    store: &Store,
    from: u64,
    is_moving: impl Fn(&RegionRow) -> bool,
) -> Result<(Vec<RegionRow>, Option<u64>)> {
    let (mut rows, mut bytes, mut looked, mut next) = (Vec::new(), 0, 0, None);
    let view = store.layers().view.clone();
    view.scan(Table::Regions, Bound::Included(&id_key(from)), Bound::Unbounded, |key, row| {
        let row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
        let end = row.end().0;
        looked += 1;
        if is_moving(&row) {
            bytes += u64::from(row.plain);
            rows.push(row);
        }
        let is_enough = bytes >= COPIED_TOGETHER || looked >= LOOKED_TOGETHER;
        next = is_enough.then_some(end);
        Ok(!is_enough)
    })?;
    Ok((rows, next))
}

impl Moving {
    /// Copies regions into the open pack, on all workers.
    fn copy(&mut self, store: &Arc<Store>, rows: Vec<RegionRow>, record: &mut CycleRecord) -> Result<()> {
        if self.full {
            self.stay.extend(rows.iter().map(|row| row.at.pack));
            return Ok(());
        }
        let copier = store.clone();
        let threads = (rows.len(), Priority::Low);
        for (row, copied) in store.workers.parallel_map(rows, threads, move |row| copy(&copier, row)) {
            match copied {
                Ok(done) => {
                    self.bytes += u64::from(done.to.len);
                    record.moved_bytes += u64::from(done.to.len);
                    self.moves.push(done);
                }
                Err(error) => {
                    // A region that cannot be read stays; once the disk is full, all regions stay. Then nothing is
                    // freed.
                    self.full |= error.is_no_space();
                    tracing::warn!("the region of chunk {} stays in its pack: {error}", row.first.0);
                    store.batches.writable()?;
                    self.stay.insert(row.at.pack);
                }
            }
        }
        if self.bytes >= MOVE_BYTES {
            self.bytes = 0;
            commit_moves(store, std::mem::take(&mut self.moves))?;
        }
        Ok(())
    }
}

/// Writes the live chunks of a region into the open pack.
fn copy(store: &Store, row: &RegionRow) -> Result<Move> {
    let (to, plain) = store.packs.copy(&row.at, |id| row.entry(id).is_some())?;
    Ok(Move { first: row.first, end: row.end(), from: row.at, to, plain })
}

/// Syncs moved regions and changes their rows, if these still point to the old place.
fn commit_moves(store: &Arc<Store>, moves: Vec<Move>) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    store.packs.sync()?;
    store.commits.rewrite(false, |txn, sums| {
        let mut rows = Vec::new();
        for step in &moves {
            // One row may have become several; healed chunks are elsewhere.
            for (key, row) in
                txn.rows(Table::Regions, &id_key(step.first.0), &id_key(step.end.0), usize::MAX)?
            {
                let mut row = RegionRow::decode(ChunkId(chunk_of(&key)?), &row)?;
                if row.at == step.from {
                    (row.at, row.plain) = (step.to, step.plain);
                    sums[Counter::StoredBytes as usize] += i64::from(step.to.len) - i64::from(step.from.len);
                    rows.push((key, Some(row.encode())));
                }
            }
        }
        txn.apply(Table::Regions, rows);
        Ok(())
    })
}

/// Punches everything but live regions, headers and footers out of some packs.
///
/// Reads only the rows with ids that the packs had at the sweep, since nothing is added to a sealed pack. Packs are
/// filled in the order of ids, so that all groups together read each row about once.
fn punch_group(
    store: &Arc<Store>,
    group: &[PackInfo],
    usage: &Usage,
    record: &mut CycleRecord,
) -> Result<()> {
    let mut live: HashMap<PackId, Vec<(u64, u64)>> = group.iter().map(|pack| (pack.id, Vec::new())).collect();
    let used = || group.iter().filter_map(|pack| usage.packs.get(&pack.id));
    let from = id_key(used().map(|pack| pack.from.0).min().unwrap_or(0));
    let to = id_key(used().map(|pack| pack.to.0).max().unwrap_or(0));
    let view = store.layers().view.clone();
    view.scan(Table::Regions, Bound::Included(&from), Bound::Excluded(&to), |key, row| {
        let row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
        if let Some(stretches) = live.get_mut(&row.at.pack) {
            stretches.push((row.at.offset, row.at.offset + u64::from(row.at.len)));
        }
        Ok(true)
    })?;
    drop(view);
    for pack in group {
        let mut stretches = live.remove(&pack.id).unwrap_or_default();
        stretches.sort_unstable();
        let end = store.packs.records_end(pack.id)?;
        let mut at = HEADER_LEN;
        let mut punched = true;
        for (from, to) in stretches.into_iter().chain([(end, end)]) {
            if from > at && from - at >= MIN_HOLE {
                punched = store.packs.punch(pack.id, at, from - at)?;
            }
            if !punched {
                break;
            }
            at = at.max(to);
        }
        let left = store.packs.info(pack.id)?.taken;
        record.packs_punched += 1;
        record.freed_bytes += pack.taken.saturating_sub(left);
    }
    Ok(())
}
