//! A wrong mark, for negative controls: it lists the files once, and reads the extents of each when it reaches it.
//! Files that vanished meanwhile are skipped, and new ones are not seen.

use std::ops::Bound;

use crate::error::Result;
use crate::gc::CycleRecord;
use crate::meta::rows::{Extent, decode_extent_key, extent_key, ino_of};
use crate::meta::{ReadView, Table};
use crate::store::Store;
use crate::store::barrier::cells::Cells;

/// Marks what the files in `listed` refer to when they are reached; `go_on` is asked before each.
pub(in crate::gc) fn mark(
    store: &Store,
    listed: &ReadView,
    cells: &Cells,
    record: &mut CycleRecord,
    mut go_on: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut inodes = Vec::new();
    listed.scan(Table::Inodes, Bound::Unbounded, Bound::Unbounded, |key, _| {
        inodes.push(ino_of(key)?);
        Ok(true)
    })?;
    for ino in inodes {
        go_on()?;
        let (from, to) = (extent_key(ino, 0), extent_key(ino, u64::MAX));
        store.layers().view.scan(
            Table::Extents,
            Bound::Included(&from),
            Bound::Excluded(&to),
            |key, row| {
                let extent = Extent::decode(decode_extent_key(key)?.1, row)?;
                record.marked += cells.mark_run(extent.first, extent.lens.len() as u64).0;
                record.extents += 1;
                Ok(true)
            },
        )?;
    }
    Ok(())
}
