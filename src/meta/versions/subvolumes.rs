//! The subvolumes of a store at one moment, and the tree of their versions.
//!
//! Keeps true: what this says never changes; a clone makes another one, which takes the place of this one in the moment
//! in which one batch takes the place of another. So an operation, which is a member of one batch, sees and writes at
//! one leaf from its beginning to its end.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::meta::kv::Table;
use crate::meta::memtable::Memtable;
use crate::meta::rows::{COPIES, SubvolumeRow, subvolume_key, version_rows};

use super::see::{Rows, read_copies, read_tree};
use super::tree::{Version, VersionTree};

/// A subvolume, as everything that reads or writes in it needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subvolume {
    /// The version at which it reads and writes.
    pub leaf: Version,
    /// The number of its root directory inside it.
    pub root: u64,
}

/// All subvolumes, those that are dropped and not yet reaped included.
#[derive(Debug, Default, Clone)]
pub struct Subvolumes {
    /// Their versions.
    pub tree: VersionTree,
    by_number: BTreeMap<u64, Subvolume>,
}

impl Subvolumes {
    /// As the rows of one moment have them.
    pub fn read(rows: &dyn Rows) -> Result<Self> {
        let tree = read_tree(rows)?;
        let mut by_number = BTreeMap::new();
        for (number, row) in read_rows(rows)? {
            if !tree.has(row.leaf) {
                return Err(Error::damaged(format!("the version of subvolume {number} is missing")));
            }
            by_number.insert(number, Subvolume { leaf: row.leaf, root: row.root });
        }
        Ok(Self { tree, by_number })
    }

    /// One of them.
    pub fn get(&self, number: u64) -> Option<Subvolume> {
        self.by_number.get(&number).copied()
    }

    /// The same with one more, empty, at a version of its own.
    pub fn with_new(&self, number: u64, made: Subvolume) -> Result<Self> {
        let mut next = self.clone();
        next.tree.add(made.leaf, None)?;
        next.by_number.insert(number, made);
        Ok(next)
    }

    /// The same with a clone of `source`: that one goes on at the version `moved`, and the new one begins at `leaf`.
    pub fn with_clone(&self, source: u64, number: u64, (moved, leaf): (Version, Version)) -> Result<Self> {
        let mut next = self.clone();
        let from = next.by_number.get_mut(&source).ok_or_else(|| missing(source))?;
        let (old, root) = (from.leaf, from.root);
        from.leaf = moved;
        next.tree.add(moved, Some(old))?;
        next.tree.add(leaf, Some(old))?;
        next.by_number.insert(number, Subvolume { leaf, root });
        Ok(next)
    }

    /// The same after some were reaped, with the tree that is left.
    pub fn without(&self, gone: &[u64], tree: VersionTree) -> Self {
        let mut by_number = self.by_number.clone();
        by_number.retain(|number, _| !gone.contains(number));
        Self { tree, by_number }
    }
}

/// A subvolume that should be there is not.
pub fn missing(number: u64) -> Error {
    Error::damaged(format!("subvolume {number} is missing"))
}

/// The rows of all subvolumes; each by whichever of its copies can be read.
pub fn read_rows(rows: &dyn Rows) -> Result<BTreeMap<u64, SubvolumeRow>> {
    read_copies(rows, Table::Subvolumes, SubvolumeRow::decode)
}

/// The row of a subvolume, by whichever of its copies can be read.
pub fn row(rows: &dyn Rows, number: u64) -> Result<Option<SubvolumeRow>> {
    let mut failed = None;
    for copy in 0..COPIES {
        let read = rows.get(Table::Subvolumes, &subvolume_key(copy, number));
        match read.and_then(|row| row.map(|row| SubvolumeRow::decode(&row)).transpose()) {
            Ok(Some(row)) => return Ok(Some(row)),
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
    }
    // A copy that cannot be read is no absence (I7).
    failed.map_or(Ok(None), Err)
}

/// Writes the rows of a subvolume.
pub fn put_row(into: &Memtable, number: u64, row: &SubvolumeRow) {
    let row = row.encode();
    (0..COPIES).for_each(|copy| into.put(Table::Subvolumes, &subvolume_key(copy, number), &row));
}

/// Writes the rows of a version.
pub fn put_version(into: &Memtable, version: Version, parent: Option<Version>) {
    version_rows(version, parent).iter().for_each(|(key, row)| into.put(Table::Versions, key, row));
}

/// Bits of an inode's number that say which it is in its subvolume; those above say which subvolume. Outside all
/// subvolumes these are 0.
const LOCAL_BITS: u32 = 36;

/// No inode has this number or a greater one inside its subvolume, and none outside all of them has.
pub const LOCAL_LIMIT: u64 = 1 << LOCAL_BITS;

/// No subvolume has this number or a greater one: numbers of inodes with the highest bit belong to the control directory.
pub const SUBVOLUME_LIMIT: u64 = 1 << (u64::BITS - 1 - LOCAL_BITS);

/// The number that everybody knows an inode by.
pub fn public_ino(number: u64, local: u64) -> u64 {
    number << LOCAL_BITS | local
}

/// The subvolume of an inode, 0 outside all of them, and its number there.
pub fn split_ino(ino: u64) -> (u64, u64) {
    (ino >> LOCAL_BITS, ino & ((1 << LOCAL_BITS) - 1))
}

/// The subvolume of an inode, or 0.
pub fn subvolume_of(ino: u64) -> u64 {
    split_ino(ino).0
}
