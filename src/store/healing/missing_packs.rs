//! Finds missing packs without reading the rows of all existing ones.
//!
//! A row has the packs that existed when the store was closed or a cycle ended. If one of them has no file, it is only
//! suspected to be missing: an interrupted cycle may have removed it rightly. So the rows of regions decide, and they
//! are read only if there is a suspicion. The chunks of a missing pack are recorded as bad: the status shows them, and
//! the same content heals them.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::chunk::ChunkId;
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::meta::{Table, varint};
use crate::pack::PackId;

use super::Healing;

/// The key of the row in the table `state`.
const PACKS_KEY: &[u8] = b"packs";
/// Region rows that are read in one view.
const AT_A_TIME: usize = 4096;

/// The lengths of runs of missing and existing ids, in turn, beginning with missing ones at 0.
fn encode(packs: &[PackId]) -> Vec<u8> {
    let (mut row, mut next, mut packs) = (Vec::new(), 0, packs.iter().map(|pack| pack.0).peekable());
    while let Some(first) = packs.next() {
        let mut end = first + 1;
        while packs.next_if_eq(&end).is_some() {
            end += 1;
        }
        varint::put(&mut row, first - next);
        varint::put(&mut row, end - first);
        next = end;
    }
    row
}

/// The packs in `row` that are not in `there`; none if the row does not decode.
fn missing(mut row: &[u8], there: &BTreeSet<PackId>) -> BTreeSet<PackId> {
    let (mut gone, mut next, mut left) = (BTreeSet::new(), 0u64, there.len() as u64);
    while let (Ok(gap), Ok(run)) = (varint::take(&mut row), varint::take(&mut row)) {
        let first = next.saturating_add(gap);
        next = first.saturating_add(run);
        let present = there.range(PackId(first)..PackId(next)).count() as u64;
        left = left.saturating_sub(present);
        // Only damage makes a run that is much longer than all packs; then the row is ignored.
        if run - present.min(run) > 1 << 24 {
            return BTreeSet::new();
        }
        gone.extend((first..next).map(PackId).filter(|pack| !there.contains(pack)));
    }
    gone
}

impl Healing {
    /// Puts a row with all existing packs into the open batch, if it differs from the old row.
    pub fn note_packs(&self) -> Result<()> {
        let row = encode(&self.packs.list()?);
        if self.meta.layers().get(Table::State, PACKS_KEY)?.as_deref() != Some(&row) {
            self.batches.join()?.rows.put(Table::State, PACKS_KEY, &row);
        }
        Ok(())
    }

    /// Checks that all packs of the store exist. Chunks of missing packs are recorded as bad, and the log names the
    /// packs. Returns the number of these chunks; `go_on` is asked from time to time.
    pub fn look_for_packs(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        let Some(row) = self.meta.layers().get(Table::State, PACKS_KEY)? else { return Ok(0) };
        let gone = missing(&row, &self.packs.list()?.into_iter().collect());
        if gone.is_empty() {
            return Ok(0);
        }
        // In views that are newer than the listing: a pack that was missing then and is named in such a view is lost.
        let (mut from, mut chunks, mut named) = (0, 0, BTreeSet::new());
        while let Some(next) = self.look_at_regions(from, &gone, &mut |row| {
            let ids: Vec<ChunkId> = row.live().map(|(id, _)| id).collect();
            chunks += ids.len() as u64;
            named.insert(row.at.pack);
            self.mark_bad(ids, row.at.pack);
        })? {
            from = next;
            go_on()?;
        }
        for pack in &named {
            let name = self.packs.name(*pack);
            tracing::error!("{name} is not there, and chunks that are in use were in it");
        }
        Ok(chunks)
    }

    /// Passes the rows of some regions from `from` on that are in one of these packs to `each`; returns where to
    /// continue.
    fn look_at_regions(
        &self,
        from: u64,
        packs: &BTreeSet<PackId>,
        each: &mut dyn FnMut(&RegionRow),
    ) -> Result<Option<u64>> {
        let (mut seen, mut next, mut found) = (0, None, Vec::new());
        let view = self.meta.layers().view.clone();
        view.scan(Table::Regions, Bound::Included(&id_key(from)), Bound::Unbounded, |key, row| {
            let row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
            (seen, next) = (seen + 1, Some(row.first.0 + 1));
            if packs.contains(&row.at.pack) {
                found.push(row);
            }
            Ok(seen < AT_A_TIME)
        })?;
        drop(view);
        found.iter().for_each(each);
        Ok(next.filter(|_| seen == AT_A_TIME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_packs_come_back_and_what_is_missing_is_found() {
        let set = |ids: &[u64]| -> BTreeSet<PackId> { ids.iter().copied().map(PackId).collect() };
        let packs = |ids: &[u64]| ids.iter().copied().map(PackId).collect::<Vec<_>>();
        for all in [&[][..], &[0], &[1, 2, 3], &[1, 3, 4, 900], &[u64::MAX - 1]] {
            let row = encode(&packs(all));
            assert_eq!(missing(&row, &set(all)), set(&[]), "{all:?}");
            assert_eq!(missing(&row, &set(&[])), set(all));
        }
        let row = encode(&packs(&[1, 3, 4, 900]));
        assert_eq!(missing(&row, &set(&[1, 2, 4, 5])), set(&[3, 900]));
        assert_eq!(encode(&(0..100_000).map(PackId).collect::<Vec<_>>()).len(), 4, "a run takes two numbers");
        assert_eq!(missing(&[0xff; 30], &set(&[])), set(&[]), "no number");
        let mut huge = Vec::new();
        for number in [0, u64::MAX] {
            varint::put(&mut huge, number);
        }
        assert_eq!(missing(&huge, &set(&[])), set(&[]), "no run of packs");
    }
}
