//! The bytes that one batch brings for chunks that are bad.

use std::collections::BTreeMap;

use crate::chunk::{ChunkId, Digest};
use crate::pack::{Location, RegionChunk};
use crate::sync::{Mutex, MutexGuard};

/// A chunk whose new bytes are in a pack, but whose region row is not changed yet.
#[derive(Debug, Clone, Copy)]
pub struct Healed {
    /// Of its bytes.
    pub digest: Digest,
    /// The record that has them.
    pub at: Location,
    /// Plain bytes of the record.
    pub plain: u32,
}

/// The bytes of a batch for bad chunks.
#[derive(Debug, Default)]
pub struct QueuedHeals {
    /// Bytes that are in no pack yet.
    open: BTreeMap<ChunkId, (Digest, Vec<u8>)>,
    open_bytes: usize,
    /// The places of the others.
    pub written: BTreeMap<ChunkId, Healed>,
}

impl QueuedHeals {
    /// Adds the bytes of a bad chunk, unless it has them already; true if at least `full` bytes wait to be written.
    pub fn add(&mut self, id: ChunkId, digest: Digest, bytes: &[u8], full: usize) -> bool {
        if self.written.contains_key(&id) || self.open.contains_key(&id) {
            return false;
        }
        self.open_bytes += bytes.len();
        self.open.insert(id, (digest, bytes.to_vec()));
        self.open_bytes >= full
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.written.is_empty()
    }

    /// The bytes of a chunk that are in no pack yet.
    pub fn bytes(&self, id: ChunkId) -> Option<&[u8]> {
        self.open.get(&id).map(|(_, bytes)| bytes.as_slice())
    }

    /// The bytes that are in no pack yet, as one region.
    pub fn region(&self) -> (Vec<RegionChunk>, Vec<u8>) {
        let mut chunks = Vec::with_capacity(self.open.len());
        let mut plain = Vec::with_capacity(self.open_bytes);
        for (&id, (digest, bytes)) in &self.open {
            chunks.push(RegionChunk { id, digest: *digest, len: bytes.len() as u32 });
            plain.extend_from_slice(bytes);
        }
        (chunks, plain)
    }

    /// The region of `chunks`, with `plain` bytes, is in a pack.
    pub fn is_at(&mut self, chunks: Vec<RegionChunk>, plain: u32, at: Location) {
        for chunk in chunks {
            self.written.insert(chunk.id, Healed { digest: chunk.digest, at, plain });
        }
        self.open.clear();
        self.open_bytes = 0;
    }
}

/// The bytes that one batch brings for chunks that are bad.
#[derive(Debug, Default)]
pub struct HealQueue {
    /// All of it; locked while a region is appended.
    inner: Mutex<QueuedHeals>,
}

impl HealQueue {
    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, QueuedHeals> {
        self.inner.lock()
    }
}
