//! Caches the digests of chunks that are stored near one that was just found.
//!
//! Data that was stored together is usually written together again. So one lookup in the database loads the digests of
//! the following regions, and the next few hundred chunks are found without the database.
//!
//! Keeps true (I9): it has only digests that were in the database, and it is emptied between a sweep and the end of its
//! cycle. The end of the cycle waits for members that took an answer before; see `barrier/`.

use std::num::NonZeroUsize;
use std::ops::Bound;

use lru::LruCache;

use crate::chunk::{ChunkId, Digest};
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::meta::{Table, View};
use crate::sync::Mutex;

/// Digests remembered: about 12 MiB.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(128 * 1024).expect("more than 0");
/// Chunks to load after one that was found.
const PRELOAD: usize = 512;

/// The cache of recent digests.
#[derive(Debug)]
pub struct DigestCache {
    /// Counts every [`Self::clear`], so that a preload that began before it adds nothing afterwards.
    inner: Mutex<(u64, LruCache<Digest, ChunkId>)>,
}

impl Default for DigestCache {
    fn default() -> Self {
        Self { inner: Mutex::new((0, LruCache::new(CAPACITY))) }
    }
}

impl DigestCache {
    /// The chunk with this digest, if it is cached.
    pub fn get(&self, digest: &Digest) -> Option<ChunkId> {
        self.inner.lock().1.get(digest).copied()
    }

    /// The number for a later [`Self::preload`].
    pub fn clear_count(&self) -> u64 {
        self.inner.lock().0
    }

    /// Loads the chunks from `id` on from `view`, unless the cache was cleared since `clear_count`.
    pub fn preload(&self, clear_count: u64, view: &View, id: ChunkId) -> Result<()> {
        let first = match view.last(Table::Regions, &id_key(0), &id_key(id.0))? {
            Some((key, _)) => chunk_of(&key)?,
            None => return Ok(()),
        };
        let mut found = Vec::with_capacity(PRELOAD);
        view.scan(Table::Regions, Bound::Included(&id_key(first)), Bound::Unbounded, |key, row| {
            let row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
            found.extend(row.live().map(|(id, entry)| (entry.digest, id)));
            Ok(found.len() < PRELOAD)
        })?;
        let mut inner = self.inner.lock();
        if inner.0 == clear_count {
            for (digest, id) in found {
                inner.1.put(digest, id);
            }
        }
        Ok(())
    }

    /// Empties the cache (I9).
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.0 += 1;
        inner.1.clear();
    }
}
