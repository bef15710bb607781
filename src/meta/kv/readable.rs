//! The rows of a damaged table, also those after pages that cannot be read.
//!
//! Keeps true: the rows come in key order, each once. For each unreadable range of keys there is one error, between the
//! last row before it and the first row after it. Simpler ways fail: the engine ends a walk at the first page that it
//! cannot read, and does not say at which key the next page begins.

use std::ops::Bound;

use redb::ReadableDatabase;

use super::{CheckedRow, Kv, ReadView, Result, Table, db_error, guarded};

/// Keys are searched as numbers of this many bytes.
const WIDTH: usize = 16;

/// Rows from some key on, up to the first error.
type Walk = Box<dyn Iterator<Item = Result<CheckedRow>>>;

impl Kv {
    /// A view of the present state in which some tables may be missing: each read of these is an error. It is for a
    /// repair; a table cannot be opened if its root page is damaged.
    pub fn read_partial(&self) -> Result<ReadView> {
        self.with_db(|db| {
            let txn = db.begin_read().map_err(db_error)?;
            let mut wrong = None;
            let open = |table: Table| {
                let opened = guarded(|| txn.open_table(table.definition()).map_err(db_error));
                opened.map_err(|error| {
                    let what = format!("the table {} cannot be opened: {error}", table.name());
                    wrong.get_or_insert(error);
                    what
                })
            };
            let tables: Vec<_> = Table::ALL.map(open).into();
            if let Some(error) = wrong.filter(|_| tables.iter().all(|table| table.is_err())) {
                return Err(error);
            }
            Ok(ReadView { tables, _txn: txn })
        })
    }
}

impl ReadView {
    /// All rows of a table from a key on, in key order: as [`rows`](Self::rows), but the rows after an unreadable range
    /// follow its error.
    pub fn readable_rows(
        &self,
        table: Table,
        from: &[u8],
    ) -> impl Iterator<Item = Result<CheckedRow>> + use<'_> {
        let mut last = from.to_vec();
        let mut walk = Some(self.walk_from(table, Bound::Included(from)));
        std::iter::from_fn(move || {
            let row = walk.as_mut()?.next();
            match &row {
                None => walk = None,
                // Never backwards, whatever the key of a damaged row is.
                Some(Ok((key, _))) if *key > last => last.clone_from(key),
                Some(Ok(_)) => {}
                Some(Err(_)) => {
                    let behind = self.behind(table, &last);
                    walk = behind.map(|from| self.walk_from(table, Bound::Included(&from)));
                }
            }
            row
        })
    }

    /// As [`walk`](Self::walk); if that fails, its error is the only item.
    fn walk_from(&self, table: Table, from: Bound<&[u8]>) -> Walk {
        match self.walk(table, from) {
            Ok(walk) => Box::new(walk),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    /// Finds the least key from which rows can be read again, if the rows after `last` cannot: by growing steps, then
    /// by halving the last step. The steps grow slowly, so that they skip no readable range, unless it is much shorter
    /// than the unreadable one before it. `None` if there is no such key up to the end of the table.
    fn behind(&self, table: Table, last: &[u8]) -> Option<Vec<u8>> {
        let reads =
            |from: &[u8]| !matches!(self.walk_from(table, Bound::Included(from)).next(), Some(Err(_)));
        let begin = number(last);
        let (mut fails, mut step) = (begin, 1u128);
        let mut goes = loop {
            let from = begin.checked_add(step)?;
            if reads(&from.to_be_bytes()) {
                break from;
            }
            fails = from;
            step = step.checked_add((step / 4).max(1))?;
        };
        while goes - fails > 1 {
            let middle = fails + (goes - fails) / 2;
            *(if reads(&middle.to_be_bytes()) { &mut goes } else { &mut fails }) = middle;
        }
        // The number may have more zeros at its end than the first key, which then comes before it.
        let bytes = goes.to_be_bytes();
        let least = WIDTH - (goes.trailing_zeros() / u8::BITS) as usize;
        (least..=WIDTH).map(|len| &bytes[..len]).find(|from| reads(from)).map(<[u8]>::to_vec)
    }
}

/// A key as a number, cut off or filled with zeros.
fn number(key: &[u8]) -> u128 {
    let mut bytes = [0; WIDTH];
    let len = key.len().min(WIDTH);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}
