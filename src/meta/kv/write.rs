//! The one write transaction.
//!
//! Keeps true: it is applied whole or not at all, and once a change of the file has failed, nothing is written any
//! more.

use std::io;
use std::sync::Arc;

use redb::{Durability, ReadableTable, WriteTransaction};

use crate::error::{Error, Result};
use crate::sync::MutexGuard;

use super::{
    Kv, Pages, Row, Table, check_not_failed, db_error, file_error, guarded, original_error, owned, store_in,
    verified,
};

impl Kv {
    /// Begins the one write transaction; waits while another is under way.
    pub fn write(&self) -> Result<WriteTxn<'_>> {
        let turn = self.writing.lock();
        check_not_failed(&self.pages)?;
        let mut txn = self.with_db(|db| db.begin_write().map_err(db_error))?;
        // Opening after a crash must not depend on the store's size.
        txn.set_quick_repair(true);
        Ok(WriteTxn { txn: Some(txn), pages: self.pages.clone(), _turn: turn })
    }
}

/// A write transaction; dropped without a commit, it changes nothing.
pub struct WriteTxn<'a> {
    /// Gone once it was committed.
    txn: Option<WriteTransaction>,
    pages: Arc<Pages>,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        if let Some(txn) = self.txn.take() {
            let _ = self.ended(guarded(|| txn.abort().map_err(db_error)));
        }
    }
}

impl WriteTxn<'_> {
    pub(super) fn open(&self, table: Table) -> Result<redb::Table<'_, &'static [u8], &'static [u8]>> {
        let txn = self.txn.as_ref().ok_or_else(|| Error::Latched("it was committed".to_owned()))?;
        txn.open_table(table.definition()).map_err(db_error)
    }

    fn within<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        guarded(work).map_err(|error| original_error(&self.pages, error))
    }

    /// If the engine can neither commit nor abort a transaction, nothing is written after it. Otherwise the engine
    /// would go through all pages at the next opening, and an unreadable page would keep the store closed. So the next
    /// opening starts from the last durable commit.
    fn ended(&self, how: Result<()>) -> Result<()> {
        how.inspect_err(|error| self.pages.stop(error))
    }

    /// The value under `key`, with this transaction's own changes.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.within(|| {
            let open = self.open(table)?;
            let found = open.get(key).map_err(db_error)?;
            found.map(|guard| verified(table, key, guard.value()).map(<[u8]>::to_vec)).transpose()
        })
    }

    /// The last row with a key in `from..=to`, with this transaction's own changes.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        self.within(|| {
            let open = self.open(table)?;
            let mut range = open.range::<&[u8]>(from..=to).map_err(db_error)?;
            range.next_back().map(|row| owned(table, row)).transpose()
        })
    }

    /// The rows of `from..to`, with this transaction's own changes.
    pub fn rows(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Vec<Row>> {
        self.within(|| {
            let open = self.open(table)?;
            let range = open.range::<&[u8]>(from..to).map_err(db_error)?;
            range.map(|row| owned(table, row)).collect()
        })
    }

    /// Applies changes of one table, in key order for speed: `None` removes.
    pub fn apply<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: Table,
        changes: impl IntoIterator<Item = (K, Option<V>)>,
    ) -> Result<()> {
        self.within(|| self.apply_unguarded(table, changes))
    }

    fn apply_unguarded<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        table: Table,
        changes: impl IntoIterator<Item = (K, Option<V>)>,
    ) -> Result<()> {
        let mut open = self.open(table)?;
        let mut row = Vec::new();
        for (key, value) in changes {
            let key = key.as_ref();
            match value {
                None => {
                    open.remove(key).map_err(db_error)?;
                }
                Some(value) => {
                    open.insert(key, store_in(&mut row, table, key, value.as_ref())).map_err(db_error)?;
                }
            }
        }
        Ok(())
    }

    /// Writes one row.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.apply(table, [(key, Some(value))])
    }

    /// Removes the rows of `from..to`, at most `limit`; returns those removed.
    pub fn remove_range(&mut self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        self.within(|| {
            let mut open = self.open(table)?;
            let mut rows = Vec::new();
            for row in open.range::<&[u8]>(from..to).map_err(db_error)?.take(limit) {
                let (key, value) = row.map_err(db_error)?;
                let plain = verified(table, key.value(), value.value())?;
                rows.push((key.value().to_vec(), plain.to_vec()));
            }
            for (key, _) in &rows {
                open.remove(key.as_slice()).map_err(db_error)?;
            }
            Ok(rows)
        })
    }

    /// Writes rows. Where one is there already with another value, `merge` makes its value of the new and the old one.
    pub fn merge<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: Table,
        rows: impl IntoIterator<Item = (K, V)>,
        merge: impl Fn(&[u8], &[u8]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        self.within(|| {
            let (mut open, mut row) = (self.open(table)?, Vec::new());
            for (key, value) in rows {
                let (key, value) = (key.as_ref(), value.as_ref());
                let before = open.insert(key, store_in(&mut row, table, key, value)).map_err(db_error)?;
                let merged = match &before {
                    Some(old) => match verified(table, key, old.value())? {
                        old if old == value => None,
                        old => Some(merge(value, old)?),
                    },
                    None => None,
                };
                drop(before);
                if let Some(merged) = merged {
                    open.insert(key, store_in(&mut row, table, key, &merged)).map_err(db_error)?;
                }
            }
            Ok(())
        })
    }

    /// Changes existing rows: `change` makes the new value from the item of the key and the old value; `None` removes
    /// the row.
    pub fn change<K: AsRef<[u8]>, C: Copy>(
        &mut self,
        table: Table,
        rows: impl IntoIterator<Item = (K, C)>,
        change: impl Fn(C, &[u8]) -> Result<Option<Vec<u8>>>,
    ) -> Result<()> {
        self.within(|| {
            let (mut open, mut row) = (self.open(table)?, Vec::new());
            for (key, what) in rows {
                let key = key.as_ref();
                let changed = match open.get(key).map_err(db_error)? {
                    None => continue,
                    Some(old) => {
                        let old = verified(table, key, old.value())?;
                        change(what, old)?.map(|new| (new != old).then_some(new))
                    }
                };
                match changed {
                    None => drop(open.remove(key).map_err(db_error)?),
                    Some(None) => {}
                    Some(Some(new)) => {
                        open.insert(key, store_in(&mut row, table, key, &new)).map_err(db_error)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Makes the transaction visible; with `durable`, it and all earlier ones have been synced when this returns.
    pub fn commit(mut self, durable: bool) -> Result<()> {
        let Some(mut txn) = self.txn.take() else { return Ok(()) };
        self.ended(self.within(|| {
            if !durable {
                let failed = |error: redb::SetDurabilityError| io::Error::other(error.to_string());
                txn.set_durability(Durability::None).map_err(|error| file_error(failed(error)))?;
            }
            txn.commit().map_err(db_error)
        }))?;
        check_not_failed(&self.pages)
    }
}
