//! Chunks: cut, stored once, and read back.
//!
//! The files: `cut` cuts bytes into chunks, `put` stores or finds them, `get` reads them; `digest_cache` caches
//! digests, and `sequential` predicts what is read next.
//!
//! Keeps true (I4): an existing chunk gets a new reference only after the barrier allowed it.

mod cut;
mod digest_cache;
mod get;
mod put;
mod sequential;

use crate::chunk::{ChunkId, Cutter, Digest};
use crate::error::Result;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::meta::{Layers, Meta, Table};
use crate::sync::{Arc, AtomicU64, Ordering};

use super::barrier::Barrier;
use super::batches::{Batches, Numbers};
use super::healing::Healing;
use super::packs::Packs;
use super::workers::Pool;
use digest_cache::DigestCache;
use sequential::SequentialDetector;

/// A chunk that was cut and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Its length.
    pub len: u32,
    /// Its digest; `None` if all its bytes are zero, so that it becomes a hole.
    pub digest: Option<Digest>,
}

/// The chunks of one store.
pub struct Chunks {
    cutter: Cutter,
    /// Plain bytes after which a region is full.
    region_size: usize,
    meta: Arc<Meta>,
    barrier: Arc<Barrier>,
    batches: Arc<Batches>,
    packs: Arc<Packs>,
    healing: Arc<Healing>,
    workers: Arc<Pool>,
    numbers: Arc<Numbers>,
    digest_cache: DigestCache,
    sequential: SequentialDetector,
    /// Plain bytes in regions that are not written yet.
    pending_bytes: AtomicU64,
}

/// The parts of a store that its chunks use.
pub struct Parts {
    /// The rows.
    pub meta: Arc<Meta>,
    /// Asked before a chunk is reused.
    pub barrier: Arc<Barrier>,
    /// Where new rows go.
    pub batches: Arc<Batches>,
    /// Where regions go.
    pub packs: Arc<Packs>,
    /// The known bad chunks.
    pub healing: Arc<Healing>,
    /// The workers that compress and read ahead.
    pub workers: Arc<Pool>,
    /// Where ids come from.
    pub numbers: Arc<Numbers>,
}

impl Chunks {
    /// Chunks as `cutter` makes them, in regions of `region_size` plain bytes.
    pub fn new(cutter: Cutter, region_size: usize, parts: Parts) -> Self {
        let Parts { meta, barrier, batches, packs, healing, workers, numbers } = parts;
        Self {
            cutter,
            region_size,
            meta,
            barrier,
            batches,
            packs,
            healing,
            workers,
            numbers,
            digest_cache: DigestCache::default(),
            sequential: SequentialDetector::default(),
            pending_bytes: AtomicU64::new(0),
        }
    }

    /// The longest chunk there can be, in bytes.
    pub fn max_len(&self) -> u64 {
        self.cutter.params().max.into()
    }

    /// Plain bytes in regions that are not written yet.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// Empties the cache of digests (I9).
    pub fn clear_digest_cache(&self) {
        self.digest_cache.clear();
    }
}

/// The row of the region that has a chunk.
fn find_region(layers: &Layers, id: ChunkId) -> Result<Option<RegionRow>> {
    let Some((key, row)) = layers.last(Table::Regions, &id_key(0), &id_key(id.0))? else {
        return Ok(None);
    };
    let row = RegionRow::decode(ChunkId(chunk_of(&key)?), &row)?;
    Ok(row.entry(id).is_some().then_some(row))
}
