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
use crate::store::{CONFIG_FILE, OpenOptions, Store};

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
    let real = real_path(path).map_err(|e| {
        if e.kind() == io::ErrorKind::NotFound {
            Error::NotAStore(format!("{} does not exist", show(path)))
        } else {
            Error::io(format!("looking at {}", show(path)), e)
        }
    })?;
    // A store that was itself copied into a mount is meant when it is named.
    if real.join(CONFIG_FILE).is_file() {
        return Ok(real);
    }
    let table = MountTable::read()?;
    let entry = match fs::metadata(&real) {
        Ok(meta) => table.ours_by_device(meta.dev()),
        Err(e) if crate::fuse::nobody_answers(&e) => table.at(&real).filter(|e| e.is_ours()),
        Err(e) => return Err(Error::io(format!("looking at {}", show(path)), e)),
    };
    let Some(entry) = entry else {
        return Err(Error::NotAStore(format!(
            "{0} is neither a cairnfs store nor in a mount of one; `cairnfs mkfs` makes a store",
            show(path)
        )));
    };
    if !entry.source.join(CONFIG_FILE).is_file() {
        return Err(Error::NotAStore(format!(
            "{} is in a mount of {}, but that store cannot be seen from here (no permission, or it was moved)",
            show(path),
            show(&entry.source)
        )));
    }
    Ok(entry.source.clone())
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
        }
    }
}
