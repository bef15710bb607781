//! The layers of metadata: the open batch, the batch being committed, the database.
//!
//! Keeps true: readers take all layers in one step, so a row never seems to vanish while its batch moves from memory
//! into the database. An upper layer overrides the lower ones, also with removals.
//!
//! A simpler way, to ask the layers one after the other, fails: if a batch is committed in between, a reader finds its
//! rows neither in the sealed batch nor in its older view.

use std::ops::Bound;

use crate::error::Result;
use crate::sync::{Arc, RwLock};

use super::kv::{Kv, ReadView, Row, Table};
use super::memtable::{Known, Memtable};

/// All metadata at one moment.
pub struct Layers {
    /// The open batch.
    pub active: Arc<Memtable>,
    /// The batch that is being committed, if one is.
    pub sealed: Option<Arc<Memtable>>,
    /// The view of the database.
    pub view: Arc<ReadView>,
}

/// A key with its value; `None` if it was removed.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// How many rows a merged scan asks of each layer at a time.
const SCAN_STEP: usize = 256;

impl Layers {
    fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(self.active.as_ref()).chain(self.sealed.as_deref())
    }

    /// The value under `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        for memtable in self.memtables() {
            match memtable.get(table, key) {
                Known::Nothing => {}
                Known::Removed => return Ok(None),
                Known::Value(value) => return Ok(Some(value)),
            }
        }
        self.view.get(table, key)
    }

    /// The last row with a key in `from..=to`.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        let mut to = to.to_vec();
        loop {
            let mut best: Option<Change> = None;
            for memtable in self.memtables() {
                let found = memtable.last(table, from, &to);
                // On equal keys the upper layer, which comes first, counts.
                if found.as_ref().map(|f| &f.0) > best.as_ref().map(|b| &b.0) {
                    best = found;
                }
            }
            if best.as_ref().is_none_or(|(key, _)| *key != to) {
                let below = self.view.last(table, from, &to)?;
                if below.as_ref().map(|f| &f.0) > best.as_ref().map(|b| &b.0) {
                    best = below.map(|(key, value)| (key, Some(value)));
                }
            }
            match best {
                None => return Ok(None),
                Some((key, Some(value))) => return Ok(Some((key, value))),
                Some((key, None)) => match key_before(key) {
                    Some(before) => to = before,
                    None => return Ok(None),
                },
            }
        }
    }

    /// Calls `each` for the rows of `from..to` in key order until it returns false.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut start: Bound<Vec<u8>> = from.map(<[u8]>::to_vec);
        loop {
            let (rows, next) = self.scan_step(table, as_slice(&start), to)?;
            for (key, value) in rows {
                if !each(&key, &value)? {
                    return Ok(());
                }
            }
            match next {
                None => return Ok(()),
                Some(key) => start = Bound::Excluded(key),
            }
        }
    }

    /// Some rows in key order, and the key after which to go on.
    fn scan_step(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<(Vec<Row>, Option<Vec<u8>>)> {
        let mut layers: Vec<Vec<Change>> =
            self.memtables().map(|memtable| memtable.scan(table, from, to, SCAN_STEP)).collect();
        let mut below = Vec::new();
        self.view.scan(table, from, to, |key, value| {
            below.push((key.to_vec(), Some(value.to_vec())));
            Ok(below.len() < SCAN_STEP)
        })?;
        layers.push(below);

        // If a layer had more rows than were asked for, it is known only up to its last key; later keys wait for the
        // next step.
        let horizon = layers
            .iter()
            .filter(|rows| rows.len() >= SCAN_STEP)
            .filter_map(|rows| rows.last().map(|row| row.0.clone()))
            .min();
        if layers.iter().filter(|rows| !rows.is_empty()).count() <= 1 {
            let rows = layers.into_iter().find(|rows| !rows.is_empty()).unwrap_or_default();
            let rows = rows.into_iter().filter_map(|(key, value)| Some((key, value?)));
            return Ok((rows.collect(), horizon));
        }
        let mut merged = std::collections::BTreeMap::new();
        for rows in layers.into_iter().rev() {
            for (key, value) in rows {
                if horizon.as_ref().is_none_or(|horizon| key <= *horizon) {
                    merged.insert(key, value);
                }
            }
        }
        let rows = merged.into_iter().filter_map(|(key, value)| Some((key, value?)));
        Ok((rows.collect(), horizon))
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// The greatest key of the same length below `key`. Enough for tables whose keys have one length, which are the only
/// ones [`Layers::last`] is asked about.
fn key_before(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        if *byte > 0 {
            *byte -= 1;
            return Some(key);
        }
        *byte = 0xff;
    }
    None
}

/// The database and the layers before it.
pub struct Meta {
    kv: Kv,
    /// Guarded by its lock, which is held only to clone or to swap; the lock order is: gate, then this.
    layers: RwLock<Arc<Layers>>,
}

impl Meta {
    /// Starts with `active` as the open batch.
    pub fn new(kv: Kv, active: Arc<Memtable>) -> Result<Self> {
        let view = Arc::new(kv.read()?);
        let layers = Layers { active, sealed: None, view };
        Ok(Self { kv, layers: RwLock::new(Arc::new(layers)) })
    }

    /// All layers at one moment.
    pub fn now(&self) -> Arc<Layers> {
        self.layers.read().clone()
    }

    /// The database itself, for the commit, the deletion queue and the collector.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Puts `next` on top; the open batch becomes the sealed one.
    pub fn seal(&self, next: Arc<Memtable>) {
        let mut layers = self.layers.write();
        debug_assert!(layers.sealed.is_none(), "one batch is committed at a time");
        *layers =
            Arc::new(Layers { active: next, sealed: Some(layers.active.clone()), view: layers.view.clone() });
    }

    /// Replaces the view by one of the present state, and drops the sealed batch if `committed`.
    pub fn publish(&self, committed: bool) -> Result<()> {
        let mut layers = self.layers.write();
        // Read inside the lock, so that no publisher replaces a newer view by an older one.
        let view = Arc::new(self.kv.read()?);
        *layers = Arc::new(Layers {
            active: layers.active.clone(),
            sealed: if committed { None } else { layers.sealed.clone() },
            view,
        });
        Ok(())
    }
}
