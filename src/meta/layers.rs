//! The layers of metadata: the open batch, the batch being committed, and what is committed.
//!
//! Keeps true: readers take all layers in one step, so a row never seems to vanish while its batch moves from memory
//! to what is committed; and a layer above wins over the ones below, removals included.
//!
//! A simpler way, to ask the layers one after the other, fails: if a batch is committed in between, a reader finds its
//! rows neither in the sealed batch nor in its older view.

use std::ops::Bound;

use crate::error::Result;
use crate::sync::{Arc, RwLock};

use super::kv::{Kv, Row, Table};
use super::memtable::{Counter, Memtable};
use super::run::Changes;
use super::versions::Subvolumes;
use super::view::{Stack, View};

/// A sum over the whole store for each [`Counter`].
pub type Sums = [i64; Counter::ALL.len()];

/// All metadata at one moment.
pub struct Layers {
    /// The open batch.
    pub active: Arc<Memtable>,
    /// The batch that is being committed, if one is.
    pub sealed: Option<Arc<Memtable>>,
    /// What is committed.
    pub view: Arc<View>,
    /// The subvolumes as the open batch has them.
    pub subvolumes: Arc<Subvolumes>,
    /// The sums of what is committed.
    sums: Sums,
}

impl Layers {
    fn stack(&self) -> Stack<'_> {
        let memtables = std::iter::once(&self.active).chain(&self.sealed);
        self.view.stack(memtables.map(|memtable| memtable.as_ref() as &dyn Changes))
    }

    /// The value under `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.stack().get(table, key)
    }

    /// The first row with a key in `from..=to`.
    pub fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        self.stack().first(table, from, to)
    }

    /// The last row with a key in `from..=to`; for tables whose keys have one length.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        self.stack().last(table, from, to)
    }

    /// Calls `each` for the rows of `from..to` in key order until it returns false.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.stack().scan(table, from, to, each)
    }

    /// A sum over the whole store, the open batches included; what only damage can make less than nothing is nothing.
    pub fn counter(&self, counter: Counter) -> u64 {
        let sealed = self.sealed.as_ref().map_or(0, |batch| batch.counted(counter));
        (self.sums[counter as usize] + sealed + self.active.counted(counter)).max(0) as u64
    }
}

/// The database and the layers before it.
pub struct Meta {
    kv: Kv,
    /// Guarded by its lock, which is held only to clone or to swap; the lock order is: gate, then this.
    layers: RwLock<Arc<Layers>>,
}

impl Meta {
    /// Starts with `active` as the open batch above `view`, which is what is committed; `sums` and `subvolumes` are those
    /// of all of it.
    pub fn new(
        kv: Kv,
        view: View,
        sums: Sums,
        (active, subvolumes): (Arc<Memtable>, Arc<Subvolumes>),
    ) -> Self {
        let layers = Layers { active, sealed: None, view: Arc::new(view), subvolumes, sums };
        Self { kv, layers: RwLock::new(Arc::new(layers)) }
    }

    /// All layers at one moment.
    pub fn layers(&self) -> Arc<Layers> {
        self.layers.read().clone()
    }

    /// The database itself, for the fold.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Puts `next` on top, with the subvolumes that it begins with; the open batch becomes the sealed one.
    pub fn seal(&self, next: Arc<Memtable>, subvolumes: Arc<Subvolumes>) {
        let mut layers = self.layers.write();
        debug_assert!(layers.sealed.is_none(), "one batch is committed at a time");
        *layers = Arc::new(Layers {
            active: next,
            sealed: Some(layers.active.clone()),
            view: layers.view.clone(),
            subvolumes,
            sums: layers.sums,
        });
    }

    /// Replaces what is committed, and drops the sealed batch if it is `with_sealed`. For the one who holds the queue
    /// of commits: two of them could put an older view over a newer one.
    pub fn publish(&self, view: View, sums: Sums, with_sealed: bool) {
        let mut layers = self.layers.write();
        *layers = Arc::new(Layers {
            active: layers.active.clone(),
            sealed: if with_sealed { None } else { layers.sealed.clone() },
            view: Arc::new(view),
            subvolumes: layers.subvolumes.clone(),
            sums,
        });
    }
}
