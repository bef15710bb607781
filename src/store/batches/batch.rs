//! Batches and their members: which operations may still add to the batch that is about to be committed.
//!
//! Keeps true: an operation is a member of one batch from before its first lookup until its last row. A batch is
//! committed only after its last member has left. New members wait only for the moment in which one batch replaces the
//! other, never for the commit itself. If a member panicked, its batch may have half an operation and is never
//! committed. The lock order is: locks of inodes, then membership. A member therefore never waits for an inode, and a
//! batch drains in bounded time.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::meta::Memtable;
use crate::meta::versions::Subvolumes;
use crate::sync::thread::panicking;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, RwLock};

use super::heals::HealQueue;
use super::regions::RegionBuilder;
use super::usage::UsageChanges;

/// One batch.
#[derive(Debug)]
pub struct Batch {
    /// Counts up from 1 within one opening of the store.
    pub number: u64,
    /// Its rows.
    pub rows: Arc<Memtable>,
    /// Its chunks that are not in a pack yet.
    pub regions: RegionBuilder,
    /// Bytes for chunks that are known to be bad.
    pub heals: HealQueue,
    /// What its members change of what subvolumes hold.
    pub usage: UsageChanges,
    /// The subvolumes as all its members see them; set before there are any.
    subvolumes: RwLock<Arc<Subvolumes>>,
    /// Operations inside. Protects nothing else.
    members: Mutex<usize>,
    empty: Condvar,
    /// A member panicked.
    broken: AtomicBool,
}

impl Batch {
    /// An empty batch.
    pub fn new(number: u64, subvolumes: Arc<Subvolumes>) -> Arc<Self> {
        Arc::new(Self {
            number,
            rows: Arc::new(Memtable::default()),
            regions: RegionBuilder::default(),
            heals: HealQueue::default(),
            usage: UsageChanges::default(),
            subvolumes: RwLock::new(subvolumes),
            members: Mutex::new(0),
            empty: Condvar::new(),
            broken: AtomicBool::new(false),
        })
    }

    /// The subvolumes as all its members see them.
    pub fn subvolumes(&self) -> Arc<Subvolumes> {
        self.subvolumes.read().clone()
    }

    /// Changes the subvolumes; for the moment of a swap, before anybody can join.
    pub fn begin_with(&self, subvolumes: Subvolumes) {
        *self.subvolumes.write() = Arc::new(subvolumes);
    }

    /// Waits until the last member has left, and fails if one of them panicked. Nobody can join any more by then.
    pub fn wait_until_empty(&self) -> Result<()> {
        let mut members = self.members.lock();
        while *members > 0 {
            self.empty.wait(&mut members);
        }
        if self.broken.load(Ordering::Relaxed) {
            Err(Error::panicked("a change of the store"))
        } else {
            Ok(())
        }
    }
}

/// Membership in a batch; ends when dropped.
#[derive(Debug)]
pub struct Member {
    batch: Arc<Batch>,
}

impl Member {
    /// The batch, for work that outlives the membership but not the commit of the batch.
    pub fn batch(&self) -> Arc<Batch> {
        self.batch.clone()
    }
}

impl std::ops::Deref for Member {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.batch.members.lock();
        if panicking() {
            self.batch.broken.store(true, Ordering::Relaxed);
        }
        *members -= 1;
        if *members == 0 {
            self.batch.empty.notify_all();
        }
    }
}

/// The way into the open batch.
#[derive(Debug)]
pub struct Gate {
    /// The open batch. Joining takes the read lock, swapping the write lock.
    open: RwLock<Arc<Batch>>,
}

impl Gate {
    /// Opens with `first`.
    pub fn new(first: Arc<Batch>) -> Self {
        Self { open: RwLock::new(first) }
    }

    /// Joins the open batch.
    pub fn join(&self) -> Member {
        // Counted inside the read lock: a swap that comes later waits for this member.
        let open = self.open.read();
        *open.members.lock() += 1;
        Member { batch: open.clone() }
    }

    /// The open batch, without joining.
    pub fn open(&self) -> Arc<Batch> {
        self.open.read().clone()
    }

    /// Replaces the open batch by a new one. Calls `at_swap` with both in the moment in which nobody can join. Returns
    /// the old batch and how long joining was blocked.
    pub fn swap(&self, at_swap: impl FnOnce(&Arc<Batch>, &Arc<Batch>)) -> (Arc<Batch>, Duration) {
        let since = Instant::now();
        let mut open = self.open.write();
        let next = Batch::new(open.number + 1, open.subvolumes());
        at_swap(&open, &next);
        let old = std::mem::replace(&mut *open, next);
        drop(open);
        (old, since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_waits_for_no_member_but_the_old_batch_does() {
        let gate = Gate::new(Batch::new(1, Arc::default()));
        let early = gate.join();
        let (old, _) = gate.swap(|_, next| assert_eq!(next.number, 2));
        let late = gate.join();
        assert_eq!((early.number, late.number, old.number), (1, 2, 1));

        let (done, wait) = crossbeam_channel::bounded(1);
        let waiter = std::thread::spawn(move || {
            old.wait_until_empty().unwrap();
            done.send(()).unwrap();
        });
        assert!(wait.try_recv().is_err(), "the early member is still inside");
        drop(late);
        assert!(wait.try_recv().is_err(), "a member of the new batch is not waited for");
        drop(early);
        wait.recv().unwrap();
        waiter.join().unwrap();
    }
}
