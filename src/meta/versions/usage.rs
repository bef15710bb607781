//! What each subvolume holds, counted from all rows of inodes.
//!
//! A row adds what it counts to its version, and takes away there what the next row above it counts, which it hides from
//! everybody below. So the sum over the way up of a leaf is what that leaf sees, and the time goes by rows and versions,
//! not by subvolumes times files.

use std::collections::HashMap;

use crate::error::Result;
use crate::meta::rows::InodeRow;

use super::tree::{Version, VersionTree};

/// What an inode counts: one, and its bytes; nothing if it has no name.
pub fn counted(row: &InodeRow) -> (i64, i64) {
    match (row.nlink, row.is_file()) {
        (0, _) => (0, 0),
        (_, true) => (1, row.size as i64),
        (_, false) => (1, 0),
    }
}

/// The sums so far.
#[derive(Debug)]
pub struct Recount<'a> {
    tree: &'a VersionTree,
    at: HashMap<Version, (i64, i64)>,
    /// The inode whose rows come in, and what each of them counts.
    local: u64,
    rows: Vec<(Version, (i64, i64))>,
}

impl<'a> Recount<'a> {
    /// Nothing yet.
    pub fn new(tree: &'a VersionTree) -> Self {
        Self { tree, at: HashMap::new(), local: 0, rows: Vec::new() }
    }

    /// Takes in a row; those of one inode come one after the other, by rising versions. `None` is a whiteout.
    pub fn add(&mut self, local: u64, version: Version, row: Option<&InodeRow>) -> Result<()> {
        if self.local != local {
            self.end_inode()?;
            self.local = local;
        }
        self.rows.push((version, row.map_or((0, 0), counted)));
        Ok(())
    }

    fn end_inode(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        for (index, (version, own)) in rows.iter().enumerate() {
            let mut hidden = (0, 0);
            for (above, of_it) in &rows[index + 1..] {
                if self.tree.is_above(*above, *version)? {
                    hidden = *of_it;
                    break;
                }
            }
            let sum = self.at.entry(*version).or_default();
            *sum = (sum.0 + own.0 - hidden.0, sum.1 + own.1 - hidden.1);
        }
        Ok(())
    }

    /// Files and bytes at each version, the root of its subvolume left out.
    pub fn finish(mut self) -> Result<HashMap<Version, (u64, u64)>> {
        self.end_inode()?;
        let tree = self.tree;
        let mut sums: HashMap<Version, (i64, i64)> = HashMap::new();
        for (version, parent) in tree.upwards().into_iter().rev() {
            let above = parent.and_then(|parent| sums.get(&parent)).copied().unwrap_or_default();
            let own = self.at.get(&version).copied().unwrap_or_default();
            sums.insert(version, (above.0 + own.0, above.1 + own.1));
        }
        let plain = |(files, bytes): (i64, i64)| ((files - 1).max(0) as u64, bytes.max(0) as u64);
        Ok(sums.into_iter().map(|(version, sum)| (version, plain(sum))).collect())
    }
}
