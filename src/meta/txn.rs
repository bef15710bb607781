//! Changes on their way to a commit, computed before anything is written.
//!
//! Keeps true: what a transaction reads is what is committed, with the batch that is committed next, if there is one, and
//! its own changes above it; nobody else changes any of that meanwhile, since whoever has a transaction holds the queue of
//! commits. It ends as final rows ([`Run`](super::run::Run)), so that the log and the database need not decide anything.

use std::ops::Bound;

use crate::error::Result;

use super::kv::{Row, Table};
use super::memtable::Memtable;
use super::run::Changes;
use super::view::{Stack, View};

/// Changes above a view.
pub struct Txn<'a> {
    view: &'a View,
    batch: Option<&'a Memtable>,
    own: Memtable,
}

impl<'a> Txn<'a> {
    /// No changes yet, above `view` and the batch that is to be committed.
    pub fn new(view: &'a View, batch: Option<&'a Memtable>) -> Self {
        Self { view, batch, own: Memtable::default() }
    }

    fn stack(&self) -> Stack<'_> {
        let batch = self.batch.map(|batch| batch as &dyn Changes);
        self.view.stack(std::iter::once(&self.own as &dyn Changes).chain(batch))
    }

    /// Its changes so far; what is put there is one of them.
    pub fn own(&self) -> &Memtable {
        &self.own
    }

    /// Its changes.
    pub fn into_own(self) -> Memtable {
        self.own
    }

    /// The value under `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.stack().get(table, key)
    }

    /// The first row with a key in `from..=to`.
    pub fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        self.stack().first(table, from, to)
    }

    /// Calls `each` for the rows of `from..to` in key order until it returns false.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.stack().scan(table, from, to, each)
    }

    /// The last row with a key in `from..=to`; for tables whose keys have one length.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        self.stack().last(table, from, to)
    }

    /// The rows of `from..to`, at most `limit`.
    pub fn rows(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.scan(table, Bound::Included(from), Bound::Excluded(to), |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(rows.len() < limit)
        })?;
        Ok(rows)
    }

    /// Changes rows of one table: `None` removes.
    pub fn apply<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: Table,
        changes: impl IntoIterator<Item = (K, Option<V>)>,
    ) {
        for (key, value) in changes {
            match value {
                Some(value) => self.own.put(table, key.as_ref(), value.as_ref()),
                None => self.own.delete(table, key.as_ref()),
            }
        }
    }

    /// Writes one row.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.own.put(table, key, value);
    }

    /// Removes the rows of `from..to`, at most `limit`; returns those removed.
    pub fn remove_range(&mut self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        let rows = self.rows(table, from, to, limit)?;
        for (key, _) in &rows {
            self.own.delete(table, key);
        }
        Ok(rows)
    }

    /// Changes those rows that are there: `change` makes the new value of what is named with the key and the old value;
    /// `None` removes the row.
    pub fn change<K: AsRef<[u8]>, C: Copy>(
        &mut self,
        table: Table,
        rows: impl IntoIterator<Item = (K, C)>,
        change: impl Fn(C, &[u8]) -> Result<Option<Vec<u8>>>,
    ) -> Result<()> {
        for (key, what) in rows {
            let key = key.as_ref();
            let Some(old) = self.get(table, key)? else { continue };
            match change(what, &old)? {
                Some(new) if new == old => {}
                Some(new) => self.own.put(table, key, &new),
                None => self.own.delete(table, key),
            }
        }
        Ok(())
    }
}
