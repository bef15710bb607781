//! Remembers the digests of chunks that stand near one that was just found.
//!
//! Data that was stored together comes again together. So one look into the database brings in the digests of the
//! regions that follow, and the next few hundred chunks are found without it.
//!
//! Keeps true (I9): it holds only what stood in the database, and it is emptied between a sweep and the end of its
//! cycle. Members that took an answer before are waited for; see `barrier.rs`.

use std::num::NonZeroUsize;
use std::ops::Bound;

use lru::LruCache;

use crate::chunk::{ChunkId, Digest};
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::meta::{ReadView, Table};
use crate::sync::Mutex;

/// Digests remembered: about 12 MiB.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(128 * 1024).expect("more than 0");
/// Chunks to bring in around one that was found.
const PRELOAD: usize = 512;

/// The memory of recent digests.
#[derive(Debug)]
pub struct Locality {
    /// Counts up with every [`Self::forget_all`], so that a preload that began before adds nothing after.
    inner: Mutex<(u64, LruCache<Digest, ChunkId>)>,
}

impl Default for Locality {
    fn default() -> Self {
        Self { inner: Mutex::new((0, LruCache::new(CAPACITY))) }
    }
}

impl Locality {
    /// The chunk with this digest, if it is remembered.
    pub fn get(&self, digest: &Digest) -> Option<ChunkId> {
        self.inner.lock().1.get(digest).copied()
    }

    /// Where a later [`Self::preload`] stands in time.
    pub fn epoch(&self) -> u64 {
        self.inner.lock().0
    }

    /// Brings in the chunks from `id` on, as `view` has them, unless everything was forgotten since `epoch`.
    pub fn preload(&self, epoch: u64, view: &ReadView, id: ChunkId) -> Result<()> {
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
        if inner.0 == epoch {
            for (digest, id) in found {
                inner.1.put(digest, id);
            }
        }
        Ok(())
    }

    /// Forgets everything (I9).
    pub fn forget_all(&self) {
        let mut inner = self.inner.lock();
        inner.0 += 1;
        inner.1.clear();
    }
}
