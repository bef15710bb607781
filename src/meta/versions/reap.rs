//! Removing rows that no leaf sees.
//!
//! Keeps true: whether a row goes is decided from all rows of its key and the tree as they are in one transaction,
//! never from what a batch has in memory: what stands only there may be lost by a crash, and the row below it is then
//! what a leaf sees. A leaf counts for as long as its subvolume is there, or is gone and somebody still uses an inode
//! of it. A version that is missing in the tree ends the work with an error (I7).
//!
//! After leaves were dropped, their own rows go; and where a version has one branch left below it, its rows that this
//! branch hides. Never visited is what a version has that others still see: retention drops the oldest first, and the
//! oldest has a row for each file. Leaves that were dropped together are reaped together, or each of them would visit
//! the same branches. What this misses (rows that each of several branches hides) an [audit](Audit) of all keys finds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Error, Result};
use crate::meta::kv::Table;
use crate::meta::rows::{
    Extent, InodeRow, content_key, decode_content_key, decode_owned_key, decode_seen, local_key, owned_key,
    split_version, version_rows, versioned_key,
};
use crate::meta::txn::Txn;
use crate::sabotage::{Protection, out};

use super::tree::{Version, VersionTree};

/// The tables whose keys have versions.
pub const TABLES: [Table; 3] = [Table::SubInodes, Table::SubDirents, Table::SubXattrs];

/// Which versions are on the way up of a leaf.
#[derive(Debug)]
pub struct Reach {
    leaves: BTreeSet<Version>,
    /// For how many leaves each is.
    counts: HashMap<Version, u64>,
    /// Children on the way up of a leaf.
    branches: HashMap<Version, Vec<Version>>,
}

impl Reach {
    /// What these leaves reach.
    pub fn of(tree: &VersionTree, leaves: impl IntoIterator<Item = Version>) -> Result<Self> {
        let leaves: BTreeSet<Version> = leaves.into_iter().collect();
        let mut counts: HashMap<Version, u64> = HashMap::new();
        for leaf in &leaves {
            tree.parent(*leaf)?;
            counts.insert(*leaf, 1);
        }
        let mut branches: HashMap<Version, Vec<Version>> = HashMap::new();
        for (version, parent) in tree.upwards() {
            if let (Some(parent), Some(&count)) = (parent, counts.get(&version)) {
                *counts.entry(parent).or_insert(0) += count;
                branches.entry(parent).or_default().push(version);
            }
        }
        Ok(Self { leaves, counts, branches })
    }

    fn count(&self, version: Version) -> u64 {
        self.counts.get(&version).copied().unwrap_or(0)
    }

    fn branches(&self, version: Version) -> &[Version] {
        self.branches.get(&version).map_or(&[], Vec::as_slice)
    }
}

/// What was removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Rows.
    pub rows: u64,
    /// Bytes of files that extents among them referred to.
    pub bytes: u64,
}

/// Rows that one step still may remove.
pub struct Budget(pub usize);

impl Budget {
    fn take(&mut self, rows: usize) {
        self.0 = self.0.saturating_sub(rows);
    }
}

/// One transaction's work.
pub struct Step<'a, 't> {
    /// What is committed, and what this step changes.
    pub txn: &'a mut Txn<'t>,
    /// The tree of the same moment.
    pub tree: &'a VersionTree,
    /// The leaves of the same moment.
    pub reach: &'a Reach,
    /// How much it may do.
    pub budget: Budget,
    /// What it has done.
    pub removed: Removed,
}

/// A row of a key.
struct Standing {
    version: Version,
    value: Option<Vec<u8>>,
    is_seen: bool,
}

impl Step<'_, '_> {
    /// Removes the rows of a key that no leaf sees, and for an inode the contents that none of its rows names. False if
    /// the budget came to its end before.
    fn sweep(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        let (from, to) = (versioned_key(key, Version(0)), versioned_key(key, Version::MAX));
        let mut rows = Vec::new();
        for (whole, stored) in self.txn.rows(table, &from, &to, usize::MAX)? {
            let version = split_version(&whole)?.1;
            self.tree.parent(version)?;
            let value = decode_seen(&stored)?.map(<[u8]>::to_vec);
            rows.push(Standing { version, value, is_seen: false });
        }
        self.look(&mut rows)?;
        let gone: Vec<Version> = rows.iter().filter(|row| !row.is_seen).map(|row| row.version).collect();
        for version in &gone {
            self.txn.apply(table, [(versioned_key(key, *version), None::<&[u8]>)]);
            self.txn.apply(Table::Owned, [(owned_key(*version, table, key), None::<&[u8]>)]);
        }
        self.removed.rows += gone.len() as u64;
        self.budget.take(gone.len() + 1);
        if table != Table::SubInodes {
            return Ok(true);
        }
        let mut named = BTreeSet::new();
        for value in rows.iter().filter(|row| row.is_seen).filter_map(|row| row.value.as_ref()) {
            named.insert(Version(InodeRow::decode(value)?.content));
        }
        let local =
            key.first_chunk::<8>().ok_or_else(|| Error::damaged("the key of an inode is too short"))?;
        self.sweep_contents(u64::from_be_bytes(*local), &named)
    }

    /// Which rows of a key some leaf sees.
    fn look(&self, rows: &mut [Standing]) -> Result<()> {
        let versions: Vec<Version> = rows.iter().map(|row| row.version).collect();
        let mut hidden = vec![0; rows.len()];
        let mut above = Vec::with_capacity(rows.len());
        for (index, version) in versions.iter().enumerate() {
            let next = self.next_above(&versions[index + 1..], *version)?.map(|next| index + 1 + next);
            if let Some(next) = next {
                hidden[next] += self.reach.count(*version);
            }
            above.push(next);
        }
        for index in (0..rows.len()).rev() {
            let is_reached = if hides_from_all() {
                hidden[index] == 0 && self.reach.count(versions[index]) > 0
            } else {
                self.reach.count(versions[index]) > hidden[index]
            };
            // A whiteout below which there is nothing to hide hides nothing.
            let hides = || {
                let mut next = above[index];
                while let Some(at) = next {
                    if rows[at].is_seen {
                        return true;
                    }
                    next = above[at];
                }
                false
            };
            rows[index].is_seen = is_reached && (rows[index].value.is_some() || hides());
        }
        Ok(())
    }

    /// The first of `versions`, which rise, that is above `version`.
    fn next_above(&self, versions: &[Version], version: Version) -> Result<Option<usize>> {
        let mut index = 0;
        while let Some(candidate) = versions.get(index) {
            match self.tree.first_from(version, *candidate)? {
                None => return Ok(None),
                Some(found) if found == *candidate => return Ok(Some(index)),
                Some(found) => index += versions[index..].partition_point(|other| *other < found),
            }
        }
        Ok(None)
    }

    /// Removes extents of contents that are not `named`. What a leaf has of its own may be a copy that is not finished.
    fn sweep_contents(&mut self, local: u64, named: &BTreeSet<Version>) -> Result<bool> {
        let end = content_key(local, Version::MAX);
        let mut from = content_key(local, Version(0)).to_vec();
        while let Some((key, _)) = self.txn.first(Table::SubExtents, &from, &end)? {
            let content = decode_content_key(&key)?.1;
            let next = content_key(local, Version(content.0.saturating_add(1)));
            from = next.to_vec();
            if named.contains(&content) || self.reach.leaves.contains(&content) && !takes_copies() {
                continue;
            }
            let first = content_key(local, content);
            let gone = self.txn.remove_range(Table::SubExtents, &first, &next, self.budget.0.max(1))?;
            for (key, row) in &gone {
                self.removed.bytes += Extent::decode(decode_content_key(key)?.2, row)?.len;
            }
            self.removed.rows += gone.len() as u64;
            self.budget.take(gone.len());
            if self.budget.0 == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes those of `versions` out of the tree that have no rows, no leaf and no more than one child, children first.
    pub fn contract(&mut self, versions: &BTreeSet<Version>) -> Result<()> {
        let mut parents: BTreeMap<Version, Option<Version>> = self.tree.upwards().into_iter().collect();
        let mut children: HashMap<Version, BTreeSet<Version>> = HashMap::new();
        for (version, parent) in &parents {
            if let Some(parent) = parent {
                children.entry(*parent).or_default().insert(*version);
            }
        }
        let mut moved = BTreeSet::new();
        for version in versions {
            let below = children.get(version).cloned().unwrap_or_default();
            if below.len() > 1 || self.reach.leaves.contains(version) || self.has_rows(*version)? {
                continue;
            }
            let missing = || Error::damaged(format!("version {} is missing", version.0));
            let parent = parents.remove(version).ok_or_else(missing)?;
            let beside = parent.map(|parent| children.entry(parent).or_default());
            for child in &below {
                parents.insert(*child, parent);
                moved.insert(*child);
            }
            if let Some(beside) = beside {
                beside.remove(version);
                beside.extend(&below);
            }
            for (key, _) in version_rows(*version, parent) {
                self.txn.apply(Table::Versions, [(key, None::<&[u8]>)]);
            }
        }
        for version in moved {
            // Those that went later have no rows any more.
            let Some(parent) = parents.get(&version) else { continue };
            for (key, row) in version_rows(version, *parent) {
                self.txn.put(Table::Versions, &key, &row);
            }
        }
        Ok(())
    }

    fn has_rows(&self, version: Version) -> Result<bool> {
        let (from, to) = owned_range(version);
        Ok(self.txn.first(Table::Owned, &from, &to)?.is_some_and(|(key, _)| key < to))
    }
}

/// The first and the last key of what a version has.
fn owned_range(version: Version) -> (Vec<u8>, Vec<u8>) {
    let from = version.0.to_be_bytes().to_vec();
    let to = version.0.saturating_add(1).to_be_bytes().to_vec();
    (from, to)
}

/// The reap of dropped leaves: which versions have rows that may have been seen by them alone.
#[derive(Debug)]
pub struct Reap {
    /// Those that may have no rows any more when all is done.
    emptied: BTreeSet<Version>,
    /// Still to be visited, the last one first.
    versions: Vec<Version>,
    /// Where in the rows of that one to go on.
    from: Option<Vec<u8>>,
}

impl Reap {
    /// Of leaves that no subvolume has any more.
    pub fn of(tree: &VersionTree, reach: &Reach, dropped: impl IntoIterator<Item = Version>) -> Result<Self> {
        let (mut visited, mut forks) = (BTreeSet::new(), BTreeSet::new());
        for leaf in dropped {
            let mut at = Some(leaf);
            while let Some(version) = at {
                if reach.count(version) > 0 {
                    forks.insert(version);
                    let mut below = reach.branches(version);
                    while let [only] = below
                        && visited.insert(*only)
                    {
                        below = reach.branches(*only);
                    }
                    break;
                }
                if !visited.insert(version) {
                    break;
                }
                at = tree.parent(version)?;
            }
        }
        let versions = visited.iter().copied().collect();
        forks.append(&mut visited);
        Ok(Self { emptied: forks, versions, from: None })
    }

    /// Those that may have no rows any more when all is done.
    pub fn emptied(&self) -> &BTreeSet<Version> {
        &self.emptied
    }

    /// Goes on; true once all of it was visited.
    pub fn step(&mut self, step: &mut Step<'_, '_>) -> Result<bool> {
        while let Some(version) = self.versions.last().copied() {
            let (first, to) = owned_range(version);
            let from = self.from.take().unwrap_or(first);
            let Some((whole, _)) = step.txn.first(Table::Owned, &from, &to)?.filter(|(key, _)| *key < to)
            else {
                self.versions.pop();
                continue;
            };
            let (_, table, key) = decode_owned_key(&whole)?;
            let whole_key = step.sweep(table, key)?;
            self.from = Some(if whole_key { [&whole[..], &[0]].concat() } else { whole.clone() });
            if step.budget.0 == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A walk over all keys that have versions.
#[derive(Debug)]
pub struct Audit {
    /// Which of [`TABLES`], and after these the extents.
    table: usize,
    from: Vec<u8>,
}

impl Default for Audit {
    fn default() -> Self {
        Self { table: 0, from: local_key(0).to_vec() }
    }
}

impl Audit {
    /// Goes on; true once it has seen everything.
    pub fn step(&mut self, step: &mut Step<'_, '_>) -> Result<bool> {
        let end = [0xff; 9];
        while step.budget.0 > 0 {
            let table = TABLES.get(self.table).copied();
            let found = step.txn.first(table.unwrap_or(Table::SubExtents), &self.from, &end)?;
            let Some((whole, _)) = found else {
                if table.is_none() {
                    return Ok(true);
                }
                *self = Self { table: self.table + 1, ..Self::default() };
                continue;
            };
            if let Some(table) = table {
                let key = split_version(&whole)?.0;
                if step.sweep(table, key)? {
                    self.from = versioned_key(key, Version::MAX);
                }
                continue;
            }
            // Contents of inodes that have no row at all are met here alone.
            let local = decode_content_key(&whole)?.0;
            if step.sweep(Table::SubInodes, &local_key(local))? {
                self.from = local_key(local + 1).to_vec();
            }
        }
        Ok(false)
    }
}

/// Taken out: a key that is deleted leaves no whiteout.
pub(super) fn is_without_whiteouts() -> bool {
    out(Protection::Whiteouts)
}

/// Taken out: a row that any row below it hides is taken for one that nobody sees.
fn hides_from_all() -> bool {
    out(Protection::SeenByOthers)
}

/// Taken out: a copy that is not finished is taken for garbage.
fn takes_copies() -> bool {
    out(Protection::CopiesAreKept)
}
