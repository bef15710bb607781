//! The known bad chunks.

use std::collections::HashSet;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::rows::{bad_pack, chunk_of};
use crate::meta::{Table, View};
use crate::pack::PackId;
use crate::sync::RwLock;

/// The known bad chunks of the whole store: some 20 bytes each.
#[derive(Debug, Default)]
pub struct BadChunks {
    inner: RwLock<BadSet>,
}

#[derive(Debug, Default)]
struct BadSet {
    ids: HashSet<u64>,
    /// Packs with bad chunks, and packs that are suspected since the store was opened.
    packs: HashSet<PackId>,
}

impl BadChunks {
    /// Those of which `view` has rows.
    pub fn load(view: &View) -> Result<Self> {
        let mut known = BadSet::default();
        let rows = view.base().rows(Table::Bad)?;
        let told = |error: &Error| tracing::error!("which chunks are bad cannot be read to the end: {error}");
        for (key, row) in rows.map_while(|row| row.inspect_err(told).ok()) {
            // If a row cannot be read here, the next reader of the chunk finds out again.
            let Ok(id) = chunk_of(&key) else { continue };
            if let Ok(pack) = row.and_then(|row| bad_pack(&row)) {
                known.ids.insert(id);
                known.packs.insert(pack);
            }
        }
        for (key, row) in view.runs().iter().flat_map(|run| run.changes(Table::Bad)) {
            let Ok(id) = chunk_of(key) else { continue };
            match row.map(bad_pack) {
                None => drop(known.ids.remove(&id)),
                Some(Ok(pack)) => {
                    known.ids.insert(id);
                    known.packs.insert(pack);
                }
                Some(Err(_)) => {}
            }
        }
        Ok(Self { inner: RwLock::new(known) })
    }

    /// Is this one of them?
    pub fn has(&self, id: ChunkId) -> bool {
        self.inner.read().ids.contains(&id.0)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.inner.read().ids.len() as u64
    }

    /// Were bad chunks found in this pack?
    pub fn has_pack(&self, pack: PackId) -> bool {
        self.inner.read().packs.contains(&pack)
    }

    /// True if none was found in any pack.
    pub fn is_empty(&self) -> bool {
        self.inner.read().packs.is_empty()
    }

    /// Chunks of this pack are read before they are reused.
    pub fn suspect(&self, pack: PackId) {
        if !self.has_pack(pack) {
            self.inner.write().packs.insert(pack);
        }
    }

    /// Notes one; true if it was not known before.
    pub fn add(&self, id: ChunkId, pack: PackId) -> bool {
        let mut known = self.inner.write();
        known.packs.insert(pack);
        known.ids.insert(id.0)
    }

    /// Takes these off the list.
    pub fn forget(&self, ids: impl IntoIterator<Item = ChunkId>) {
        let mut known = self.inner.write();
        for id in ids {
            known.ids.remove(&id.0);
        }
    }
}
