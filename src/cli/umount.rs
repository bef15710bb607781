//! `cairnfs umount`, also what umount(8) calls: returns only when the store is closed and everything is durable.
//!
//! umount(2) does not wait for a FUSE daemon. So before unmounting, the daemon is asked to tell how the closing of the
//! store went. Where it cannot be asked, the store's lock is waited for, which is given up last.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::args::UmountArgs;
use super::show;
use crate::control::{Client, closed_in_order};
use crate::error::{Error, Result};
use crate::fuse::{Detach, Entry, MountTable, detach, real_path};

/// How often the lock is looked at where the daemon cannot be asked.
const LOCK_POLL: Duration = Duration::from_millis(20);

pub(super) fn run(args: &UmountArgs) -> Result<()> {
    let entry = find(&args.path)?;
    let how = match (args.lazy, args.force) {
        (true, _) => Detach::Lazily,
        (false, true) => Detach::Forcibly,
        (false, false) => Detach::Plainly,
    };
    let say = |text: &str| {
        if args.verbose {
            eprintln!("cairnfs: {}: {text}", show(&entry.mountpoint));
        }
    };
    if how == Detach::Lazily {
        detach(&entry.mountpoint, how)?;
        say("detached; the store is closed when nobody uses the mount any more");
        return Ok(());
    }
    let daemon = ask_to_be_told(&entry.source);
    detach(&entry.mountpoint, how)?;
    say("unmounted, waiting for the store to be closed");
    // The same file system mounted in a second place (a bind mount) keeps the daemon: nothing is being closed.
    if MountTable::read()?.has_device(&entry) {
        say("still mounted elsewhere, the store stays open");
        return Ok(());
    }
    match daemon {
        Some(mut daemon) => daemon.closed()?,
        None => {
            wait_for_lock(&entry.source);
            closed_in_order(&entry.source)?;
        }
    }
    say("everything is durable");
    Ok(())
}

/// None if the daemon is gone or may not be asked by this user.
fn ask_to_be_told(store: &Path) -> Option<Client> {
    let mut client = Client::connect(store).ok().flatten()?;
    client.await_close().ok()?;
    Some(client)
}

/// The mount that is meant: at this path, or the only one of the store at this path.
fn find(path: &Path) -> Result<Entry> {
    let table = MountTable::read()?;
    let real = real_path(path).unwrap_or_else(|_| absolute(path));
    if let Some(entry) = table.at(&real) {
        if entry.is_ours() {
            return Ok(entry.clone());
        }
        return Err(Error::Usage(format!(
            "{} is a mount of type {}, not of a cairnfs store; use umount",
            show(path),
            entry.fstype
        )));
    }
    let mounts: Vec<&Entry> = table.of_store(&real).collect();
    match mounts[..] {
        [] => Err(Error::Usage(format!("{} is not mounted", show(path)))),
        [only] => Ok(only.clone()),
        _ => Err(Error::Usage(format!(
            "{} is mounted in {} places; name the one to unmount",
            show(path),
            mounts.len()
        ))),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Waits until nobody holds the store's lock. Where the lock cannot be looked at, there is nothing to wait for: a user
/// who may not see the store could not have mounted it.
fn wait_for_lock(store: &Path) {
    let Ok(lock) = File::open(store.join("lock")) else {
        return;
    };
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)
        == Err(rustix::io::Errno::WOULDBLOCK)
    {
        thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_refused() {
        for (path, said) in [("/proc", "type proc"), ("/nonexistent/place", "is not mounted")] {
            let error = find(Path::new(path)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn the_lock_is_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        wait_for_lock(tmp.path());
        let file = File::create(tmp.path().join("lock")).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        let store = tmp.path().to_owned();
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = thread::spawn(move || {
            wait_for_lock(&store);
            tell.send(()).unwrap();
        });
        assert!(told.try_recv().is_err());
        drop(file);
        told.recv().unwrap();
        waiter.join().unwrap();
    }
}
