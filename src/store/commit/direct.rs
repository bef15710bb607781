//! Changes that bypass the batches and go directly into the database.
//!
//! Keeps true: rows are read and changed in the same transaction, since a batch with newer rows may be committed
//! meanwhile. The sums change in the same transaction.

use crate::error::Result;
use crate::meta::rows::{STATE_KEY, State};
use crate::meta::{Table, WriteTxn};

use super::{Commits, Sums};

impl Commits {
    /// Changes rows directly in the database, in one transaction, with the store's sums.
    pub fn rewrite<R>(
        &self,
        durable: bool,
        change: impl FnOnce(&mut WriteTxn<'_>, &mut Sums) -> Result<R>,
    ) -> Result<R> {
        self.batches.writable()?;
        let mut txn = self.meta.kv().write()?;
        let mut counters = self.counters.lock();
        let mut sums = *counters;
        let result = change(&mut txn, &mut sums)?;
        // Only the sums: the other numbers belong to the commits of batches.
        let row = txn.get(Table::State, STATE_KEY)?;
        let state = match row {
            Some(row) => State { counters: sums, ..State::decode(&row)? },
            None => self.state(sums),
        };
        let written = txn
            .put(Table::State, STATE_KEY, &state.encode())
            .and_then(|()| txn.commit(durable))
            .and_then(|()| {
                *counters = sums;
                self.meta.publish(false)
            });
        written.inspect_err(|error| self.batches.latch().set(error))?;
        Ok(result)
    }
}
