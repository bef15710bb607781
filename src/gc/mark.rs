//! The mark: every chunk that any extent refers to, over one snapshot (I5).
//!
//! The extents of live files, of files that are open without a name, and of files that wait in the deletion queue are
//! the same rows in the same table, so none of them can be forgotten. A row that does not decode ends the cycle (I7).

use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::rows::{Extent, extent_key, ino_of, split_extent_key};
use crate::meta::{ReadView, Table};
use crate::sabotage::{Protection, out};
use crate::store::Store;
use crate::store::cells::Cells;

use super::CycleRecord;

/// Extents between two looks at whether to go on.
const STEP: u64 = 4096;

/// Marks what `view` refers to. `go_on` is asked now and then with the number of extents so far.
pub(super) fn mark(
    view: &ReadView,
    cells: &Cells,
    record: &mut CycleRecord,
    mut go_on: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut last_ino = 0;
    view.scan(Table::Extents, Bound::Unbounded, Bound::Unbounded, |key, row| {
        let (ino, offset) = split_extent_key(key)?;
        let extent = match Extent::decode(offset, row) {
            Err(_) if out(Protection::ErrorEndsCycle) => return Ok(true),
            other => other?,
        };
        if out(Protection::MarkOrphans) && view.get(Table::Orphans, &key[..8])?.is_some() {
            return Ok(true);
        }
        if ino_of(key)? != last_ino {
            last_ino = ino;
            record.roots += 1;
        }
        let (newly, condemned) = cells.mark_run(extent.first, extent.lens.len() as u64);
        if let Some(id) = condemned {
            return Err(Error::damaged(format!("inode {ino} refers to chunk {}, which was condemned", id.0)));
        }
        record.marked += newly;
        record.extents += 1;
        if record.extents.is_multiple_of(STEP) || record.extents == 1 {
            go_on(record.extents)?;
        }
        Ok(true)
    })
}

/// The mark as it must not be: the files are listed once, and each one's extents are read when it is reached. What
/// vanished meanwhile is skipped, what came meanwhile is not seen. Only reached where a test takes the snapshot out.
pub(super) fn mark_late(
    store: &Store,
    listed: &ReadView,
    cells: &Cells,
    record: &mut CycleRecord,
    mut go_on: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut inodes = Vec::new();
    listed.scan(Table::Inodes, Bound::Unbounded, Bound::Unbounded, |key, _| {
        inodes.push(ino_of(key)?);
        Ok(true)
    })?;
    for ino in inodes {
        go_on(record.extents)?;
        let (from, to) = (extent_key(ino, 0), extent_key(ino, u64::MAX));
        store.now().view.scan(Table::Extents, Bound::Included(&from), Bound::Excluded(&to), |key, row| {
            let extent = Extent::decode(split_extent_key(key)?.1, row)?;
            record.marked += cells.mark_run(extent.first, extent.lens.len() as u64).0;
            record.extents += 1;
            Ok(true)
        })?;
    }
    Ok(())
}
