//! Reaping dropped subvolumes in the background, in steps that hold up no commit for long.

use crate::error::Result;
use crate::meta::Counter;
use crate::meta::rows::{COPIES, id_key, subvolume_key};
use crate::meta::versions::reap::{Audit, Budget, Reach, Reap, Removed, Step};
use crate::meta::versions::subvolumes::{read_rows, subvolume_of};
use crate::meta::versions::{Version, read_tree};
use crate::meta::{Sums, Table, Txn};
use crate::sabotage::{Protection, out};

use super::super::Fs;

/// Rows that one transaction removes; this bounds how long a commit waits for it.
const ROWS_AT_A_TIME: usize = 4096;

impl Fs {
    /// Removes some of what dropped subvolumes alone have; true if there may be more to do at once. The background does
    /// that by itself.
    pub fn reap_subvolumes(&self) -> Result<bool> {
        if self.reap_ready()? {
            return Ok(true);
        }
        let mut wanted = self.dropped.audit.lock();
        let Some(audit) = wanted.as_mut() else { return Ok(false) };
        let done = self.in_step(&[], |step, _| audit.step(step))?;
        if done {
            *wanted = None;
        }
        Ok(!done)
    }

    fn reap_ready(&self) -> Result<bool> {
        let ready = self.ready_subvolumes();
        if ready.is_empty() {
            return Ok(false);
        }
        self.reap_some(ready).map(|()| true)
    }

    /// Reaps every subvolume that was dropped and that nobody uses; for a cycle, which is to find what they leave.
    pub(in crate::fs) fn drain_subvolumes(&self) -> Result<()> {
        // Notes those that nobody uses from here on.
        self.ready_subvolumes();
        self.store.commits.commit()?;
        while self.reap_ready()? {}
        Ok(())
    }

    /// Dropped subvolumes that nobody uses any more, and have not since a batch that is durable by now.
    fn ready_subvolumes(&self) -> Vec<u64> {
        let dropped = self.dropped.all();
        if dropped.is_empty() {
            return Vec::new();
        }
        let used: Vec<u64> = self.inodes.remembered().into_iter().map(subvolume_of).collect();
        let durable = self.store.batches.last_durable_number();
        let mut ready = Vec::new();
        for (number, since) in dropped {
            if used.contains(&number) && waits_for_forget() {
                // A lookup that began before the drop may have brought one back since.
                self.dropped.used(number);
                continue;
            }
            match since {
                None => {
                    // What is staged for them goes with them.
                    for inode in self.inodes.take_all_of(number) {
                        self.mark_dead(&mut inode.lock());
                    }
                    self.dropped.forgotten(number, self.store.batches.open_number());
                }
                Some(batch) if batch <= durable => ready.push(number),
                Some(_) => {}
            }
        }
        ready.sort_unstable();
        ready
    }

    /// Goes on with those that it has begun with, as long as these are ready; the others come next, together.
    fn reap_some(&self, ready: Vec<u64>) -> Result<()> {
        let mut reaping = self.dropped.reap.lock();
        let going_on = reaping.take().filter(|(of, _)| of.iter().all(|number| ready.contains(number)));
        let (numbers, mut going_on) = match going_on {
            Some((numbers, reap)) => (numbers, Some(reap)),
            None => (ready, None),
        };
        let done = self.in_step(&numbers, |step, rows| {
            let mut reap = match going_on.take() {
                Some(reap) => reap,
                None => {
                    let leaves = numbers.iter().filter_map(|number| rows(*number));
                    Reap::of(step.tree, step.reach, leaves)?
                }
            };
            let done = reap.step(step)?;
            if done {
                numbers.iter().for_each(|number| forget(step.txn, *number));
                step.contract(reap.emptied())?;
            }
            going_on = Some(reap);
            Ok(done)
        })?;
        if !done {
            *reaping = going_on.map(|reap| (numbers, reap));
            return Ok(());
        }
        *self.dropped.audit.lock() = Some(Audit::default());
        // Nobody makes versions meanwhile: the rows have all that there are.
        let _changing = self.hold_subvolumes();
        let layers = self.layers();
        self.at_swap(layers.subvolumes.without(&numbers, read_tree(&*layers)?), |_| {})?;
        // After that: whoever looks something up in it finds it dropped or not at all.
        numbers.iter().for_each(|number| self.dropped.remove(*number));
        Ok(())
    }

    /// One transaction: what it does is decided from what is committed alone. The leaves of subvolumes that are not
    /// `ready` count, dropped or not.
    fn in_step(
        &self,
        ready: &[u64],
        act: impl FnOnce(&mut Step<'_, '_>, &dyn Fn(u64) -> Option<Version>) -> Result<bool>,
    ) -> Result<bool> {
        self.store.commits.rewrite(false, |txn, sums| {
            let (tree, rows) = (read_tree(txn)?, read_rows(txn)?);
            let live = rows.iter().filter(|(number, row)| !(row.dropped && ready.contains(number)));
            let reach = Reach::of(&tree, live.map(|(_, row)| row.leaf))?;
            let budget = Budget(ROWS_AT_A_TIME);
            let mut step = Step { txn, tree: &tree, reach: &reach, budget, removed: Removed::default() };
            let done = act(&mut step, &|number| rows.get(&number).map(|row| row.leaf))?;
            count(sums, step.removed);
            Ok(done)
        })
    }
}

fn count(sums: &mut Sums, removed: Removed) {
    sums[Counter::ReferencedBytes as usize] -= removed.bytes as i64;
    sums[Counter::Deleted as usize] += removed.bytes as i64;
}

/// Removes the rows of a subvolume.
fn forget(txn: &Txn<'_>, number: u64) {
    (0..COPIES).for_each(|copy| txn.own().delete(Table::Subvolumes, &subvolume_key(copy, number)));
    txn.own().delete(Table::Usage, &id_key(number));
}

/// Taken out: what is dropped is reaped while the kernel remembers inodes of it.
fn waits_for_forget() -> bool {
    !out(Protection::WaitForForget)
}
