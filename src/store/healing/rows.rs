//! Splitting region rows: some chunks stay where they are, others are elsewhere.

use std::collections::BTreeMap;

use crate::chunk::{ChunkId, Digest};
use crate::meta::rows::{RegionRow, id_key};
use crate::meta::{Counter, Sums, Table, Txn};
use crate::pack::Location;

use super::super::batches::Healed;

/// Rewrites one region row with its healed chunks in their new places. If its chunks are in several places now, it
/// becomes several rows, since the row of an id is the last one that begins at or before it.
pub(super) fn redirect_row(
    row: &RegionRow,
    healed: &BTreeMap<ChunkId, Healed>,
    txn: &mut Txn<'_>,
    sums: &mut Sums,
) {
    let parts = split_row(row, |id, digest| {
        healed.get(&id).filter(|healed| healed.digest == *digest).map(|healed| (healed.at, healed.plain))
    });
    let stored = |rows: &[RegionRow]| rows.iter().map(|row| i64::from(row.at.len)).sum::<i64>();
    sums[Counter::StoredBytes as usize] += stored(&parts) - i64::from(row.at.len);
    let gone = std::iter::once((id_key(row.first.0), None));
    let rows = parts.iter().map(|part| (id_key(part.first.0), Some(part.encode())));
    txn.apply(Table::Regions, gone.chain(rows));
}

/// Splits a row if some of its chunks are elsewhere. `place` returns the new place of a chunk, with the plain bytes of
/// the record there; none if the chunk stays. Swept chunks are left out at the ends of the new rows.
pub fn split_row(
    row: &RegionRow,
    place: impl Fn(ChunkId, &Digest) -> Option<(Location, u32)>,
) -> Vec<RegionRow> {
    let mut parts: Vec<RegionRow> = Vec::new();
    for (id, entry) in row.live() {
        let (at, plain) = place(id, &entry.digest).unwrap_or((row.at, row.plain));
        match parts.last_mut() {
            Some(part) if part.at == at => {
                let gap = id.0 - part.end().0;
                part.entries.extend((0..gap).map(|_| None));
                part.entries.push(Some(*entry));
            }
            _ => parts.push(RegionRow { first: id, at, plain, entries: vec![Some(*entry)] }),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::rows::RegionEntry;
    use crate::pack::PackId;

    const OLD: Location = Location { pack: PackId(1), offset: 64, len: 500 };
    const NEW: Location = Location { pack: PackId(9), offset: 64, len: 200 };

    fn row(lens: &[u32]) -> RegionRow {
        let entry = |&len: &u32| (len > 0).then_some(RegionEntry { len, digest: Digest([len as u8; 32]) });
        RegionRow { first: ChunkId(10), at: OLD, plain: 99, entries: lens.iter().map(entry).collect() }
    }

    #[test]
    fn a_row_is_split_where_its_chunks_part() {
        let row = row(&[1, 2, 0, 4, 5, 6]);
        for mask in 0u32..1 << 6 {
            let is_new = |id: ChunkId| mask >> (id.0 - 10) & 1 == 1;
            let parts = split_row(&row, |id, _| is_new(id).then_some((NEW, 7)));
            let mut end = 0;
            for part in &parts {
                assert!(part.first.0 >= end, "{mask:b}: rows do not overlap");
                end = part.end().0;
            }
            for (id, entry) in row.live() {
                let of_id = parts.iter().rev().find(|part| part.first <= id).unwrap();
                assert_eq!(of_id.entry(id), Some(entry), "{mask:b}: the last row before it has it");
                assert_eq!(of_id.at, if is_new(id) { NEW } else { OLD }, "{mask:b}");
                assert_eq!(of_id.plain, if is_new(id) { 7 } else { 99 });
            }
        }
        assert_eq!(split_row(&row, |_, _| None).len(), 1);
    }
}
