//! `cairnfs umount`, also what umount(8) calls: returns only when the store is closed and everything is durable.
//!
//! umount(2) does not wait for a FUSE daemon. So before unmounting, the daemon is asked to tell how the closing of the
//! store went. Where it cannot be asked, the store's lock is waited for, which is given up last.
//!
//! `-f` is for a daemon that may never answer: the mount is taken away whatever it says, and no wait for it is endless.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::args::UmountArgs;
use super::show;
use crate::control::{Client, closed_in_order, is_silence};
use crate::error::{Error, Result};
use crate::fuse::{Detach, Entry, MountTable, detach, real_path};

/// How often the lock is looked at where the daemon cannot be asked.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// How long `-f` waits for an answer that costs the daemon nothing.
const TO_ANSWER: Duration = Duration::from_secs(5);
/// How long `-f` waits for the store to be closed: what is staged has to be stored first.
const TO_CLOSE: Duration = Duration::from_secs(60);

/// What the daemon says to being asked.
enum Daemon {
    /// It will tell how the closing went.
    Tells(Client),
    /// It is there, but says nothing.
    Silent,
    /// It is gone or may not be asked by this user.
    Unknown,
}

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
    let daemon = ask_to_be_told(&entry.source, args.force);
    detach(&entry.mountpoint, how)?;
    say("unmounted, waiting for the store to be closed");
    // The same file system mounted in a second place (a bind mount) keeps the daemon: nothing is being closed.
    if MountTable::read()?.has_device(&entry) {
        say("still mounted elsewhere, the store stays open");
        return Ok(());
    }
    wait_for_close(&entry.source, daemon, args.force)?;
    say("everything is durable");
    Ok(())
}

fn wait_for_close(store: &Path, daemon: Daemon, force: bool) -> Result<()> {
    let patience = match daemon {
        Daemon::Tells(mut client) => {
            if force {
                client.be_patient(TO_CLOSE)?;
            }
            return client.closed().map_err(|error| if is_silence(&error) { silent(store) } else { error });
        }
        // It had its time.
        Daemon::Silent => Some(Duration::ZERO),
        Daemon::Unknown => force.then_some(TO_CLOSE),
    };
    if wait_for_lock(store, patience) { closed_in_order(store) } else { Err(silent(store)) }
}

fn silent(store: &Path) -> Error {
    Error::Environment(format!(
        "the process that has {} open has not answered: what was written last and not synced may be lost; end that \
         process (`fuser -v {}` shows it) and mount the store again",
        show(store),
        show(&store.join("lock"))
    ))
}

fn ask_to_be_told(store: &Path, force: bool) -> Daemon {
    let asked = Client::connect_within(store, force.then_some(TO_ANSWER)).and_then(|client| {
        let Some(mut client) = client else { return Ok(None) };
        client.await_close().map(|()| Some(client))
    });
    match asked {
        Ok(Some(client)) => Daemon::Tells(client),
        Err(error) if is_silence(&error) => Daemon::Silent,
        Ok(None) | Err(_) => Daemon::Unknown,
    }
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

/// Waits until nobody holds the store's lock; false if it is held for longer than `patience`. Where the lock cannot be
/// looked at, there is nothing to wait for: a user who may not see the store could not have mounted it.
fn wait_for_lock(store: &Path, patience: Option<Duration>) -> bool {
    let begin = Instant::now();
    let Ok(lock) = File::open(store.join("lock")) else {
        return true;
    };
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)
        == Err(rustix::io::Errno::WOULDBLOCK)
    {
        if patience.is_some_and(|patience| begin.elapsed() >= patience) {
            return false;
        }
        thread::sleep(LOCK_POLL);
    }
    true
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
        assert!(wait_for_lock(tmp.path(), None), "there is none");
        let file = File::create(tmp.path().join("lock")).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        assert!(!wait_for_lock(tmp.path(), Some(Duration::ZERO)), "nobody gives it up");
        let store = tmp.path().to_owned();
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = thread::spawn(move || {
            assert!(wait_for_lock(&store, None));
            tell.send(()).unwrap();
        });
        assert!(told.try_recv().is_err());
        drop(file);
        told.recv().unwrap();
        waiter.join().unwrap();
    }
}
