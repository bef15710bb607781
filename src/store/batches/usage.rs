//! What the members of a batch change of what subvolumes hold.
//!
//! Keeps true: a batch has differences; the commit makes final rows of them, from those that are committed before it. So
//! what a clone begins with is what its source held at the cut: the batch before the swap is committed by then, and
//! nothing of this one is.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::meta::rows::{Timestamp, UsageRow, id_key};
use crate::meta::{Table, Txn};
use crate::sync::Mutex;

/// Differences.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    files: i64,
    bytes: i64,
    changed: Option<Timestamp>,
}

/// The differences of one batch, by the numbers of subvolumes.
#[derive(Debug, Default)]
pub struct UsageChanges {
    changes: Mutex<BTreeMap<u64, Change>>,
    /// What was made at the swap, when, and what it is a clone of.
    begun: Mutex<Option<(u64, Timestamp, Option<u64>)>>,
}

impl UsageChanges {
    /// Something in a subvolume was changed, at `when`.
    pub fn count(&self, number: u64, files: i64, bytes: i64, when: Timestamp) {
        let mut changes = self.changes.lock();
        let change = changes.entry(number).or_default();
        change.files += files;
        change.bytes += bytes;
        change.changed = change.changed.max(Some(when));
    }

    /// A subvolume was made, as a clone of another one or empty.
    pub fn begin(&self, number: u64, born: Timestamp, source: Option<u64>) {
        *self.begun.lock() = Some((number, born, source));
    }

    /// Writes the final rows.
    pub fn write(&self, txn: &mut Txn<'_>) -> Result<()> {
        if let Some((number, born, source)) = *self.begun.lock() {
            let of_source = source.map_or(Ok(None), |source| read(txn, source))?;
            let row = UsageRow { changed: born, ..of_source.unwrap_or(UsageRow::empty(born)) };
            txn.put(Table::Usage, &id_key(number), &row.encode());
        }
        for (number, change) in &*self.changes.lock() {
            // One that was reaped meanwhile.
            let Some(row) = read(txn, *number)? else { continue };
            let row = UsageRow {
                files: row.files.saturating_add_signed(change.files),
                bytes: row.bytes.saturating_add_signed(change.bytes),
                changed: change.changed.map_or(row.changed, |changed| changed.max(row.changed)),
            };
            txn.put(Table::Usage, &id_key(*number), &row.encode());
        }
        Ok(())
    }
}

fn read(txn: &Txn<'_>, number: u64) -> Result<Option<UsageRow>> {
    txn.get(Table::Usage, &id_key(number))?.map(|row| UsageRow::decode(&row)).transpose()
}
