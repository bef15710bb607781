//! What is known of subvolumes that were dropped, while the store is open.

use std::collections::HashMap;

use crate::meta::versions::reap::{Audit, Reap};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// What was removed and not yet reaped.
#[derive(Debug, Default)]
pub struct Dropped {
    /// The dropped subvolumes; the batch that was open when nobody remembered an inode of them any more.
    numbers: Mutex<HashMap<u64, Option<u64>>>,
    /// The names that they had, as far as this opening has seen them go.
    names: Mutex<HashMap<u64, Vec<u8>>>,
    /// False as long as nothing was dropped, so that asking costs one load.
    any: AtomicBool,
    /// Held over the swap of a clone, and from before the join of whoever drops or moves a subvolume until it leaves.
    /// Lock order: after the locks of inodes, before membership.
    changing: Mutex<()>,
    /// The reap that goes on, and of which subvolumes.
    pub reap: Mutex<Option<(Vec<u64>, Reap)>>,
    /// The audit that goes on, if one is wanted.
    pub audit: Mutex<Option<Audit>>,
}

impl Dropped {
    /// A subvolume was dropped.
    pub fn insert(&self, number: u64) {
        self.numbers.lock().insert(number, None);
        self.any.store(true, Ordering::Release);
    }

    /// The name that a dropped subvolume had.
    pub fn note_name(&self, number: u64, name: Vec<u8>) {
        self.names.lock().insert(number, name);
    }

    /// The name that it had, if that is known.
    pub fn name(&self, number: u64) -> Option<Vec<u8>> {
        self.names.lock().get(&number).cloned()
    }

    /// Was any since the opening?
    pub fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Was it?
    pub fn has(&self, number: u64) -> bool {
        number > 0 && self.any.load(Ordering::Acquire) && self.numbers.lock().contains_key(&number)
    }

    /// All of them, and since which batch nobody remembers them.
    pub fn all(&self) -> Vec<(u64, Option<u64>)> {
        self.numbers.lock().iter().map(|(number, since)| (*number, *since)).collect()
    }

    /// Notes the batch that is open while nobody remembers an inode of it, if none was noted before.
    pub fn forgotten(&self, number: u64, batch: u64) {
        if let Some(since) = self.numbers.lock().get_mut(&number) {
            since.get_or_insert(batch);
        }
    }

    /// Somebody remembers an inode of it, perhaps again: the batch that counts is one after the next FORGET.
    pub fn used(&self, number: u64) {
        if let Some(since) = self.numbers.lock().get_mut(&number) {
            *since = None;
        }
    }

    /// It is reaped.
    pub fn remove(&self, number: u64) {
        self.numbers.lock().remove(&number);
        self.names.lock().remove(&number);
    }

    /// Excludes clones, drops and moves of subvolumes.
    pub fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }
}
