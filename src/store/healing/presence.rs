//! Packs that are gone, noticed without reading a row of all that are there.
//!
//! A row names the packs that there were when the store was closed, or a cycle ended. What it names and no file is there
//! for is only suspected: a cycle that was cut off may have removed it rightly. So the rows of regions decide, and they are
//! read only where there is a suspicion. Chunks that were in what is gone count as bad from then on: the status tells of
//! them, and the same content heals them.

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
/// Region rows that are looked at in one view.
const AT_A_TIME: usize = 4096;

/// Lengths of runs of ids that are there and that are not, in turn, beginning with those that are not, from 0 on.
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

/// Which of the packs in `row` are not in `there`; none where the row does not decode.
fn missing(mut row: &[u8], there: &BTreeSet<PackId>) -> BTreeSet<PackId> {
    let (mut gone, mut next, mut left) = (BTreeSet::new(), 0u64, there.len() as u64);
    while let (Ok(gap), Ok(run)) = (varint::take(&mut row), varint::take(&mut row)) {
        let first = next.saturating_add(gap);
        next = first.saturating_add(run);
        let present = there.range(PackId(first)..PackId(next)).count() as u64;
        left = left.saturating_sub(present);
        // Only damage makes a run that is much longer than all packs; it tells nothing then.
        if run - present.min(run) > 1 << 24 {
            return BTreeSet::new();
        }
        gone.extend((first..next).map(PackId).filter(|pack| !there.contains(pack)));
    }
    gone
}

impl Healing {
    /// Puts the names of all packs that there are into the open batch, if they are others than the row has.
    pub fn note_packs(&self) -> Result<()> {
        let row = encode(&self.packs.list()?);
        if self.meta.now().get(Table::State, PACKS_KEY)?.as_deref() != Some(&row) {
            self.batches.join()?.rows.put(Table::State, PACKS_KEY, &row);
        }
        Ok(())
    }

    /// Looks whether all packs are there that the store had. Chunks of those that are gone are bad from now on, and the log
    /// names the packs. Returns how many chunks that are; `go_on` is asked now and then.
    pub fn look_for_packs(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        let Some(row) = self.meta.now().get(Table::State, PACKS_KEY)? else { return Ok(0) };
        let gone = missing(&row, &self.packs.list()?.into_iter().collect());
        if gone.is_empty() {
            return Ok(0);
        }
        // In views that are newer than the look: what a row names there although it was gone before is lost.
        let (mut from, mut chunks, mut named) = (0, 0, BTreeSet::new());
        while let Some(next) = self.look_at_regions(from, &gone, &mut |row| {
            let ids: Vec<ChunkId> = row.live().map(|(id, _)| id).collect();
            chunks += ids.len() as u64;
            named.insert(row.at.pack);
            self.distrust(ids, row.at.pack);
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

    /// Hands the rows of some regions from `from` on that are in one of these packs to `each`; where to go on.
    fn look_at_regions(
        &self,
        from: u64,
        packs: &BTreeSet<PackId>,
        each: &mut dyn FnMut(&RegionRow),
    ) -> Result<Option<u64>> {
        let (mut seen, mut next, mut found) = (0, None, Vec::new());
        let view = self.meta.now().view.clone();
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
