//! The demo's own directory: made empty, and removed however the demo ends, but never while something is mounted in it.

use std::cell::Cell;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::run::Runner;
use crate::cli::{show, size::show_size};
use crate::error::{Error, Result};
use crate::fuse::{MountTable, UnmountMode, detach};

/// A directory with the store, the mount point, the files to back up and the restored ones.
pub(super) struct Place {
    dir: PathBuf,
    /// True when `leave` has done what there was to do.
    left: Cell<bool>,
}

impl Place {
    pub(super) fn make(below: Option<&Path>) -> Result<Self> {
        let below = below.map_or_else(env::temp_dir, Path::to_owned);
        let below =
            fs::canonicalize(&below).map_err(|e| Error::io(format!("looking at {}", show(&below)), e))?;
        let dir = below.join(format!("cairnfs-demo-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|e| Error::io(format!("making {}", show(&dir)), e))?;
        let place = Self { dir, left: Cell::new(false) };
        for part in [place.mount(), place.work()] {
            fs::create_dir(&part).map_err(|e| Error::io(format!("making {}", show(&part)), e))?;
        }
        Ok(place)
    }

    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(super) fn mount(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// The files that are backed up.
    pub(super) fn work(&self) -> PathBuf {
        self.dir.join("files")
    }

    pub(super) fn restored(&self) -> PathBuf {
        self.dir.join("restored")
    }

    pub(super) fn must_have_room(&self, bytes: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|e| Error::io(format!("statvfs of {}", show(&self.dir)), e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        Err(Error::Environment(format!(
            "the demo needs {} in {}, and {} are free; name a directory on a larger disk with --dir",
            show_size(bytes),
            show(self.dir.parent().unwrap_or(&self.dir)),
            show_size(free)
        )))
    }

    /// Unmounts what is still mounted and removes the directory, or all of it but the store.
    pub(super) fn leave(&self, runner: &Runner, keep_store: bool) -> Result<()> {
        self.left.set(true);
        self.unmount(runner);
        if !keep_store {
            return self.remove_all();
        }
        for part in [self.mount(), self.work(), self.restored()] {
            remove_tree(&part)?;
        }
        Ok(())
    }

    /// Frees the mount point. A daemon that does not end is left alone.
    fn unmount(&self, runner: &Runner) {
        if !self.is_mounted() {
            return;
        }
        let mount = self.mount();
        if let Err(e) = runner.cairnfs_whatever(&["umount".as_ref(), mount.as_ref()])
            && self.is_mounted()
        {
            eprintln!("cairnfs: {e}");
            if let Err(e) = detach(&mount, UnmountMode::Lazy) {
                eprintln!("cairnfs: {e}");
            }
        }
    }

    /// In doubt, yes.
    fn is_mounted(&self) -> bool {
        MountTable::read().map_or(true, |table| table.at(&self.mount()).is_some())
    }

    fn remove_all(&self) -> Result<()> {
        if self.is_mounted() {
            return Err(Error::Busy(format!(
                "{} is still mounted; unmount it and remove {}",
                show(&self.mount()),
                show(&self.dir)
            )));
        }
        remove_tree(&self.dir)
    }
}

impl Drop for Place {
    /// If `leave` was not called: after an error before the first step, or a panic.
    fn drop(&mut self) {
        if self.left.get() {
            return;
        }
        if self.is_mounted() {
            let _ = detach(&self.mount(), UnmountMode::Lazy);
        }
        if let Err(e) = self.remove_all() {
            eprintln!("cairnfs: {e}");
        }
    }
}

/// Removes a tree of ours, even if a plain user's copy has directories that its owner may not write.
fn remove_tree(dir: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(dir);
            fs::remove_dir_all(dir)
        }
        other => other,
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("removing {}", show(dir)), e)),
        _ => Ok(()),
    }
}

/// Gives the owner all rights on every directory of a tree of ours. Failures show up later, when a right is needed.
pub(super) fn make_writable(dir: &Path) {
    let _ = fs::symlink_metadata(dir).and_then(|meta| {
        let mode = meta.permissions().mode();
        if meta.is_dir() && mode & 0o700 != 0o700 {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o700))?;
        }
        Ok(())
    });
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind() {
        let tmp = tempfile::tempdir().unwrap();
        let place = Place::make(Some(tmp.path())).unwrap();
        let locked = place.work().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
        assert!(place.must_have_room(1).is_ok());
        let error = place.must_have_room(u64::MAX).unwrap_err();
        assert_eq!(error.exit_code(), 7);
        drop(place);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
