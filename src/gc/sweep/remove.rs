//! Removes the rows of condemned chunks: their digests first, then the chunks themselves.
//!
//! Keeps true: while a digest names a chunk, the chunk has its row. So a chunk that is found exists, also after a power
//! cut between two transactions. What may be left over then is a chunk that no digest and no extent names, and the next
//! cycle removes it. Only the condemned chunk is removed from a digest's row, and the row only if it names no other
//! chunk: the same bytes may have been stored again.
//!
//! Both are removed in the order of their own table. The order of digests is unrelated to that of chunks: removed chunk
//! by chunk, each digest would be a page of its own to read, copy and write.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::STRETCH;
use crate::chunk::{ChunkId, Digest};
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, digest, id_key};
use crate::meta::{Counter, Sums, Table, Txn};
use crate::sabotage::{Protection, out};
use crate::store::Store;
use crate::store::barrier::cells::{Cell, Cells};
use crate::sync::Arc;

/// Steps that go into the database together: it needs the space of all pages that one transaction replaces once more.
const FOLDED_TOGETHER: u64 = 8;
/// Digests read in one view, for each that a transaction may remove.
const SCAN_FACTOR: usize = 64;

/// Transactions one after the other.
struct Transactions<'a, G> {
    store: &'a Arc<Store>,
    done: u64,
    go_on: G,
}

impl<G: FnMut(bool) -> Result<()>> Transactions<'_, G> {
    fn run<R>(&mut self, change: impl FnOnce(&mut Txn<'_>, &mut Sums) -> Result<R>) -> Result<R> {
        (self.go_on)(false)?;
        let result = self.store.commits.rewrite(false, change)?;
        self.done += 1;
        if self.done.is_multiple_of(FOLDED_TOGETHER) {
            self.store.commits.fold()?;
        }
        (self.go_on)(true)?;
        Ok(result)
    }
}

fn is_condemned(cells: &Cells, id: ChunkId) -> bool {
    id < cells.watermark() && cells.get(id) == Cell::Condemned
}

/// Removes condemned chunks from the rows of their digests; `listed` has all of them, if there is a list.
pub(super) fn digests(
    store: &Arc<Store>,
    cells: &Cells,
    listed: Option<Vec<(Digest, ChunkId)>>,
    step: usize,
    go_on: impl FnMut(bool) -> Result<()>,
) -> Result<()> {
    let mut transactions = Transactions { store, done: 0, go_on };
    if let Some(mut listed) = listed {
        listed.sort_unstable();
        return listed
            .chunks(step)
            .try_for_each(|some| transactions.run(|txn, _| remove_from_digests(txn, some)));
    }
    let mut from = Some(None);
    while let Some(behind) = from {
        let (some, next) = condemned_behind(store, cells, behind, step)?;
        match some.as_slice() {
            [] => (transactions.go_on)(false)?,
            some => transactions.run(|txn, _| remove_from_digests(txn, some))?,
        }
        from = next.map(Some);
    }
    Ok(())
}

/// Digests with chunks, and the last digest that was read, if others follow.
type SomeDigests = (Vec<(Digest, ChunkId)>, Option<Digest>);

/// The next condemned chunks in the order of the digests.
fn condemned_behind(
    store: &Store,
    cells: &Cells,
    behind: Option<Digest>,
    step: usize,
) -> Result<SomeDigests> {
    let view = store.layers().view.clone();
    let (mut found, mut looked, mut next) = (Vec::new(), 0, None);
    let from = behind.as_ref().map_or(Bound::Unbounded, |digest| Bound::Excluded(&digest.0[..]));
    view.scan(Table::Digests, from, Bound::Unbounded, |key, row| {
        let digest = digest::from_key(key)?;
        found.extend(digest::chunk_ids(row)?.filter(|id| is_condemned(cells, *id)).map(|id| (digest, id)));
        looked += 1;
        next = (found.len() >= step || looked >= step * SCAN_FACTOR).then_some(digest);
        Ok(next.is_none())
    })?;
    Ok((found, next))
}

fn remove_from_digests(txn: &mut Txn<'_>, some: &[(Digest, ChunkId)]) -> Result<()> {
    if out(Protection::DigestStillNames) {
        txn.apply(Table::Digests, some.iter().map(|(digest, _)| (digest.0, None::<&[u8]>)));
        return Ok(());
    }
    let gone = some.iter().map(|(digest, id)| (digest.0, *id));
    txn.change(Table::Digests, gone, |id, row| digest::remove(row, id))
}

/// Removes the condemned chunks in these stretches from the rows of their regions.
pub(super) fn chunks(
    store: &Arc<Store>,
    cells: &Cells,
    stretches: &BTreeSet<u64>,
    step: usize,
    go_on: impl FnMut(bool) -> Result<()>,
) -> Result<()> {
    let mut transactions = Transactions { store, done: 0, go_on };
    let mut ranges = stretches.iter().map(|number| (number * STRETCH, (number + 1) * STRETCH));
    let mut range = ranges.next();
    while range.is_some() {
        let view = store.layers().view.clone();
        let (mut seen, mut count) = (Vec::new(), 0);
        while let Some((from, to)) = range.filter(|_| count < step) {
            let mut next = None;
            view.scan(
                Table::Regions,
                Bound::Included(&id_key(from)),
                Bound::Excluded(&id_key(to)),
                |key, row| {
                    let row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
                    let goes = row.live().filter(|(id, _)| is_condemned(cells, *id)).count();
                    count += goes;
                    // Not the next key: if a row is split meanwhile, a part of it comes after this key.
                    next = (count >= step).then(|| row.end().0);
                    if goes > 0 {
                        seen.push(row);
                    }
                    Ok(next.is_none())
                },
            )?;
            range = next.filter(|next| *next < to).map(|next| (next, to)).or_else(|| ranges.next());
        }
        drop(view);
        if !seen.is_empty() {
            let bad = transactions.run(|txn, sums| remove_chunks(store, cells, txn, &seen, sums))?;
            store.healing.forget(bad);
        }
    }
    Ok(())
}

/// What has become of a row.
fn rows_by_now(txn: &Txn<'_>, seen: &RegionRow) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    if out(Protection::SweepReadsAgain) {
        return Ok(vec![(id_key(seen.first.0).to_vec(), seen.encode())]);
    }
    txn.rows(Table::Regions, &id_key(seen.first.0), &id_key(seen.end().0), usize::MAX)
}

/// Removes the condemned chunks from their rows; returns those that were bad. The rows are read again here: bad chunks
/// may have been stored again since the scan, and have rows of their own by now.
fn remove_chunks(
    store: &Store,
    cells: &Cells,
    txn: &mut Txn<'_>,
    seen: &[RegionRow],
    sums: &mut Sums,
) -> Result<Vec<ChunkId>> {
    let (mut changes, mut bad) = (Vec::new(), Vec::new());
    for seen in seen {
        for (key, row) in rows_by_now(txn, seen)? {
            let mut row = RegionRow::decode(ChunkId(chunk_of(&key)?), &row)?;
            let first = row.first;
            for (id, entry) in (first.0..).map(ChunkId).zip(&mut row.entries) {
                let Some(chunk) = entry.filter(|_| is_condemned(cells, id)) else { continue };
                sums[Counter::Chunks as usize] -= 1;
                sums[Counter::PlainBytes as usize] -= i64::from(chunk.len);
                bad.extend(Some(id).filter(|id| store.healing.is_bad(*id)));
                *entry = None;
            }
            let stays = row.live().next().is_some();
            if !stays {
                sums[Counter::StoredBytes as usize] -= i64::from(row.at.len);
            }
            changes.push((key, stays.then(|| row.encode())));
        }
    }
    txn.apply(Table::Regions, changes);
    txn.apply(Table::Bad, bad.iter().map(|id| (id_key(id.0), None::<&[u8]>)));
    Ok(bad)
}
