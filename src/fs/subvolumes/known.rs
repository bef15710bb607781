//! What is known of subvolumes without looking into them.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::meta::Table;
use crate::meta::rows::{Timestamp, UsageRow, id_key};
use crate::meta::versions::subvolumes::{public_ino, read_rows, subvolume_of};

use super::super::Fs;
use super::super::names::is_root;

/// No directory is deeper than this; beyond it there is a cycle.
const MAX_DEPTH: usize = 1 << 16;

/// A subvolume that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its number.
    pub number: u64,
    /// The inode of its root.
    pub root: u64,
    /// The directory that has its name.
    pub parent: u64,
    /// Its name there.
    pub name: Vec<u8>,
    /// The number of the one that it was cloned from, which may be gone; 0 if it was none.
    pub source: u64,
    /// When it was made.
    pub born: Timestamp,
    /// When somebody said that it is complete.
    pub sealed: Option<Timestamp>,
    /// What it holds.
    pub usage: UsageRow,
    /// Nothing in it can be changed.
    pub is_protected: bool,
}

/// Why a subvolume that was removed is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// The kernel remembers inodes of it: this many.
    Kernel(u64),
    /// A batch that may have rows of it is not durable yet.
    Batch,
    /// Nothing: it is being reaped, or is about to be.
    Nothing,
}

/// A subvolume that was removed and is not reaped yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedInfo {
    /// Its number.
    pub number: u64,
    /// The name that it had; none if it was removed before the store was opened.
    pub name: Option<Vec<u8>>,
    /// Why it is still there.
    pub held_by: HeldBy,
}

impl Fs {
    /// The subvolumes that were removed and are not reaped yet, by their numbers.
    pub fn dropped_subvolumes(&self) -> Vec<DroppedInfo> {
        let mut all = self.dropped.all();
        if all.is_empty() {
            return Vec::new();
        }
        all.sort_unstable();
        let mut remembered: HashMap<u64, u64> = HashMap::new();
        for ino in self.inodes.remembered() {
            *remembered.entry(subvolume_of(ino)).or_default() += 1;
        }
        let durable = self.store.batches.last_durable_number();
        let info = |(number, since): (u64, Option<u64>)| {
            let held_by = match (remembered.get(&number), since) {
                (Some(inodes), _) => HeldBy::Kernel(*inodes),
                (None, Some(batch)) if batch <= durable => HeldBy::Nothing,
                (None, _) => HeldBy::Batch,
            };
            DroppedInfo { number, name: self.dropped.name(number), held_by }
        };
        all.into_iter().map(info).collect()
    }

    /// All subvolumes that have a name. What was changed before this is called is counted.
    pub fn subvolumes(&self) -> Result<Vec<SubvolumeInfo>> {
        if self.store.batches.writable().is_ok() {
            self.store.commits.commit()?;
        }
        let layers = self.layers();
        let mut all = Vec::new();
        for (number, row) in read_rows(&*layers)? {
            if row.dropped || row.name.is_empty() {
                continue;
            }
            let root = public_ino(number, row.root);
            all.push(SubvolumeInfo {
                number,
                root,
                parent: row.parent,
                name: row.name,
                source: row.source,
                born: row.born,
                sealed: row.sealed,
                usage: self.usage(number)?,
                is_protected: self.is_protected(root),
            });
        }
        Ok(all)
    }

    /// What a subvolume holds, as far as it is committed.
    pub(in crate::fs) fn usage(&self, number: u64) -> Result<UsageRow> {
        let row = self.layers().get(Table::Usage, &id_key(number))?;
        let missing = || Error::damaged(format!("what subvolume {number} holds is missing"));
        UsageRow::decode(&row.ok_or_else(missing)?)
    }

    /// Is a directory outside all subvolumes at or below another one?
    pub fn is_below(&self, dir: u64, above: u64) -> Result<bool> {
        Ok(self.on_the_way_up(dir, |at, _| Ok((at == above).then_some(())))?.is_some())
    }

    /// Calls `look` with each directory from `dir` up to the root, and its parent, until it finds something.
    pub(in crate::fs) fn on_the_way_up<T>(
        &self,
        dir: u64,
        mut look: impl FnMut(u64, u64) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut at = dir;
        for _ in 0..MAX_DEPTH {
            let parent = self.inode(at)?.lock().row.parent;
            let found = look(at, parent)?;
            if found.is_some() || is_root(at) {
                return Ok(found);
            }
            at = parent;
        }
        Err(Error::damaged(format!("directory {dir} is in a circle of directories")))
    }
}
