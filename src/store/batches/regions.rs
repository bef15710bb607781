//! Gathers the new chunks of one batch into regions.
//!
//! Keeps true: a chunk of the batch can be read at every moment: first in the open region, then in a closed one, then
//! by its row. Each step adds the new place before it removes the old one. The ids in one region are consecutive.

use std::collections::BTreeMap;

use crate::chunk::{ChunkId, Digest};
use crate::error::Error;
use crate::pack::RegionChunk;
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering};

/// A region whose chunks are known and whose record is not in a pack yet.
#[derive(Debug, Default)]
pub struct PendingRegion {
    /// The chunks, in order.
    pub chunks: Vec<RegionChunk>,
    /// Their bytes, one after the other.
    pub plain: Vec<u8>,
}

impl PendingRegion {
    /// The first id; regions are never empty once they are closed.
    pub fn first(&self) -> Option<ChunkId> {
        self.chunks.first().map(|chunk| chunk.id)
    }

    fn find(&self, id: ChunkId) -> Option<&[u8]> {
        let first = self.first()?;
        let index = usize::try_from(id.0.checked_sub(first.0)?).ok()?;
        if index >= self.chunks.len() {
            return None;
        }
        let start: usize = self.chunks[..index].iter().map(|chunk| chunk.len as usize).sum();
        self.plain.get(start..start + self.chunks[index].len as usize)
    }
}

#[derive(Debug, Default)]
struct Inner {
    open: PendingRegion,
    /// Closed regions by first id, until they have their rows.
    closed: BTreeMap<u64, Arc<PendingRegion>>,
    /// Closed regions whose last attempt to write failed.
    failed: Vec<(Arc<PendingRegion>, Error)>,
}

/// The regions of one batch.
#[derive(Debug, Default)]
pub struct RegionBuilder {
    /// All of it. Locked for the copy of one chunk at most.
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// The result of adding a chunk.
pub struct Added {
    /// Its id.
    pub id: ChunkId,
    /// Regions that are full now and have to be written.
    pub full: Vec<Arc<PendingRegion>>,
}

impl RegionBuilder {
    /// Adds a chunk under the next id, unless `known` (called under the lock) finds that it exists by now.
    pub fn add(
        &self,
        next_chunk: &AtomicU64,
        region_size: usize,
        (digest, bytes): (Digest, &[u8]),
        known: impl FnOnce() -> Option<ChunkId>,
        born: impl FnOnce(ChunkId),
    ) -> Result<Added, ChunkId> {
        let mut inner = self.inner.lock();
        if let Some(id) = known() {
            return Err(id);
        }
        // Relaxed: ids only need to be distinct; others learn of an id through a lock.
        let id = ChunkId(next_chunk.fetch_add(1, Ordering::Relaxed));
        let mut full = Vec::new();
        let follows = inner.open.chunks.last().is_none_or(|last| last.id.offset(1) == id);
        let overflows = !inner.open.plain.is_empty() && inner.open.plain.len() + bytes.len() > region_size;
        if !follows || overflows {
            full.extend(inner.close());
        }
        if inner.open.plain.capacity() == 0 {
            inner.open.plain.reserve(region_size);
        }
        inner.open.plain.extend_from_slice(bytes);
        inner.open.chunks.push(RegionChunk { id, digest, len: bytes.len() as u32 });
        if inner.open.plain.len() >= region_size {
            full.extend(inner.close());
        }
        born(id);
        Ok(Added { id, full })
    }

    /// Closes the open region, if there is anything in it.
    pub fn close(&self) -> Option<Arc<PendingRegion>> {
        self.inner.lock().close()
    }

    /// The bytes of a chunk that has no row yet, handed to `use_them`.
    pub fn with_chunk<R>(&self, id: ChunkId, use_them: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let inner = self.inner.lock();
        if let Some(bytes) = inner.open.find(id) {
            return Some(use_them(bytes));
        }
        let (_, region) = inner.closed.range(..=id.0).next_back()?;
        let region = region.clone();
        drop(inner);
        region.find(id).map(use_them)
    }

    /// The row of this region exists now.
    pub fn written(&self, first: ChunkId) {
        self.inner.lock().closed.remove(&first.0);
        self.changed.notify_all();
    }

    /// The attempt to write this region failed.
    pub fn failed(&self, region: Arc<PendingRegion>, error: Error) {
        self.inner.lock().failed.push((region, error));
        self.changed.notify_all();
    }

    /// Waits until every closed region has its row, or has failed. The failed ones are handed back to be tried again.
    pub fn wait(&self) -> Vec<(Arc<PendingRegion>, Error)> {
        let mut inner = self.inner.lock();
        while inner.closed.len() > inner.failed.len() {
            self.changed.wait(&mut inner);
        }
        std::mem::take(&mut inner.failed)
    }

    /// The regions whose last attempt failed.
    pub fn take_failed(&self) -> Vec<(Arc<PendingRegion>, Error)> {
        std::mem::take(&mut self.inner.lock().failed)
    }

    /// True if a closed region still has no row.
    pub fn is_writing(&self) -> bool {
        let inner = self.inner.lock();
        inner.closed.len() > inner.failed.len()
    }
}

impl Inner {
    fn close(&mut self) -> Option<Arc<PendingRegion>> {
        let first = self.open.first()?;
        let region = Arc::new(std::mem::take(&mut self.open));
        self.closed.insert(first.0, region.clone());
        Some(region)
    }
}
