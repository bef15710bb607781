//! Reading and writing at a leaf.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::kv::{ReadView, Row, Table};
use crate::meta::layers::Layers;
use crate::meta::memtable::Memtable;
use crate::meta::rows::{
    COPIES, decode_seen, decode_version_row, encode_seen, owned_key, split_version, versioned_key,
};
use crate::meta::txn::Txn;
use crate::meta::view::View;

use super::tree::{Version, VersionTree};

/// Called with key and value of a row; false ends the walk.
pub type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool>;

/// Rows of one moment.
pub trait Rows {
    /// The value under a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The first row with a key in `from..=to`.
    fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>>;
    /// Calls `each` for the rows of `from..to` in key order until it returns false.
    fn scan(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, each: Each<'_>) -> Result<()>;
}

macro_rules! rows_of {
    ($kind:ty) => {
        impl Rows for $kind {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
                <$kind>::get(self, table, key)
            }

            fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
                <$kind>::first(self, table, from, to)
            }

            fn scan(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, each: Each<'_>) -> Result<()> {
                <$kind>::scan(self, table, from, to, each)
            }
        }
    };
}

rows_of!(Layers);
rows_of!(ReadView);
rows_of!(View);
rows_of!(Txn<'_>);

/// The tree as the rows of one moment have it; each version by whichever of its rows can be read.
pub fn read_tree(rows: &dyn Rows) -> Result<VersionTree> {
    let parents = read_copies(rows, Table::Versions, decode_version_row)?;
    VersionTree::of(parents.into_iter().map(|(version, parent)| (Version(version), parent)))
}

/// What a table says whose rows are there [`COPIES`] times, by number, each by the first copy that can be read. The
/// copies stand apart, so that one damaged page does not take all of them. One that cannot be read to its end is no
/// matter as long as another can; if none can, what is missing might be a row that is there (I7).
pub(super) fn read_copies<R>(
    rows: &dyn Rows,
    table: Table,
    decode: impl Fn(&[u8]) -> Result<R>,
) -> Result<BTreeMap<u64, R>> {
    let mut found = BTreeMap::new();
    // Numbers whose row was met and said nothing.
    let mut unread: BTreeMap<u64, Error> = BTreeMap::new();
    let (mut cut_off, mut is_whole) = (None, false);
    for copy in 0..COPIES {
        let (from, to) = ([copy], [copy + 1]);
        let read = rows.scan(table, Bound::Included(&from), Bound::Excluded(&to), &mut |key, row| {
            let number = split_version(key)?.1.0;
            match decode(row) {
                Ok(row) => drop(found.entry(number).or_insert(row)),
                Err(error) => drop(unread.insert(number, error)),
            }
            Ok(true)
        });
        match read {
            Ok(()) => is_whole = true,
            Err(error) => {
                tracing::warn!(
                    "copy {copy} of the table {} cannot be read to its end: {error}",
                    table.name()
                );
                cut_off = Some(error);
            }
        }
    }
    if let (Some(error), false) = (cut_off, is_whole) {
        return Err(error);
    }
    match unread.into_iter().find(|(number, _)| !found.contains_key(number)) {
        Some((_, error)) => Err(error),
        None => Ok(found),
    }
}

/// How often a lookup asks for the next row that may be the one, before it walks through those of the key instead: where
/// many siblings have rows, they stand between any two that may be.
const HOPS: usize = 4;

/// The row of a key that `leaf` sees, and at which version it stands; a value of `None` is a whiteout.
pub fn seek(
    rows: &dyn Rows,
    tree: &VersionTree,
    table: Table,
    key: &[u8],
    leaf: Version,
) -> Result<Option<(Version, Option<Vec<u8>>)>> {
    let (mut at, last) = (leaf, versioned_key(key, Version::MAX));
    for _ in 0..HOPS {
        let Some((whole, stored)) = rows.first(table, &versioned_key(key, at), &last)? else {
            return Ok(None);
        };
        let found = split_version(&whole)?.1;
        // Those of siblings stand between: on to the next version that is on the way up.
        match tree.first_from(leaf, found)? {
            Some(above) if above == found => {
                return Ok(Some((found, decode_seen(&stored)?.map(<[u8]>::to_vec))));
            }
            Some(above) => at = above,
            None => return Ok(None),
        }
    }
    let (mut seen, first) = (None, versioned_key(key, at));
    let range = (Bound::Included(&first[..]), Bound::Excluded(&last[..]));
    rows.scan(table, range.0, range.1, &mut |whole, stored| {
        let found = split_version(whole)?.1;
        if found < at {
            return Ok(true);
        }
        match tree.first_from(at, found)? {
            Some(above) if above == found => {
                seen = Some((found, decode_seen(stored)?.map(<[u8]>::to_vec)));
                Ok(false)
            }
            Some(above) => {
                at = above;
                Ok(true)
            }
            None => Ok(false),
        }
    })?;
    Ok(seen)
}

/// The value of a key that `leaf` sees.
pub fn get(
    rows: &dyn Rows,
    tree: &VersionTree,
    table: Table,
    key: &[u8],
    leaf: Version,
) -> Result<Option<Vec<u8>>> {
    Ok(seek(rows, tree, table, key, leaf)?.and_then(|(_, value)| value))
}

/// Sets what `leaf` sees of a key.
pub fn put(into: &Memtable, table: Table, key: &[u8], leaf: Version, value: &[u8]) {
    set(into, table, key, leaf, Some(value));
}

fn set(into: &Memtable, table: Table, key: &[u8], leaf: Version, value: Option<&[u8]>) {
    into.put(table, &versioned_key(key, leaf), &encode_seen(value));
    into.put(Table::Owned, &owned_key(leaf, table, key), &[]);
}

/// Lets `leaf` see nothing of a key. A whiteout above counts as a row: it may be taken out as one that hides nothing
/// any more, and with it what hid the rows above that.
pub fn delete(
    rows: &dyn Rows,
    tree: &VersionTree,
    into: &Memtable,
    (table, key): (Table, &[u8]),
    leaf: Version,
) -> Result<()> {
    let above = match tree.parent(leaf)? {
        None => None,
        Some(parent) => seek(rows, tree, table, key, parent)?,
    };
    if above.is_some() && !super::reap::is_without_whiteouts() {
        set(into, table, key, leaf, None);
    } else {
        into.delete(table, &versioned_key(key, leaf));
        into.delete(Table::Owned, &owned_key(leaf, table, key));
    }
    Ok(())
}

/// Calls `each` with the keys of `from..to` that have a value for `leaf`, and these, in key order until it returns
/// false.
pub fn scan(
    rows: &dyn Rows,
    tree: &VersionTree,
    table: Table,
    (from, to): (Bound<&[u8]>, Bound<&[u8]>),
    leaf: Version,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
) -> Result<()> {
    // The key whose row was found.
    let mut known: Vec<u8> = Vec::new();
    rows.scan(table, from, to, &mut |whole, stored| {
        let (key, version) = split_version(whole)?;
        if key == known || !tree.is_above(version, leaf)? {
            return Ok(true);
        }
        known.clear();
        known.extend_from_slice(key);
        match decode_seen(stored)? {
            Some(value) => each(key, value),
            None => Ok(true),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::rows::version_rows;

    /// What a damaged row does.
    #[derive(Debug, Clone, Copy)]
    enum Damage {
        /// It is no row of its table.
        Senseless,
        /// Its checksum does not match, or its page cannot be read: the walk ends there.
        Unreadable,
    }

    /// A table of which some rows are damaged.
    struct Damaged {
        rows: BTreeMap<Vec<u8>, Vec<u8>>,
        damaged: Vec<Vec<u8>>,
        by: Damage,
    }

    impl Rows for Damaged {
        fn get(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>> {
            Ok(None)
        }

        fn first(&self, _: Table, _: &[u8], _: &[u8]) -> Result<Option<Row>> {
            Ok(None)
        }

        fn scan(&self, _: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, each: Each<'_>) -> Result<()> {
            for (key, row) in self.rows.range::<[u8], _>((from, to)) {
                let go_on = match (self.damaged.contains(key), self.by) {
                    (false, _) => each(key, row)?,
                    (true, Damage::Senseless) => each(key, b"?")?,
                    (true, Damage::Unreadable) => return Err(Error::damaged("unreadable")),
                };
                if !go_on {
                    break;
                }
            }
            Ok(())
        }
    }

    /// What is read of five versions when these copies of these versions are damaged.
    fn read(damaged: &[(usize, u64)], by: Damage) -> Result<VersionTree> {
        let of = |number: u64| version_rows(Version(number), (number < 5).then(|| Version(number + 1)));
        let rows = (1..=5).flat_map(of).map(|(key, row)| (key, row.to_vec())).collect();
        let damaged = damaged.iter().map(|(copy, number)| of(*number)[*copy].0.clone()).collect();
        read_tree(&Damaged { rows, damaged, by })
    }

    #[test]
    fn either_copy_is_enough_and_a_version_without_any_is_damage() {
        let whole = read(&[], Damage::Senseless).unwrap();
        for by in [Damage::Senseless, Damage::Unreadable] {
            for number in 1..=5 {
                for copy in [0, 1] {
                    let found = read(&[(copy, number)], by).unwrap();
                    assert_eq!(found.upwards(), whole.upwards(), "{by:?}, copy {copy} of {number}");
                }
                assert!(read(&[(0, number), (1, number)], by).is_err(), "{by:?}, both of {number}");
            }
        }
        let apart = read(&[(0, 2), (1, 4)], Damage::Senseless).unwrap();
        assert_eq!(apart.upwards(), whole.upwards());
        // What neither walk has come to may be there.
        assert!(read(&[(0, 4), (1, 2)], Damage::Unreadable).is_err());
    }
}
