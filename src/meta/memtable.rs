//! The changes of one batch, in memory until the batch is committed.
//!
//! Keeps true: a change stays until the batch is dropped, and the latest change of a key counts. A removed row is kept
//! as removed, since an older layer may still have it.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::sync::{AtomicI64, AtomicU64, Mutex, Ordering};

use super::kv::{Table, range_is_empty};

/// The counters of the store; batches have differences, the database has the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Inodes, those without a name included.
    Inodes,
    /// Chunks.
    Chunks,
    /// Plain bytes of all chunks.
    PlainBytes,
    /// Bytes of all region records in packs.
    StoredBytes,
    /// Bytes that files refer to.
    ReferencedBytes,
    /// Inodes without a name that wait for the deletion queue.
    Orphans,
    /// Bytes that files stopped referring to since the last whole cycle began. It is not a sum of rows, but a reason
    /// for a cycle.
    Deleted,
}

impl Counter {
    /// All counters in the order of their numbers.
    pub const ALL: [Counter; 7] = [
        Counter::Inodes,
        Counter::Chunks,
        Counter::PlainBytes,
        Counter::StoredBytes,
        Counter::ReferencedBytes,
        Counter::Orphans,
        Counter::Deleted,
    ];
}

type Changes = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;

/// Overhead of one change beyond its key and value: the map's node and two allocations.
const CHANGE_OVERHEAD: u64 = 96;

/// The changes of one batch.
#[derive(Debug, Default)]
pub struct Memtable {
    tables: [Mutex<Changes>; Table::ALL.len()],
    counters: [AtomicI64; Counter::ALL.len()],
    bytes: AtomicU64,
}

/// What a layer knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerLookup {
    /// Nothing: ask the layer below.
    Absent,
    /// Removed here.
    Removed,
    /// This value.
    Value(Vec<u8>),
}

impl Memtable {
    /// Sets a row.
    pub fn put(&self, table: Table, key: &[u8], value: &[u8]) {
        self.change(table, key, Some(value.into()));
    }

    /// Removes a row.
    pub fn delete(&self, table: Table, key: &[u8]) {
        self.change(table, key, None);
    }

    fn change(&self, table: Table, key: &[u8], value: Option<Box<[u8]>>) {
        let added = key.len() as u64 + value.as_ref().map_or(0, |v| v.len() as u64) + CHANGE_OVERHEAD;
        let old = self.tables[table as usize].lock().insert(key.into(), value);
        match old {
            None => {
                self.bytes.fetch_add(added, Ordering::Relaxed);
            }
            Some(old) => {
                let gone = key.len() as u64 + old.map_or(0, |v| v.len() as u64) + CHANGE_OVERHEAD;
                self.bytes.fetch_add(added.wrapping_sub(gone), Ordering::Relaxed);
            }
        }
    }

    /// Adds to a counter of the store.
    pub fn count(&self, counter: Counter, difference: i64) {
        self.counters[counter as usize].fetch_add(difference, Ordering::Relaxed);
    }

    /// The difference this batch makes to a counter.
    pub fn counted(&self, counter: Counter) -> i64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// About how much memory the changes take, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// True if the batch would change nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0 && Counter::ALL.iter().all(|counter| self.counted(*counter) == 0)
    }

    /// What is known of a key.
    pub fn get(&self, table: Table, key: &[u8]) -> LayerLookup {
        match self.tables[table as usize].lock().get(key) {
            None => LayerLookup::Absent,
            Some(None) => LayerLookup::Removed,
            Some(Some(value)) => LayerLookup::Value(value.to_vec()),
        }
    }

    /// The last change with a key in `from..=to`.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        if from > to {
            return None;
        }
        let changes = self.tables[table as usize].lock();
        let (key, value) =
            changes.range::<[u8], _>((Bound::Included(from), Bound::Included(to))).next_back()?;
        Some((key.to_vec(), value.as_ref().map(|v| v.to_vec())))
    }

    /// Up to `limit` changes from `from`, below `to`, in key order.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        if range_is_empty(from, to) {
            return Vec::new();
        }
        let changes = self.tables[table as usize].lock();
        changes
            .range::<[u8], _>((from, to))
            .take(limit)
            .map(|(key, value)| (key.to_vec(), value.as_ref().map(|v| v.to_vec())))
            .collect()
    }

    /// Hands all changes of a table, in key order, to `use_them`. For the commit, after the last member has left.
    pub fn with_changes<R>(&self, table: Table, use_them: impl FnOnce(&Changes) -> R) -> R {
        use_them(&self.tables[table as usize].lock())
    }
}
