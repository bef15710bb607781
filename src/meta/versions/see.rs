//! Reading and writing at a leaf.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::Result;
use crate::meta::kv::{ReadView, Row, Table};
use crate::meta::layers::Layers;
use crate::meta::memtable::Memtable;
use crate::meta::rows::{
    decode_seen, decode_version_row, encode_seen, owned_key, split_version, versioned_key,
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

/// The tree as the rows of one moment have it; each version by whichever of its rows there is.
pub fn read_tree(rows: &dyn Rows) -> Result<VersionTree> {
    let mut parents = BTreeMap::new();
    rows.scan(Table::Versions, Bound::Unbounded, Bound::Unbounded, &mut |key, row| {
        parents.insert(split_version(key)?.1, decode_version_row(row)?);
        Ok(true)
    })?;
    VersionTree::of(parents)
}

/// The row of a key that `leaf` sees, and at which version it stands; a value of `None` is a whiteout.
pub fn seek(
    rows: &dyn Rows,
    tree: &VersionTree,
    table: Table,
    key: &[u8],
    leaf: Version,
) -> Result<Option<(Version, Option<Vec<u8>>)>> {
    let (mut at, last) = (leaf, versioned_key(key, Version::MAX));
    loop {
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
