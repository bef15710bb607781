//! What is committed, at one moment: the database, and above it the runs that are not folded into it yet.
//!
//! Keeps true: a view never changes; what is above wins over what is below, removals included. There are few runs,
//! however many commits there were: one is merged with those before it that are not much longer, so each change is
//! copied some ten times at most, and a lookup asks some ten runs at most.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::Result;
use crate::sync::Arc;

use super::kv::{ReadView, Row, Table};
use super::memtable::LayerLookup;
use super::run::{Change, Changes, Run};

/// How many rows a merged scan asks of each layer at a time.
const SCAN_STEP: usize = 256;
/// A run is merged with the one before it unless that is so many times as long.
const LONGER: u64 = 4;

/// One moment of what is committed.
#[derive(Clone)]
pub struct View {
    /// The oldest first.
    runs: Vec<Arc<Run>>,
    base: Arc<ReadView>,
}

impl View {
    /// What is in the database, with `runs` above it, the oldest first.
    pub fn new(base: Arc<ReadView>, runs: Vec<Arc<Run>>) -> Self {
        runs.into_iter().fold(Self { runs: Vec::new(), base }, |view, run| view.with(run))
    }

    /// The same with the changes of one more commit.
    pub fn with(&self, run: Arc<Run>) -> Self {
        let (mut runs, mut run) = (self.runs.clone(), run);
        while let Some(before) = runs.pop_if(|before| before.bytes() <= run.bytes().saturating_mul(LONGER)) {
            run = Arc::new(Run::merge(&run, &before));
        }
        runs.push(run);
        Self { runs, base: self.base.clone() }
    }

    /// What is in the database alone. While it is held the database cannot use its pages again.
    pub fn base(&self) -> &Arc<ReadView> {
        &self.base
    }

    /// The runs above it, the oldest first.
    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// Bytes of the runs.
    pub fn run_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes()).sum()
    }

    /// All layers, for reading.
    pub(super) fn stack<'a>(&'a self, above: impl IntoIterator<Item = &'a dyn Changes>) -> Stack<'a> {
        let runs = self.runs.iter().rev().map(|run| run.as_ref() as &dyn Changes);
        Stack { above: above.into_iter().chain(runs).collect(), base: &self.base }
    }

    /// The value under `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.stack([]).get(table, key)
    }

    /// The first row with a key in `from..=to`.
    pub fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        self.stack([]).first(table, from, to)
    }

    /// The last row with a key in `from..=to`; for tables whose keys have one length.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        self.stack([]).last(table, from, to)
    }

    /// Calls `each` for the rows from `from` (and below `to`) in key order until it returns false.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.stack([]).scan(table, from, to, each)
    }
}

/// Changes above each other, the newest first, and the database below them.
pub(super) struct Stack<'a> {
    above: Vec<&'a dyn Changes>,
    base: &'a ReadView,
}

impl Stack<'_> {
    /// The value under `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        for changes in &self.above {
            match changes.known(table, key) {
                LayerLookup::Absent => {}
                LayerLookup::Removed => return Ok(None),
                LayerLookup::Value(value) => return Ok(Some(value)),
            }
        }
        self.base.get(table, key)
    }

    /// The last row with a key in `from..=to`.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        let mut to = to.to_vec();
        loop {
            let mut best: Option<Change> = None;
            for changes in &self.above {
                let found = changes.last_change(table, from, &to);
                // On equal keys the upper layer, met first, stands.
                if found.as_ref().map(|f| &f.0) > best.as_ref().map(|b| &b.0) {
                    best = found;
                }
            }
            if best.as_ref().is_none_or(|(key, _)| *key != to) {
                let below = self.base.last(table, from, &to)?;
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

    /// The first row with a key in `from..=to`. Asks each layer for one row, and for one more as long as what it finds
    /// was removed.
    pub fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        let (mut from, to) = (Bound::Included(from.to_vec()), Bound::Included(to));
        loop {
            let mut best: Option<Change> = None;
            for changes in &self.above {
                let found = changes.some_changes(table, as_slice(&from), to, 1).pop();
                best = lower(best, found);
            }
            let mut below = None;
            self.base.scan(table, as_slice(&from), to, |key, value| {
                below = Some((key.to_vec(), Some(value.to_vec())));
                Ok(false)
            })?;
            match lower(best, below) {
                None => return Ok(None),
                Some((key, Some(value))) => return Ok(Some((key, value))),
                Some((key, None)) => from = Bound::Excluded(key),
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
        if self.above.iter().all(|changes| changes.is_silent(table)) {
            return self.base.scan(table, from, to, each);
        }
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
            self.above.iter().map(|changes| changes.some_changes(table, from, to, SCAN_STEP)).collect();
        let mut below = Vec::new();
        self.base.scan(table, from, to, |key, value| {
            below.push((key.to_vec(), Some(value.to_vec())));
            Ok(below.len() < SCAN_STEP)
        })?;
        layers.push(below);

        // A layer that was cut off is known only up to its last key; what lies beyond waits for the next step.
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
        let mut merged = BTreeMap::new();
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

/// The one with the lower key; on equal keys that of the upper layer, which was met first.
fn lower(met: Option<Change>, found: Option<Change>) -> Option<Change> {
    match (met, found) {
        (Some(met), Some(found)) => Some(if found.0 < met.0 { found } else { met }),
        (met, found) => met.or(found),
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
/// ones [`Stack::last`] is asked about.
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

#[cfg(test)]
mod tests;
