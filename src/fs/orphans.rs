//! Inodes without a name: who still needs them, and the two ways in which they are removed.
//!
//! Keeps true: the extents of an inode are removed only when it has no name and the kernel has forgotten it, and no row
//! of it is written after that. A small inode is removed at once: the open batch removes its rows, and no later batch
//! has rows of it. An inode with many rows goes through the queue, step by step, once every batch that could have rows
//! of it is in the database. Its own row is removed last, in the same transaction as its row in the queue. A crash
//! leaves the queue as it was; the kernel then remembers no inode, so the whole queue is processed.
//!
//! The queue alone would be enough. But then each deleted file would be written to the database once more, only to be
//! removed from it, and a cycle soon after a prune would have to process the whole prune.

pub(super) mod known;

use std::ops::Bound;

use crate::error::Result;
use crate::meta::rows::{id_key, ino_of};
use crate::meta::versions::Subvolumes;
use crate::meta::versions::subvolumes::subvolume_of;
use crate::meta::{Counter, Table, Txn};
use crate::sabotage::{Protection, out};
use crate::store::Member;
use crate::sync::Arc;

use super::Fs;
use super::inode::InodeState;
use super::rows::{RowOf, Rows};

/// Rows that one transaction removes; this bounds how long a commit waits for it.
const ROWS_AT_A_TIME: usize = 4096;

fn waits_for_forget() -> bool {
    !out(Protection::WaitForForget)
}

fn waits_for_batches() -> bool {
    !out(Protection::WaitForBatches)
}

impl Fs {
    /// True while the kernel remembers an inode, which must not go then.
    pub(super) fn is_remembered(&self, ino: u64) -> bool {
        self.inodes.is_remembered(ino) && waits_for_forget()
    }

    /// The kernel has forgotten `count` of the times it was told of an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        if !self.inodes.forget(ino, count) || !self.orphans.is_orphan(ino) {
            return;
        }
        if let Ok(inode) = self.inode(ino) {
            self.mark_dead(&mut inode.lock());
        }
        // After the inode was marked as dead: everything that was written for it is in this batch or in an earlier one.
        let gone = self.join().and_then(|member| self.remove_immediately(&member, ino));
        // Only now, or a lookup by handle would revive it.
        self.inodes.remove(ino);
        // The queue meets what cannot be removed, and says so.
        if !gone.unwrap_or(false) {
            let batch = self.store.batches.open_number();
            self.orphans.inodes.lock().insert(ino, Some(batch));
        }
    }

    /// Removes a dead inode and its row in the queue in the batch of `member`, if it has few rows; true if it did.
    pub(super) fn remove_immediately(&self, member: &Member, ino: u64) -> Result<bool> {
        let (layers, subvolumes) = (self.layers(), member.subvolumes());
        let (rows, most) = (Rows::of(&*layers, &subvolumes), self.options.immediate_removal_limit);
        let of_it = rows.rows_with(ino, most)?;
        if of_it.keys.len() > most {
            return Ok(false);
        }
        rows.remove(RowOf::Inode(ino), &member.rows)?;
        for (table, key) in &of_it.keys {
            member.rows.delete(*table, key);
        }
        member.rows.delete(Table::Orphans, &id_key(ino));
        member.rows.count(Counter::Orphans, -1);
        member.rows.count(Counter::ReferencedBytes, -(of_it.bytes as i64));
        member.rows.count(Counter::Deleted, of_it.bytes as i64);
        member.rows.count(Counter::Inodes, -inodes_of(ino));
        self.orphans.inodes.lock().remove(&ino);
        Ok(true)
    }

    /// Marks an inode as dead: nobody can reach it, and nothing more is written for it.
    pub(super) fn mark_dead(&self, state: &mut InodeState) {
        state.dead = true;
        self.dirty.sub(state.staging.bytes());
        state.staging.take();
    }

    /// Removes some of the inodes without a name that nobody needs. Returns how many are gone, and whether there may be
    /// more.
    pub(super) fn reap(&self) -> Result<(u64, bool)> {
        let _reaping = self.orphans.reaping.lock();
        let (ready, more) = self.ready_orphans()?;
        if ready.is_empty() {
            return Ok((0, false));
        }
        let mut gone = Vec::new();
        self.store.commits.rewrite(false, |txn, sums| {
            let mut budget = ROWS_AT_A_TIME;
            let subvolumes = match ready.iter().any(|ino| subvolume_of(*ino) > 0) {
                true => Subvolumes::read(txn)?,
                false => Subvolumes::default(),
            };
            let (mut bytes, mut inodes) = (0, 0);
            for &ino in &ready {
                let (whole, freed) = remove_rows(txn, &subvolumes, ino, &mut budget)?;
                bytes += freed;
                if whole {
                    inodes += inodes_of(ino);
                    gone.push(ino);
                }
                if budget == 0 {
                    break;
                }
            }
            sums[Counter::ReferencedBytes as usize] -= bytes as i64;
            sums[Counter::Deleted as usize] += bytes as i64;
            sums[Counter::Inodes as usize] -= inodes;
            sums[Counter::Orphans as usize] -= gone.len() as i64;
            Ok(())
        })?;
        let mut known = self.orphans.inodes.lock();
        for ino in &gone {
            known.remove(ino);
        }
        Ok((gone.len() as u64, more || gone.len() < ready.len()))
    }

    /// Orphans in the database that may go, and whether there may be more.
    fn ready_orphans(&self) -> Result<(Vec<u64>, bool)> {
        // The view first: every orphan in it lost its name earlier, so what is known about it here is at least as new.
        let view = self.layers().view.clone();
        let known = self.orphans.inodes.lock().clone();
        // Last: an empty open batch counts as durable, and a flush may be about to fill it. Everything that was written
        // for an inode that is known to be forgotten is in its batch by now.
        let committed = self.store.batches.last_durable_number();
        // After reading what is known: an inode that is no longer known because it was removed at once is not in these
        // layers.
        let later = self.layers();
        let (mut ready, mut more) = (Vec::new(), false);
        view.scan(Table::Orphans, Bound::Unbounded, Bound::Unbounded, |key, _| {
            let ino = ino_of(key)?;
            match known.get(&ino) {
                Some(None) if waits_for_forget() => {}
                Some(Some(batch)) if *batch > committed && waits_for_batches() => {}
                _ if later.get(Table::Orphans, key)?.is_none() => {}
                _ => ready.push(ino),
            }
            more = ready.len() >= ROWS_AT_A_TIME / 4;
            Ok(!more)
        })?;
        Ok((ready, more))
    }

    /// Commits, and processes everything that is in the queue by then and that the kernel has forgotten. Later
    /// deletions are left for the next time, or steady deletes would make this endless.
    pub fn drain_orphans(self: &Arc<Self>) -> Result<()> {
        self.store.commits.commit()?;
        let (mut left, mut more) = (self.store.commits.counter(Counter::Orphans), true);
        while more && left > 0 {
            let gone;
            (gone, more) = self.reap()?;
            left = left.saturating_sub(gone);
        }
        self.drain_subvolumes()
    }
}

/// How many rows of the table of inodes it has.
fn inodes_of(ino: u64) -> i64 {
    i64::from(subvolume_of(ino) == 0)
}

/// Removes up to `budget` rows of an inode; true once its last is gone, and the bytes it referred to.
fn remove_rows(txn: &Txn<'_>, subvolumes: &Subvolumes, ino: u64, budget: &mut usize) -> Result<(bool, u64)> {
    let number = subvolume_of(ino);
    let mut bytes = 0;
    // What a subvolume that is gone had is reaped with all of it.
    if number == 0 || subvolumes.get(number).is_some() {
        let rows = Rows::of(txn, subvolumes);
        let of_it = rows.rows_with(ino, (*budget).max(1))?;
        let whole = of_it.keys.len() <= *budget;
        if whole {
            rows.remove(RowOf::Inode(ino), txn.own())?;
        }
        for (table, key) in &of_it.keys {
            txn.own().delete(*table, key);
        }
        bytes = of_it.bytes;
        *budget = budget.saturating_sub(of_it.keys.len() + 2);
        if !whole {
            return Ok((false, bytes));
        }
    }
    txn.own().delete(Table::Orphans, &id_key(ino));
    Ok((true, bytes))
}

#[cfg(all(test, feature = "sim"))]
mod tests;
