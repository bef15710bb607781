//! The store in numbers, for people and programs.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::meta::Counter;
use crate::sync::Ordering;

use super::Store;

/// What `cairnfs status` tells of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The store's name for itself.
    pub uuid: String,
    /// Its directory.
    pub path: String,
    /// The present generation.
    pub generation: u64,
    /// Inodes.
    pub inodes: u64,
    /// Deleted files whose references are still to be removed.
    pub deletion_queue: u64,
    /// Bytes that files refer to.
    pub referenced_bytes: u64,
    /// Bytes that files stopped referring to since the last whole cycle began.
    #[serde(default)]
    pub deleted_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Plain bytes of all chunks.
    pub plain_bytes: u64,
    /// Bytes of all region records.
    pub stored_bytes: u64,
    /// Free bytes of the host file system.
    pub host_free: u64,
    /// All bytes of the host file system.
    pub host_total: u64,
    /// True while a cycle runs.
    pub cycle_running: bool,
    /// Chunks that did not read back and were not stored anew since.
    pub bad_chunks: u64,
    /// Why the store takes no more changes, if it does not.
    pub read_only_because: Option<String>,
}

impl Store {
    /// The store in numbers.
    pub fn status(&self) -> Result<StoreStatus> {
        let space = self.host_space()?;
        let closed = self.closed.load(Ordering::Acquire);
        Ok(StoreStatus {
            uuid: self.config.uuid.to_string(),
            path: self.path.display().to_string(),
            generation: self.generation(),
            inodes: self.counter(Counter::Inodes),
            deletion_queue: self.counter(Counter::Orphans),
            referenced_bytes: self.counter(Counter::ReferencedBytes),
            deleted_bytes: self.counter(Counter::Deleted),
            chunks: self.counter(Counter::Chunks),
            plain_bytes: self.counter(Counter::PlainBytes),
            stored_bytes: self.counter(Counter::StoredBytes),
            host_free: space.available,
            host_total: space.total,
            cycle_running: self.barrier.is_armed(),
            bad_chunks: self.bad.count(),
            read_only_because: self.latch.get().filter(|_| !closed).cloned(),
        })
    }
}
