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
#[derive(Debug, Default)]
pub struct Recount {
    at: HashMap<Version, (i64, i64)>,
}

impl Recount {
    /// Takes in all rows of one inode, by rising versions; `None` is a whiteout.
    pub fn add(&mut self, tree: &VersionTree, rows: &[(Version, Option<InodeRow>)]) -> Result<()> {
        let counts = |row: &Option<InodeRow>| row.as_ref().map_or((0, 0), counted);
        for (index, (version, row)) in rows.iter().enumerate() {
            let mut hidden = (0, 0);
            for (above, row) in &rows[index + 1..] {
                if tree.is_above(*above, *version)? {
                    hidden = counts(row);
                    break;
                }
            }
            let (own, sum) = (counts(row), self.at.entry(*version).or_default());
            *sum = (sum.0 + own.0 - hidden.0, sum.1 + own.1 - hidden.1);
        }
        Ok(())
    }

    /// Files and bytes at each version, the root of its subvolume left out.
    pub fn finish(self, tree: &VersionTree) -> HashMap<Version, (u64, u64)> {
        let mut sums: HashMap<Version, (i64, i64)> = HashMap::new();
        for (version, parent) in tree.upwards().into_iter().rev() {
            let above = parent.and_then(|parent| sums.get(&parent)).copied().unwrap_or_default();
            let own = self.at.get(&version).copied().unwrap_or_default();
            sums.insert(version, (above.0 + own.0, above.1 + own.1));
        }
        let plain = |(files, bytes): (i64, i64)| ((files - 1).max(0) as u64, bytes.max(0) as u64);
        sums.into_iter().map(|(version, sum)| (version, plain(sum))).collect()
    }
}
