//! The database that a repair builds.

use crate::error::Result;
use crate::meta::{Kv, Table, WriteTxn};

/// Changes that one transaction takes.
const STEP: usize = 20_000;

/// Rows on their way into a new database, in transactions of bounded size. None of them is durable before
/// [`Sink::finish`].
pub(super) struct Sink<'a> {
    kv: &'a Kv,
    txn: Option<WriteTxn<'a>>,
    changes: usize,
}

impl<'a> Sink<'a> {
    pub fn new(kv: &'a Kv) -> Self {
        Self { kv, txn: None, changes: 0 }
    }

    /// The open transaction, with everything that was put.
    pub fn txn(&mut self) -> Result<&mut WriteTxn<'a>> {
        if self.changes >= STEP {
            self.commit(false)?;
        }
        self.changes += 1;
        let txn = match self.txn.take() {
            Some(txn) => txn,
            None => self.kv.write()?,
        };
        Ok(self.txn.insert(txn))
    }

    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.txn()?.put(table, key, value)
    }

    pub fn remove(&mut self, table: Table, key: &[u8]) -> Result<()> {
        self.txn()?.apply(table, [(key, None::<&[u8]>)])
    }

    fn commit(&mut self, durable: bool) -> Result<()> {
        self.changes = 0;
        self.txn.take().map_or(Ok(()), |txn| txn.commit(durable))
    }

    /// Makes what was put visible to readers of the database.
    pub fn flush(&mut self) -> Result<()> {
        self.commit(false)
    }

    /// Makes all of it durable.
    pub fn finish(mut self) -> Result<()> {
        self.txn()?;
        self.commit(true)
    }
}
