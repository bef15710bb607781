//! What the PATH of a command means: a store, or a place in a mount of one; and how to get at the store.
//!
//! A store that is open is reached through its control socket, one that is not is opened under its lock. Between the
//! two lies a moment in which a daemon holds the lock without listening (it has just started, or is about to end), so
//! both ways are tried in turn for a few seconds before the store counts as in use.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::show;
use crate::control::Client;
use crate::error::{Error, Result};
use crate::fuse::{MountTable, real_path};
use crate::store::{CONFIG_FILE, OpenOptions, Store, cannot_look, no_store};

/// How long a daemon may hold the lock without listening.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one try waits for the lock.
const ONE_TRY: Duration = Duration::from_millis(250);

/// A way to a store.
pub(super) enum Target {
    /// Somebody has it open and listens.
    Live(Client),
    /// Nobody had it open; now this process has, until it is closed.
    Opened(Arc<Store>),
}

/// Finds the store that `path` means and a way to it. `doing` is what others read while this process has it open.
pub(super) fn reach(path: &Path, read_only: bool, doing: &str) -> Result<Target> {
    let dir = store_of(path)?;
    let options = OpenOptions {
        read_only,
        who: format!("cairnfs {doing}"),
        lock_wait: ONE_TRY,
        ..OpenOptions::default()
    };
    let begin = Instant::now();
    loop {
        if let Some(client) = Client::connect(&dir)? {
            return Ok(Target::Live(client));
        }
        match Store::open(&dir, &options) {
            Err(Error::Busy(_)) if begin.elapsed() < PATIENCE => {}
            opened => return opened.map(Target::Opened),
        }
    }
}

/// The directory of the store that `path` means.
pub(super) fn store_of(path: &Path) -> Result<PathBuf> {
    let real = real_path(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => no_store(path),
        _ => cannot_look(path, e),
    })?;
    // A store that was itself copied into a mount is meant when it is named.
    let looked = has_store(&real);
    if matches!(looked, Ok(true)) {
        return Ok(real);
    }
    let table = MountTable::read()?;
    let entry = match fs::metadata(&real) {
        Ok(meta) => table.ours_by_device(meta.dev()),
        Err(e) if crate::fuse::nobody_answers(&e) => table.at(&real).filter(|e| e.is_ours()),
        Err(e) => return Err(cannot_look(path, e)),
    };
    let Some(entry) = entry else {
        // What could not be looked at may well be a store.
        return Err(looked.err().map_or_else(|| no_store(path), |e| cannot_look(path, e)));
    };
    if !has_store(&entry.source).map_err(|e| cannot_look(&entry.source, e))? {
        return Err(Error::NotAStore(format!(
            "{} is in a mount of {}, but that store cannot be seen from here (it was moved, or another file system is \
             mounted over it)",
            show(path),
            show(&entry.source)
        )));
    }
    Ok(entry.source.clone())
}

/// Whether a store is there; an error where that cannot be seen.
fn has_store(dir: &Path) -> io::Result<bool> {
    match fs::metadata(dir.join(CONFIG_FILE)) {
        Ok(meta) => Ok(meta.is_file()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_found_also_through_a_link() {
        let tmp = tempfile::tempdir().unwrap();
        let store = tmp.path().join("store");
        fs::create_dir(&store).unwrap();
        fs::write(store.join(CONFIG_FILE), "").unwrap();
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(&store, &link).unwrap();
        let real = fs::canonicalize(&store).unwrap();
        assert_eq!(store_of(&store).unwrap(), real);
        assert_eq!(store_of(&link).unwrap(), real);
    }

    #[test]
    fn what_is_no_store_is_refused_with_exit_code_3() {
        let tmp = tempfile::tempdir().unwrap();
        for path in [tmp.path().to_owned(), tmp.path().join("nothing")] {
            let error = store_of(&path).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains(path.to_str().unwrap()));
            assert!(error.to_string().contains("that disk is not mounted"), "{error}");
        }
        fs::write(tmp.path().join("something"), "").unwrap();
        let error = store_of(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("is the path right?") && !error.contains("mkfs"), "{error}");
    }

    /// What cannot be looked at is not told as not there, and nobody is advised to make a store in its place.
    #[test]
    fn no_permission_is_not_no_store() {
        let denied = || io::Error::from_raw_os_error(libc::EACCES);
        let error = cannot_look(Path::new("/srv/store"), denied());
        assert_eq!(error.exit_code(), 7);
        assert!(error.to_string().contains("no permission to look at /srv/store"), "{error}");
        assert_eq!(cannot_look(Path::new("/x"), io::Error::from_raw_os_error(libc::EIO)).exit_code(), 1);
        // A name that is longer than the host has them fails as any other look does.
        let tmp = tempfile::tempdir().unwrap();
        assert!(has_store(tmp.path()).is_ok_and(|there| !there));
        assert!(has_store(&tmp.path().join("n".repeat(300))).is_err());
    }
}
