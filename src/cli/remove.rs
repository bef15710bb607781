//! What `cairnfs rm` did, or would do, for programs.
//!
//! Keeps true: what a subvolume holds is asked before it goes, and is told as not known where nobody could be asked: a
//! user may remove what is his without a right to reach the daemon.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::location::Location;
use super::show;
use crate::check::shown_name;
use crate::error::{Error, Result};
use crate::snapshots::{Answer, Snapshot, Task};

/// The answer of `cairnfs rm --json`.
#[derive(Debug, Serialize)]
pub(super) struct Removal {
    dry_run: bool,
    snapshots: Vec<Removed>,
    error: Option<String>,
    exit_code: u8,
}

/// A subvolume that was removed, or would be.
#[derive(Debug, Serialize)]
struct Removed {
    path: String,
    name: String,
    files: Option<u64>,
    bytes: Option<u64>,
}

/// What is removed, in its order, and what is known of the directories that it is in.
pub(super) struct Removals {
    removed: Vec<Removed>,
    known: HashMap<PathBuf, Vec<Snapshot>>,
}

impl Removals {
    pub(super) fn new() -> Self {
        Self { removed: Vec::new(), known: HashMap::new() }
    }

    /// Removes one, and notes it once it is gone.
    pub(super) fn note(&mut self, path: &Path, remove: impl FnOnce() -> Result<()>) -> Result<()> {
        let name = shown_name(path.file_name().unwrap_or(OsStr::new("")).as_bytes());
        let held = self.held(path, &name);
        remove()?;
        let (files, bytes) = held.unzip();
        self.removed.push(Removed { path: show(path).to_string(), name, files, bytes });
        Ok(())
    }

    /// All of it, and how it ended.
    pub(super) fn finish(self, dry_run: bool, outcome: &Result<()>) -> Removal {
        let error = outcome.as_ref().err();
        Removal {
            dry_run,
            snapshots: self.removed,
            error: error.map(Error::to_string),
            exit_code: error.map_or(0, Error::exit_code),
        }
    }

    /// Files and bytes of a snapshot, if somebody can say so.
    fn held(&mut self, path: &Path, name: &str) -> Option<(u64, u64)> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let all = match self.known.get(parent) {
            Some(all) => all,
            None => self.known.entry(parent.to_owned()).or_insert(in_directory(parent).unwrap_or_default()),
        };
        all.iter().find(|snapshot| snapshot.name == name).map(|snapshot| (snapshot.files, snapshot.bytes))
    }
}

/// The snapshots of a directory itself, which come before those of directories in it.
fn in_directory(dir: &Path) -> Result<Vec<Snapshot>> {
    let answer = Location::find(dir, true, "rm")?.perform(&Task::List)?;
    let Answer::Listing(listing) = answer else { return Ok(Vec::new()) };
    Ok(listing.groups.into_iter().next().map(|group| group.snapshots).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_before_a_failure_is_told_with_it() {
        let mut removals = Removals::new();
        let dir = tempfile::tempdir().unwrap();
        removals.note(&dir.path().join("one"), || Ok(())).unwrap();
        let outcome = removals.note(&dir.path().join("two"), || Err(Error::Usage("no".into())));
        let told = serde_json::to_value(removals.finish(false, &outcome)).unwrap();
        assert_eq!((&told["error"], &told["exit_code"]), (&"no".into(), &2.into()));
        assert_eq!(told["snapshots"].as_array().unwrap().len(), 1);
        let one = &told["snapshots"][0];
        assert_eq!(one["name"], "one");
        assert!(one["files"].is_null() && one["bytes"].is_null(), "nobody could be asked: {one}");
    }
}
