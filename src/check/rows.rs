//! Reads a whole table of a view, past damaged rows.

use crate::error::Result;
use crate::meta::kv::{CheckedRow, guarded, hex};
use crate::meta::{ReadView, Table};

use super::findings::{Affected, Kind, sentence};
use super::run::CheckRun;

/// The rows of one table whose keys begin with an id, in order.
pub(super) struct Rows {
    table: Table,
    rows: Box<dyn Iterator<Item = Result<CheckedRow>>>,
    /// The next row to be returned.
    next: Option<CheckedRow>,
    /// Each row is also looked up by its key.
    looks_up: bool,
}

impl Rows {
    pub fn open(run: &mut CheckRun<'_>, table: Table) -> Self {
        let rows: Box<dyn Iterator<Item = Result<CheckedRow>>> = match run.view().rows(table) {
            Ok(rows) => Box::new(rows),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        let looks_up = run.is_first_reading(table) && run.report.data;
        let mut rows = Self { table, rows, next: None, looks_up };
        rows.advance(run);
        rows
    }

    /// The next row, if its id is `bound` or below; without a bound, the next row.
    pub fn up_to(&mut self, run: &mut CheckRun<'_>, bound: Option<u64>) -> Result<Option<(u64, CheckedRow)>> {
        let within = |(key, _): &CheckedRow| bound.is_none_or(|bound| id_of(key) <= bound);
        let Some(row) = self.next.take_if(|row| within(row)) else {
            return Ok(None);
        };
        self.advance(run);
        run.extra_work(1)?;
        Ok(Some((id_of(&row.0), row)))
    }

    /// The next row.
    pub fn next(&mut self, run: &mut CheckRun<'_>) -> Result<Option<CheckedRow>> {
        Ok(self.up_to(run, None)?.map(|(_, row)| row))
    }

    /// Looks the row up by its key as well: a damaged inner page may mislead a lookup, although a walk through all
    /// leaves misses nothing.
    fn look_up(&self, run: &mut CheckRun<'_>, (key, value): &CheckedRow) {
        let why = match get(&run.view(), self.table, key) {
            Ok(found) if found.as_ref() == value.as_ref().ok() => return,
            Ok(_) => "it is in the table and a lookup does not find it".to_owned(),
            Err(error) if error.is_access_error() => return run.set_broken(self.table, error),
            Err(error) => sentence(&error),
        };
        let what = format!("row {} of the table {}: {why}", hex(key), self.table.name());
        run.findings.add(Kind::Row, what, Affected::default());
    }

    fn advance(&mut self, run: &mut CheckRun<'_>) {
        self.next = match self.rows.next() {
            None => None,
            Some(Ok(row)) => {
                if row.1.is_err() {
                    run.set_partial(self.table);
                } else if self.looks_up {
                    self.look_up(run, &row);
                }
                Some(row)
            }
            Some(Err(error)) => {
                run.set_broken(self.table, error);
                self.rows = Box::new(std::iter::empty());
                None
            }
        };
    }
}

/// The value under `key`. Damage that the engine does not expect becomes an ordinary error.
pub(super) fn get(view: &ReadView, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
    guarded(|| view.get(table, key))
}

/// The number that a key begins with. A key that is too short is filled with zeros; decoding it fails later.
fn id_of(key: &[u8]) -> u64 {
    let mut id = [0; 8];
    let len = key.len().min(8);
    id[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(id)
}
