//! Runs: the final rows of one or several commits, in key order, never changed once made.
//!
//! Keeps true: a run says of a key that it has a value, that it was removed, or nothing; where two runs are merged the
//! newer one's word stands. A run has one form in memory and in the log ([`super::log`]), so what is replayed is what
//! was seen.
//!
//! A run has for each table one buffer of changes, one after the other: the key's length and the key, then 0 for a row
//! that was removed, or the value's length and 1 more, and the value. Lengths are varints.

use std::cmp::Ordering;
use std::ops::Bound;

use crate::error::{Error, Result};

use super::kv::{Table, range_is_empty};
use super::memtable::{LayerLookup, Memtable};
use super::varint;

/// A key, and its value or that it was removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Changes that can be read in key order: of a batch, or of a run.
pub trait Changes {
    /// True if nothing is known of any key of a table.
    fn is_silent(&self, table: Table) -> bool;
    /// What is known of a key.
    fn known(&self, table: Table, key: &[u8]) -> LayerLookup;
    /// The last change with a key in `from..=to`.
    fn last_change(&self, table: Table, from: &[u8], to: &[u8]) -> Option<Change>;
    /// Up to `limit` changes from `from`, below `to`, in key order.
    fn some_changes(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Vec<Change>;
}

impl Changes for Memtable {
    fn is_silent(&self, table: Table) -> bool {
        self.with_changes(table, |changes| changes.is_empty())
    }

    fn known(&self, table: Table, key: &[u8]) -> LayerLookup {
        self.get(table, key)
    }

    fn last_change(&self, table: Table, from: &[u8], to: &[u8]) -> Option<Change> {
        self.last(table, from, to)
    }

    fn some_changes(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Vec<Change> {
        self.scan(table, from, to, limit)
    }
}

/// The changes of one table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Sorted {
    bytes: Vec<u8>,
    /// Where each change begins.
    at: Vec<u32>,
}

/// The changes of some commits.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Run {
    tables: [Sorted; Table::ALL.len()],
}

fn put_change(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    varint::put(out, key.len() as u64);
    out.extend_from_slice(key);
    match value {
        None => varint::put(out, 0),
        Some(value) => {
            varint::put(out, value.len() as u64 + 1);
            out.extend_from_slice(value);
        }
    }
}

fn take_bytes<'a>(from: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let wrong = || Error::damaged("a change in the log ends too early");
    let (bytes, rest) =
        from.split_at_checked(usize::try_from(len).map_err(|_| wrong())?).ok_or_else(wrong)?;
    *from = rest;
    Ok(bytes)
}

/// The change that `from` begins with; what follows stays there.
fn take_change<'a>(from: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>)> {
    let len = varint::take(from)?;
    let key = take_bytes(from, len)?;
    let value = match varint::take(from)? {
        0 => None,
        len => Some(take_bytes(from, len - 1)?),
    };
    Ok((key, value))
}

impl Sorted {
    fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.at.push(self.bytes.len() as u32);
        put_change(&mut self.bytes, key, value);
    }

    fn change(&self, index: usize) -> (&[u8], Option<&[u8]>) {
        let mut from = &self.bytes[self.at[index] as usize..];
        // Everything in here was put by `push`, or read once by `decode`.
        take_change(&mut from).unwrap_or_default()
    }

    /// How many changes have keys below `key`; with `or_same`, `key` itself counts.
    fn below(&self, key: &[u8], or_same: bool) -> usize {
        let (mut low, mut high) = (0, self.at.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.change(middle).0.cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal if or_same => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        (0..self.at.len()).map(|index| self.change(index))
    }

    fn decode(count: u32, bytes: &[u8]) -> Result<Self> {
        let mut sorted = Self { bytes: bytes.to_vec(), at: Vec::new() };
        let (mut rest, mut before): (&[u8], Option<&[u8]>) = (bytes, None);
        while !rest.is_empty() {
            let at = (bytes.len() - rest.len()) as u32;
            let (key, _) = take_change(&mut rest)?;
            if before.is_some_and(|before| before >= key) {
                return Err(Error::damaged("changes in the log are not in order"));
            }
            before = Some(key);
            sorted.at.push(at);
        }
        if sorted.at.len() != count as usize {
            return Err(Error::damaged("the log says of a table that it has other changes than it has"));
        }
        Ok(sorted)
    }

    fn merge(newer: &Self, older: &Self) -> Self {
        if newer.at.is_empty() || older.at.is_empty() {
            return if newer.at.is_empty() { older.clone() } else { newer.clone() };
        }
        let mut both = Self::default();
        both.bytes.reserve(newer.bytes.len() + older.bytes.len());
        both.at.reserve(newer.at.len() + older.at.len());
        overlaid(newer.iter(), older.iter(), |(key, value)| both.push(key, value));
        both
    }
}

/// Changes of `above` and `below` in key order; where both have a key, those of `above`.
fn overlaid<K: Ord, V>(
    above: impl IntoIterator<Item = (K, V)>,
    below: impl IntoIterator<Item = (K, V)>,
    mut each: impl FnMut((K, V)),
) {
    let (mut above, mut below) = (above.into_iter().peekable(), below.into_iter().peekable());
    loop {
        let order = match (above.peek(), below.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        if order == Ordering::Equal {
            below.next();
        }
        if let Some(change) = if order == Ordering::Greater { below.next() } else { above.next() } {
            each(change);
        }
    }
}

impl Run {
    /// The changes of a batch with `own` ones over them.
    pub fn of(batch: Option<&Memtable>, own: &Memtable) -> Self {
        let mut run = Self::default();
        let all = (Bound::Unbounded, Bound::Unbounded);
        for table in Table::ALL {
            let sorted = &mut run.tables[table as usize];
            let above = own.scan(table, all.0, all.1, usize::MAX);
            let below = batch.map(|batch| batch.scan(table, all.0, all.1, usize::MAX));
            overlaid(above, below.unwrap_or_default(), |(key, value)| sorted.push(&key, value.as_deref()));
        }
        run
    }

    /// One run that says what both say.
    pub fn merge(newer: &Self, older: &Self) -> Self {
        let both = |table: Table| Sorted::merge(&newer.tables[table as usize], &older.tables[table as usize]);
        Self { tables: Table::ALL.map(both) }
    }

    /// Bytes of keys and values, about.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|sorted| sorted.bytes.len() as u64 + 4 * sorted.at.len() as u64).sum()
    }

    /// True if it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|sorted| sorted.at.is_empty())
    }

    /// All changes of a table, in key order.
    pub fn changes(&self, table: Table) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.tables[table as usize].iter()
    }

    /// Its bytes in the log: for each table with changes its number (1 byte), how many there are (4), how many bytes
    /// they take (4), and these.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for table in Table::ALL {
            let sorted = &self.tables[table as usize];
            if !sorted.at.is_empty() {
                out.push(table as u8);
                out.extend_from_slice(&(sorted.at.len() as u32).to_le_bytes());
                out.extend_from_slice(&(sorted.bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(&sorted.bytes);
            }
        }
    }

    /// The run from its bytes in the log.
    pub fn decode(mut from: &[u8]) -> Result<Self> {
        let mut run = Self::default();
        let wrong = || Error::damaged("the changes in an entry of the log make no sense");
        while let Some((&number, rest)) = from.split_first() {
            let ([count, len], rest) = {
                let (head, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
                let (words, _) = head.as_chunks::<4>();
                ([u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1])], rest)
            };
            from = rest;
            let bytes = take_bytes(&mut from, len.into())?;
            let sorted = run.tables.get_mut(usize::from(number)).ok_or_else(wrong)?;
            *sorted = Sorted::decode(count, bytes)?;
        }
        Ok(run)
    }
}

impl Changes for Run {
    fn is_silent(&self, table: Table) -> bool {
        self.tables[table as usize].at.is_empty()
    }

    fn known(&self, table: Table, key: &[u8]) -> LayerLookup {
        let sorted = &self.tables[table as usize];
        let index = sorted.below(key, false);
        if index >= sorted.at.len() {
            return LayerLookup::Absent;
        }
        match sorted.change(index) {
            (found, Some(value)) if found == key => LayerLookup::Value(value.to_vec()),
            (found, None) if found == key => LayerLookup::Removed,
            _ => LayerLookup::Absent,
        }
    }

    fn last_change(&self, table: Table, from: &[u8], to: &[u8]) -> Option<Change> {
        let sorted = &self.tables[table as usize];
        let (key, value) = sorted.change(sorted.below(to, true).checked_sub(1)?);
        (key >= from).then(|| (key.to_vec(), value.map(<[u8]>::to_vec)))
    }

    fn some_changes(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Vec<Change> {
        let sorted = &self.tables[table as usize];
        if sorted.at.is_empty() || range_is_empty(from, to) {
            return Vec::new();
        }
        let first = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => sorted.below(key, false),
            Bound::Excluded(key) => sorted.below(key, true),
        };
        let end = match to {
            Bound::Unbounded => sorted.at.len(),
            Bound::Included(key) => sorted.below(key, true),
            Bound::Excluded(key) => sorted.below(key, false),
        };
        let owned = |index| {
            let (key, value) = sorted.change(index);
            (key.to_vec(), value.map(<[u8]>::to_vec))
        };
        (first..end).take(limit).map(owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    type Map = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn map() -> impl Strategy<Value = Map> {
        let key = prop::collection::vec(0u8..4, 0..4);
        prop::collection::btree_map(key, prop::option::of(prop::collection::vec(any::<u8>(), 0..5)), 0..40)
    }

    fn memtable(map: &Map) -> Memtable {
        let table = Memtable::default();
        for (key, value) in map {
            match value {
                Some(value) => table.put(Table::Xattrs, key, value),
                None => table.delete(Table::Xattrs, key),
            }
        }
        table
    }

    fn bound(kind: u8, key: &[u8]) -> Bound<&[u8]> {
        match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(key),
            _ => Bound::Excluded(key),
        }
    }

    proptest! {
        #[test]
        fn a_run_says_what_the_memtable_says(map in map(), from: Vec<u8>, to: Vec<u8>, kinds in (0u8..3, 0u8..3), limit in 0usize..20) {
            let table = memtable(&map);
            let run = Run::of(None, &table);
            let mut bytes = Vec::new();
            run.encode(&mut bytes);
            prop_assert_eq!(&Run::decode(&bytes).unwrap(), &run);
            for key in map.keys().chain([&from, &to]) {
                prop_assert_eq!(run.known(Table::Xattrs, key), table.known(Table::Xattrs, key));
            }
            prop_assert_eq!(run.last_change(Table::Xattrs, &from, &to), table.last_change(Table::Xattrs, &from, &to));
            let (from, to) = (bound(kinds.0, &from), bound(kinds.1, &to));
            prop_assert_eq!(run.some_changes(Table::Xattrs, from, to, limit), table.some_changes(Table::Xattrs, from, to, limit));
        }

        #[test]
        fn what_is_newer_stands(older in map(), newer in map()) {
            let mut both = older.clone();
            both.extend(newer.clone());
            let wanted = Run::of(None, &memtable(&both));
            let (older, newer) = (memtable(&older), memtable(&newer));
            prop_assert_eq!(&Run::merge(&Run::of(None, &newer), &Run::of(None, &older)), &wanted);
            prop_assert_eq!(&Run::of(Some(&older), &newer), &wanted);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(run) = Run::decode(&bytes) {
                let _ = run.some_changes(Table::Xattrs, Bound::Unbounded, Bound::Unbounded, 100);
            }
        }
    }
}
