//! What the demo backs up: directories that the user names, or a part of /usr of bounded size.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::place::make_writable;
use super::run::Runner;
use crate::cli::show;
use crate::error::{Error, Result};

/// These bound the default selection, so that the demo takes well under two minutes on a small machine.
const MAX_BYTES: u64 = 200 << 20;
const MAX_FILES: u64 = 12_000;

/// One larger directory would leave no room for different kinds of files.
const MAX_BYTES_OF_ONE: u64 = MAX_BYTES / 4;

/// Where the default selection is taken from.
const DEFAULTS: [&str; 3] = ["/usr/lib", "/usr/include", "/usr/share"];

/// Every how many files one is changed between the backups.
const CHANGE_EVERY: usize = 100;

/// One file in so many is deleted between them.
const REMOVED_PART: usize = 4;

/// What will be backed up.
pub(super) struct Tree {
    dirs: Vec<PathBuf>,
    named: bool,
    pub files: u64,
    pub bytes: u64,
}

#[derive(Default, Clone, Copy)]
struct Extent {
    files: u64,
    bytes: u64,
}

/// Chooses what the user named, or directories of /usr up to the bounds.
pub(super) fn choose(named: &[PathBuf]) -> Result<Tree> {
    let mut tree = Tree { dirs: Vec::new(), named: !named.is_empty(), files: 0, bytes: 0 };
    for dir in named {
        let real = fs::canonicalize(dir).map_err(|e| Error::io(format!("looking at {}", show(dir)), e))?;
        if !real.is_dir() {
            return Err(Error::Usage(format!("{} is not a directory", show(dir))));
        }
        tree.add(real, u64::MAX, u64::MAX);
    }
    if named.is_empty() {
        for dir in DEFAULTS.iter().flat_map(|top| subdirectories(Path::new(top))) {
            tree.add(dir, MAX_FILES, MAX_BYTES);
        }
    }
    if tree.files == 0 {
        return Err(Error::Environment(
            "there are no files to back up; name a directory with --source".into(),
        ));
    }
    Ok(tree)
}

impl Tree {
    /// Takes a directory if what it holds stays below the bounds.
    fn add(&mut self, dir: PathBuf, most_files: u64, most_bytes: u64) {
        let room = Extent {
            files: most_files - self.files.min(most_files),
            bytes: (most_bytes - self.bytes.min(most_bytes)).min(if self.named {
                u64::MAX
            } else {
                MAX_BYTES_OF_ONE
            }),
        };
        let mut found = Extent::default();
        if measure(&dir, room, &mut found) && found.files > 0 {
            self.files += found.files;
            self.bytes += found.bytes;
            self.dirs.push(dir);
        }
    }

    /// Where the files come from, for people.
    pub(super) fn title(&self) -> String {
        if self.named {
            let dirs: Vec<_> = self.dirs.iter().map(|d| show(d).to_string()).collect();
            return format!("from {}", dirs.join(", "));
        }
        format!("from {} directories of /usr", self.dirs.len())
    }

    /// Copies everything below `to`, each directory under its full path.
    pub(super) fn copy_to(&self, runner: &Runner, to: &Path) -> Result<()> {
        for group in self.dirs.chunk_by(|a, b| a.parent() == b.parent()) {
            let parent = group[0].parent().unwrap_or(Path::new("/"));
            let inside = parent.strip_prefix("/").unwrap_or(parent);
            let target = to.join(inside);
            fs::create_dir_all(&target).map_err(|e| Error::io(format!("making {}", show(&target)), e))?;
            let mut command = Command::new("cp");
            command.arg("-a").arg("--").args(group).arg(&target);
            let copied = runner.finish(&mut command, &mut || {});
            runner.go_on()?;
            if let Err(e) = copied {
                // A plain user may not be able to read everything; the demo uses the rest.
                eprintln!("cairnfs: {e}; going on with what could be copied");
            }
        }
        make_writable(to);
        Ok(())
    }
}

/// Adds up a tree; false as soon as it is larger than `room` or cannot be read.
fn measure(dir: &Path, room: Extent, found: &mut Extent) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        return false;
    };
    for entry in entries {
        let Ok((entry, meta)) = entry.and_then(|e| e.metadata().map(|m| (e, m))) else {
            return false;
        };
        if meta.is_dir() {
            if !measure(&entry.path(), room, found) {
                return false;
            }
            continue;
        }
        found.files += 1;
        if meta.is_file() {
            found.bytes += meta.size();
        }
        if found.files > room.files || found.bytes > room.bytes {
            return false;
        }
    }
    true
}

/// The subdirectories by name, so that every run on a machine takes the same.
fn subdirectories(top: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    dirs.sort();
    dirs
}

/// What happened to the files between the backups.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changes {
    pub changed: u64,
    pub removed: u64,
}

/// Changes a few files as days of work would. Some grow, some get bytes inserted at their beginning, one is new. The
/// last files, directory by directory, are removed, so that the first snapshot has content of its own.
pub(super) fn change_some(dir: &Path) -> Result<Changes> {
    let mut files = Vec::new();
    regular_files(dir, &mut files).map_err(|e| Error::io(format!("reading {}", show(dir)), e))?;
    files.sort();
    let staying = files.len() - files.len() / REMOVED_PART;
    let mut changes = Changes { changed: 1, removed: 0 };
    for (n, file) in files[..staying].iter().step_by(CHANGE_EVERY).enumerate() {
        let done = if n % 2 == 0 { append(file) } else { put_in_front(file) };
        done.map_err(|e| Error::io(format!("changing {}", show(file)), e))?;
        changes.changed += 1;
    }
    for file in &files[staying..] {
        fs::remove_file(file).map_err(|e| Error::io(format!("removing {}", show(file)), e))?;
        changes.removed += 1;
    }
    let new = dir.join("new-file");
    fs::write(&new, "written between the backups\n")
        .map_err(|e| Error::io(format!("writing {}", show(&new)), e))?;
    Ok(changes)
}

fn append(file: &Path) -> io::Result<()> {
    writable(file)?;
    fs::File::options().append(true).open(file)?.write_all(b"a line more\n")
}

/// All later bytes move; cutting by content handles that.
fn put_in_front(file: &Path) -> io::Result<()> {
    writable(file)?;
    let mut content = b"a line before\n".to_vec();
    content.extend(fs::read(file)?);
    fs::write(file, content)
}

fn writable(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = fs::metadata(file)?.permissions();
    permissions.set_mode(permissions.mode() | 0o600);
    fs::set_permissions(file, permissions)
}

fn regular_files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            regular_files(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_bounded() {
        let tree = choose(&[]).unwrap();
        assert!(tree.files > 0 && tree.files <= MAX_FILES);
        assert!(tree.bytes <= MAX_BYTES);
    }

    #[test]
    fn what_is_named_is_taken_whole_or_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(tmp.path()).unwrap();
        assert_eq!(choose(std::slice::from_ref(&dir)).err().unwrap().exit_code(), 7);
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "12345").unwrap();
        let tree = choose(std::slice::from_ref(&dir)).unwrap();
        assert_eq!((tree.files, tree.bytes), (1, 5));
        let error = choose(&[dir.join("sub/file")]).err().unwrap();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_few_files_are_changed() {
        let tmp = tempfile::tempdir().unwrap();
        for n in 0..250 {
            fs::write(tmp.path().join(format!("{n:03}")), "old\n").unwrap();
        }
        let changes = change_some(tmp.path()).unwrap();
        assert_eq!(changes, Changes { changed: 3, removed: 62 });
        let read = |name: &str| fs::read_to_string(tmp.path().join(name));
        assert_eq!(read("000").unwrap(), "old\na line more\n");
        assert_eq!(read("100").unwrap(), "a line before\nold\n");
        assert_eq!(read("001").unwrap(), "old\n");
        assert_eq!(read("187").unwrap(), "old\n");
        assert!(read("188").is_err());
        assert!(read("new-file").is_ok());
    }
}
