//! The extents of a file: finding and replacing stretches.
//!
//! Keeps true: the extents of a file never overlap, none reaches beyond its size, and `allocated` of the inode's row is
//! the sum of their lengths. Callers hold the inode's lock.

use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::rows::{Extent, MAX_EXTENT_CHUNKS, Piece};
use crate::meta::{Counter, Layers, Table};
use crate::store::Member;
use crate::store::barrier::Barrier;

use super::inode::InodeState;
use super::rows::Content;

/// The extents that touch `[from, to)`, in file order.
pub(super) fn touching(layers: &Layers, content: Content, from: u64, to: u64) -> Result<Vec<Extent>> {
    touching_first(layers, content, (from, to), usize::MAX).map(|(found, _)| found)
}

/// The first extents that touch `[from, to)`, no more than `most`, which is not 0, and where the one behind them
/// begins; `to` if there is none.
pub(super) fn touching_first(
    layers: &Layers,
    content: Content,
    (from, to): (u64, u64),
    most: usize,
) -> Result<(Vec<Extent>, u64)> {
    let reaches_in = match from.checked_sub(1) {
        Some(before) if from < to => {
            at_or_before(layers, content, before)?.filter(|extent| extent.end() > from)
        }
        _ => None,
    };
    beginning_first(layers, content, (from, to), reaches_in.into_iter().collect(), most)
}

/// The same for a caller that knows that no extent that begins before `from` reaches beyond it, except those in
/// `found`. It does not scan the rows that were removed before `from`.
pub(super) fn beginning_first(
    layers: &Layers,
    content: Content,
    (from, to): (u64, u64),
    mut found: Vec<Extent>,
    most: usize,
) -> Result<(Vec<Extent>, u64)> {
    let mut next = to;
    if from >= to {
        return Ok((found, next));
    }
    let (start, end) = (content.key(from), content.key(to));
    layers.scan(content.table, Bound::Included(&start), Bound::Excluded(&end), |key, row| {
        let offset = content.offset(key)?;
        if found.len() >= most {
            next = offset;
            return Ok(false);
        }
        found.push(Extent::decode(offset, row)?);
        Ok(true)
    })?;
    Ok((found, next))
}

/// The offsets of every `most`-th extent, starting with the one at `from`, in file order.
pub(super) fn every(layers: &Layers, content: Content, from: u64, most: usize) -> Result<Vec<u64>> {
    let (mut found, mut number) = (Vec::new(), 0);
    let (start, end) = (content.key(from), content.key(u64::MAX));
    layers.scan(content.table, Bound::Included(&start), Bound::Excluded(&end), |key, _| {
        if number % most == 0 {
            found.push(content.offset(key)?);
        }
        number += 1;
        Ok(true)
    })?;
    Ok(found)
}

/// The first extent that ends after `from`.
pub(super) fn next_after(layers: &Layers, content: Content, from: u64) -> Result<Option<Extent>> {
    if let Some(extent) = at_or_before(layers, content, from)?
        && extent.end() > from
    {
        return Ok(Some(extent));
    }
    let mut found = None;
    let (start, end) = (content.key(from), content.key(u64::MAX));
    layers.scan(content.table, Bound::Excluded(&start), Bound::Excluded(&end), |key, row| {
        found = Some(Extent::decode(content.offset(key)?, row)?);
        Ok(false)
    })?;
    Ok(found)
}

/// The last extent that begins at `offset` or before it.
pub(super) fn at_or_before(layers: &Layers, content: Content, offset: u64) -> Result<Option<Extent>> {
    let (low, high) = (content.key(0), content.key(offset));
    match layers.last(content.table, &low, &high)? {
        None => Ok(None),
        Some((key, row)) => Extent::decode(content.offset(&key)?, &row).map(Some),
    }
}

/// The parts of chunks in `[from, to)` of a file.
pub(super) fn pieces(layers: &Layers, content: Content, from: u64, to: u64) -> Result<Vec<Piece>> {
    let extents = touching(layers, content, from, to)?;
    let clipped = extents.iter().filter_map(|extent| extent.clip(from, to));
    Ok(clipped.flat_map(|extent| extent.pieces().collect::<Vec<_>>()).collect())
}

/// Replaces everything in `[from, to)` by `new`; parts that `new` does not cover become holes. After an error nothing
/// has changed.
pub(super) fn replace(
    batch: (&Member, &Barrier),
    layers: &Layers,
    ino: u64,
    state: &mut InodeState,
    range: (u64, u64),
    new: Vec<Piece>,
) -> Result<()> {
    let old = touching(layers, Content::of(ino, &state.row), range.0, range.1)?;
    replace_these(batch, layers, (ino, state), range, &old, new)
}

/// The same, where `old` is all that touches the range.
pub(super) fn replace_these(
    (member, barrier): (&Member, &Barrier),
    layers: &Layers,
    (ino, state): (u64, &mut InodeState),
    (from, to): (u64, u64),
    old: &[Extent],
    mut new: Vec<Piece>,
) -> Result<()> {
    let content = Content::of(ino, &state.row);
    let added: u64 = new.iter().map(|piece| u64::from(piece.len)).sum();
    let mut removed = 0u64;
    let mut keep = Vec::new();
    for extent in old {
        removed += extent.clip(from, to).map_or(0, |part| part.len);
        keep.extend(extent.clip(0, from));
        keep.extend(extent.clip(to, u64::MAX));
    }
    // It continues an extent: one row instead of two.
    if keep.is_empty()
        && let (Some(first), Some(before)) = (new.first(), from.checked_sub(1))
        && let Some(extent) = at_or_before(layers, content, before)?
        && extent.end() == first.offset
        && extent.lens.len() < MAX_EXTENT_CHUNKS
        && extent.first.offset(extent.lens.len() as u64) == first.id
    {
        ask_for_kept(barrier, ino, content, std::slice::from_ref(&extent))?;
        new.splice(0..0, extent.pieces().collect::<Vec<_>>());
    }
    ask_for_kept(barrier, ino, content, &keep)?;
    let sum = (state.row.allocated + added).checked_sub(removed);
    state.row.allocated =
        sum.ok_or_else(|| Error::damaged(format!("inode {ino} has fewer bytes than were taken out of it")))?;
    state.recent = None;
    for extent in old {
        member.rows.delete(content.table, &content.key(extent.offset));
    }
    let joined = Extent::join(new);
    for extent in keep.iter().chain(&joined) {
        member.rows.put(content.table, &content.key(extent.offset), &extent.encode());
    }
    member.rows.count(Counter::ReferencedBytes, added as i64 - removed as i64);
    member.rows.count(Counter::Deleted, removed as i64);
    Ok(())
}

/// In a subvolume, what is kept of an extent that is replaced passes the barrier again: its row may be one that reap
/// takes by mistake before the mark reads it, and no chunk that a row names is to depend on reap (I11).
fn ask_for_kept(barrier: &Barrier, ino: u64, content: Content, kept: &[Extent]) -> Result<()> {
    if content.table == Table::Extents {
        return Ok(());
    }
    kept.iter().try_for_each(|extent| ask_again(barrier, ino, extent))
}

/// Asks the barrier for the chunks of an extent that exists and is about to be referred to once more (I4). A condemned
/// chunk in a live extent is damage.
pub(super) fn ask_again(barrier: &Barrier, ino: u64, extent: &Extent) -> Result<()> {
    match barrier.reuse_run(extent.first, extent.lens.len() as u64) {
        None => Ok(()),
        Some(id) => Err(Error::damaged(format!("inode {ino} refers to chunk {}, which was condemned", id.0))),
    }
}
