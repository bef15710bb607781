//! Changes that are in no batch: of the sweep, of the deletion queue, of regions that move.
//!
//! Keeps true: whoever changes rows here reads them while he holds the queue of commits, since what batches hold above
//! them may be about to be committed; and the sums follow in the same step.

use crate::error::Result;
use crate::meta::rows::{STATE_KEY, State};
use crate::meta::{Sums, Table, Txn};

use super::Commits;
use super::queue::Changed;

impl Commits {
    /// Changes rows in one step, with the store's sums. Everybody sees it at once; with `durable` it is durable when this
    /// returns, otherwise with the next commit.
    pub fn rewrite<R>(
        &self,
        durable: bool,
        change: impl FnOnce(&mut Txn<'_>, &mut Sums) -> Result<R>,
    ) -> Result<R> {
        let (mut head, view) = self.queue.lock();
        self.batches.writable()?;
        let mut txn = Txn::new(&view, None);
        let mut sums = head.sums;
        let result = change(&mut txn, &mut sums)?;
        // Only the sums: the other numbers belong to the commits of batches.
        let state = match txn.get(Table::State, STATE_KEY)? {
            Some(row) => State { counters: sums, ..State::decode(&row)? },
            None => self.state(sums),
        };
        txn.put(Table::State, STATE_KEY, &state.encode());
        let own = txn.into_own();
        let changed = Changed { batch: None, own: &own, sums };
        self.final_unless_done("a change of rows", || match durable {
            true => self.queue.enter(&mut head, &view, &changed),
            false => self.queue.enter_undurable(&mut head, &view, &changed),
        })?;
        Ok(result)
    }
}
