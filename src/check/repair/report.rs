//! What a repair found and did, for people and programs.

use serde::{Deserialize, Serialize};

/// The most paths that a report names.
const MAX_NAMES: usize = 1000;

/// How the metadata database was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// Every row of it can be read.
    Whole,
    /// Some of it can be read.
    Damaged,
    /// It cannot be opened.
    Unreadable,
    /// It does not exist, or it is empty.
    #[default]
    Missing,
}

/// Paths, and how many there are in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// As paths from the mount's root; at most 1000.
    pub named: Vec<String>,
    /// All of them.
    pub total: u64,
}

impl Paths {
    pub(super) fn add(&mut self, path: impl FnOnce() -> String) {
        self.total += 1;
        if self.named.len() < MAX_NAMES {
            self.named.push(path());
        }
    }
}

/// The result of a repair, or the expected result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReport {
    /// True if the store was changed.
    pub done: bool,
    /// How the database was found.
    pub database: Database,
    /// Why it could not be opened, or what was the first thing that could not be read.
    pub database_fault: Option<String>,
    /// Commits taken from the log, which are not in the database.
    #[serde(default)]
    pub log_entries: u64,
    /// What is missing of the log, if anything is.
    #[serde(default)]
    pub log_fault: Option<String>,
    /// What stands at the end of the log and is no complete commit: one that nobody was told is durable, or a damaged one.
    #[serde(default)]
    pub log_unfinished: Option<String>,
    /// The metadata backup that was used, by its number; its generation.
    pub backup: Option<(u64, u64)>,
    /// Newer backups that are damaged.
    pub damaged_backups: Vec<String>,
    /// Rows of names and files taken from the database.
    pub rows_from_database: u64,
    /// Rows taken from the backup because the database has lost them.
    pub rows_from_backup: u64,
    /// Rows that are known to be lost.
    pub rows_lost: u64,
    /// Tables of which some pages could not be read; how many rows were there is not known.
    pub tables_with_gaps: Vec<String>,
    /// Packs there are.
    pub packs: u64,
    /// Packs, or parts of them, that cannot be read, each with the reason.
    pub damaged_packs: Paths,
    /// Of these, parts that the host could not read: their bytes may still exist, and the next cycle frees what was
    /// found nowhere else.
    pub unread_parts: u64,
    /// Chunks that are there.
    pub chunks: u64,
    /// Chunks whose places were gone and that were found in other packs.
    pub chunks_found: u64,
    /// Chunks that files need and that are in no pack.
    pub chunks_missing: u64,
    /// Files of which something is missing; they are moved, and their remaining bytes can be read.
    pub hurt_files: Paths,
    /// Of these, files that an earlier repair has moved already, and those in subvolumes, which are not moved.
    pub hurt_before: u64,
    /// Files whose attributes are lost, and inodes that have lost their names; they are moved.
    pub nameless: Paths,
    /// Names whose files are lost.
    pub names_lost: Paths,
    /// Versions whose place in the tree of versions is lost: what subvolumes saw of older ones through them is gone.
    #[serde(default)]
    pub versions_lost: u64,
    /// Directories and files whose counts were set right.
    pub counts_mended: u64,
    /// The directory to which files were moved, if any were.
    pub lost_found: Option<String>,
    /// Where the old database was put aside.
    pub kept_aside: Option<String>,
}

impl RepairReport {
    /// True if there is anything to repair.
    pub fn is_needed(&self) -> bool {
        let moved = self.hurt_files.total + self.nameless.total + self.names_lost.total;
        self.database != Database::Whole
            || self.log_fault.is_some()
            || moved > self.hurt_before
            || self.counts_mended + self.chunks_found + self.versions_lost > 0
    }

    /// True if nothing could be read of the database: what changed after the backup is lost with it.
    pub fn is_without_database(&self) -> bool {
        matches!(self.database, Database::Missing | Database::Unreadable)
    }

    /// True if something could not be saved, as far as that can be known.
    pub fn lost_something(&self) -> bool {
        let lists = [&self.hurt_files, &self.nameless, &self.names_lost];
        self.rows_lost + self.chunks_missing + self.unread_parts + self.versions_lost > 0
            || self.backup.is_none() && (self.is_without_database() || !self.tables_with_gaps.is_empty())
            || self.log_fault.is_some()
            || lists.iter().any(|list| list.total > 0)
    }
}
