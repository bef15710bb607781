//! The mark: every chunk that any extent refers to, over one snapshot (I5).
//!
//! One table has the extents of files with a name, of open files without a name, and of files in the deletion queue, and
//! another one the same of subvolumes, so the mark can miss none of them. In the latter it marks what every row names,
//! whichever version the row belongs to and whoever may still see it (I11): which rows go is no matter of a cycle. A row that does not decode ends the cycle (I7).

use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::rows::{Extent, decode_content_key, decode_extent_key};
use crate::meta::{ReadView, Table};
use crate::sabotage::{Protection, out};
use crate::store::barrier::cells::Cells;

use super::CycleRecord;

#[cfg(feature = "sim")]
pub(super) mod late;

/// Marks what `view` refers to. `go_on` is asked after the first extent and after every `step`th.
pub(super) fn mark(
    view: &ReadView,
    cells: &Cells,
    step: usize,
    record: &mut CycleRecord,
    mut go_on: impl FnMut() -> Result<()>,
) -> Result<()> {
    mark_table(Table::Extents, view, cells, step, record, &mut go_on)?;
    if !out(Protection::MarkSubvolumes) {
        mark_table(Table::SubExtents, view, cells, step, record, &mut go_on)?;
    }
    Ok(())
}

/// The inode and the offset in the key of an extent.
fn place(table: Table, key: &[u8]) -> Result<(u64, u64)> {
    if table == Table::Extents {
        return decode_extent_key(key);
    }
    let (local, _, offset) = decode_content_key(key)?;
    Ok((local, offset))
}

fn mark_table(
    table: Table,
    view: &ReadView,
    cells: &Cells,
    step: usize,
    record: &mut CycleRecord,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut last_ino = 0;
    view.scan(table, Bound::Unbounded, Bound::Unbounded, |key, row| {
        let (ino, offset) = place(table, key)?;
        let extent = match Extent::decode(offset, row) {
            Err(_) if !errors_end_cycle() => return Ok(true),
            other => other?,
        };
        if table == Table::Extents && is_passed_over(view, &key[..8])? {
            return Ok(true);
        }
        if ino != last_ino {
            last_ino = ino;
            record.roots += 1;
        }
        let (newly, condemned) = cells.mark_run(extent.first, extent.lens.len() as u64);
        if let Some(id) = condemned {
            return Err(Error::damaged(format!("inode {ino} refers to chunk {}, which was condemned", id.0)));
        }
        record.marked += newly;
        record.extents += 1;
        if record.extents.is_multiple_of(step as u64) || record.extents == 1 {
            go_on()?;
        }
        Ok(true)
    })
}

fn errors_end_cycle() -> bool {
    !out(Protection::ErrorEndsCycle)
}

/// No inode is; without the protection, those that have no name.
fn is_passed_over(view: &ReadView, inode: &[u8]) -> Result<bool> {
    Ok(out(Protection::MarkOrphans) && view.get(Table::Orphans, inode)?.is_some())
}
