//! A store in a directory of its own, which is gone when it is dropped.

use std::sync::Arc;

use cairnfs::chunk::ChunkId;
use cairnfs::pack::Compression;
use cairnfs::store::{Cut, MkfsOptions, OpenOptions, Store, mkfs};
use tempfile::TempDir;

use crate::synthetic::{self, Size};

/// The caches of a store by default.
const CACHE: u64 = 192 << 20;

pub struct TempStore {
    store: Option<Arc<Store>>,
    dir: Option<TempDir>,
}

impl TempStore {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("cairnfs-micro-").tempdir().expect("a temporary directory");
        let options =
            MkfsOptions { reserve: 1 << 20, compression: Compression::Zstd(1), ..MkfsOptions::default() };
        mkfs(dir.path(), &options).expect("an empty directory");
        Self::open(dir, CACHE)
    }

    /// One that is filled with rows.
    pub fn synthetic(size: &Size) -> Self {
        let store = Self::new();
        synthetic::fill(store.store(), size).expect("an empty store");
        // Numbers that were written as rows are taken up when a store is opened.
        store.reopened(CACHE)
    }

    fn open(dir: TempDir, cache_bytes: u64) -> Self {
        let options = OpenOptions { cache_bytes, ..OpenOptions::default() };
        let store = Store::open(dir.path(), &options).expect("a store that was just made");
        Self { store: Some(store), dir: Some(dir) }
    }

    /// Closed and opened again, with other caches.
    pub fn reopened(mut self, cache_bytes: u64) -> Self {
        self.close();
        Self::open(self.dir.take().expect("there until it is dropped"), cache_bytes)
    }

    fn close(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().expect("a store that works");
        }
    }

    pub fn store(&self) -> &Arc<Store> {
        self.store.as_ref().expect("open until it is dropped")
    }

    pub fn cut(&self, data: &[u8]) -> Vec<Cut> {
        self.store().chunks.cut(data)
    }

    /// Puts all pieces, in a batch.
    pub fn put_all(&self, data: &[u8], cuts: &[Cut]) -> Vec<ChunkId> {
        let member = self.store().batches.join().expect("an open store");
        let (mut ids, mut rest) = (Vec::with_capacity(cuts.len()), data);
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.len as usize);
            rest = behind;
            let digest = cut.digest.expect("noise has no zeros");
            ids.push(
                self.store().chunks.put(&member, digest, piece, data.len() as u64).expect("a working store"),
            );
        }
        drop(member);
        self.store().chunks.help_write_regions();
        ids
    }

    pub fn commit(&self) {
        self.store().commits.commit().expect("a working store");
    }
}

impl Drop for TempStore {
    fn drop(&mut self) {
        self.close();
    }
}
