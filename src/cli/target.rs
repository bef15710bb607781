//! What the PATH of a command means (a store, or a place in a mount of one), and how to reach the store.
//!
//! A mount is asked which process serves it; that answer counts, whatever is at the path of its store by now. An open
//! store is reached through its control socket; a closed one is opened under its lock. For a moment, a daemon holds the
//! lock without listening (it has just started, or is about to end). So both ways are tried in turn for a few seconds
//! before the store counts as in use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::show;
use crate::control::{Client, Presence};
use crate::error::{Error, Result};
use crate::fuse::{Entry, MountAnswer, MountTable, PathInfo, ask};
use crate::sabotage::{Protection, out};
use crate::store::{CONFIG_FILE, OpenOptions, Store, access_error, no_store};

/// How long a daemon may hold the lock without listening.
const LOCK_WAIT_LIMIT: Duration = Duration::from_secs(10);

/// How long one try waits for the lock.
const LOCK_ATTEMPT: Duration = Duration::from_millis(250);

/// How long a mount may take to say which process serves it; that needs no work.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A way to a store.
pub(super) enum Target {
    /// A process has it open and listens.
    Live(Box<Client>),
    /// Nobody had it open; now this process has it open.
    Opened(Arc<Store>),
}

/// What a path means.
pub(super) enum ResolvedPath {
    /// The directory of a store.
    Store(PathBuf),
    /// A place in a mount that this process serves.
    Mount(Entry, Presence),
    /// A place in a mount whose daemon is gone.
    Dead(Entry),
}

/// Finds the store that `path` means and a way to it. `doing` says for others why this process has it open.
pub(super) fn reach(path: &Path, read_only: bool, doing: &str) -> Result<Target> {
    resolve(path)?.reach(read_only, doing)
}

/// The directory of the store that `path` means.
pub(super) fn store_of(path: &Path) -> Result<PathBuf> {
    resolve(path)?.directory()
}

impl ResolvedPath {
    fn is_asked_through_mount(&self) -> bool {
        matches!(self, Self::Mount(..)) && !out(Protection::AskThroughMount)
    }

    /// A way to the store.
    pub(super) fn reach(self, read_only: bool, doing: &str) -> Result<Target> {
        if self.is_asked_through_mount() {
            return Ok(Target::Live(Box::new(self.client()?)));
        }
        let dir = self.directory()?;
        let options = OpenOptions {
            read_only,
            who: format!("cairnfs {doing}"),
            lock_wait: LOCK_ATTEMPT,
            ..OpenOptions::default()
        };
        let begin = Instant::now();
        loop {
            if let Some(client) = Client::connect(&dir)? {
                return Ok(Target::Live(Box::new(client)));
            }
            match Store::open(&dir, &options) {
                Err(Error::Busy(_)) if begin.elapsed() < LOCK_WAIT_LIMIT => {}
                opened => return opened.map(Target::Opened),
            }
        }
    }

    /// The process that has the store open.
    pub(super) fn client(&self) -> Result<Client> {
        if let Self::Mount(entry, presence) = self {
            return Client::of_presence(presence, &entry.source, None)?
                .ok_or_else(|| unreachable(&entry.mountpoint, presence));
        }
        let store = self.directory()?;
        Client::connect(&store)?.ok_or_else(|| {
            Error::Usage(format!(
                "{} is not mounted, so no daemon can run a cycle in the background; leave out --background",
                show(&store)
            ))
        })
    }

    /// The directory of the store.
    fn directory(&self) -> Result<PathBuf> {
        let entry = match self {
            Self::Store(dir) => return Ok(dir.clone()),
            Self::Mount(entry, _) | Self::Dead(entry) => entry,
        };
        if has_store(&entry.source).map_err(|e| access_error(&entry.source, e))? {
            return Ok(entry.source.clone());
        }
        Err(Error::NotAStore(format!(
            "{} is in a mount of {}, but that store cannot be seen from here (it was moved, or another file system is \
             mounted over it)",
            show(&entry.mountpoint),
            show(&entry.source)
        )))
    }
}

/// What `path` means.
pub(super) fn resolve(path: &Path) -> Result<ResolvedPath> {
    let Some(found) = ask(path, ASK_TIMEOUT)? else {
        return Err(Error::Environment(format!(
            "{0} is in a mount whose daemon does not answer (stopped, or its disk hangs); `cairnfs umount \
             -f` unmounts by force",
            show(path)
        )));
    };
    let errno = io::Error::from_raw_os_error;
    // A store that was itself copied into a mount can be named, too.
    if found.store == Ok(true) {
        return Ok(ResolvedPath::Store(found.real()));
    }
    match &found.answer {
        MountAnswer::NotThere(libc::ENOENT) => Err(no_store(path)),
        MountAnswer::NotThere(error) => Err(access_error(path, errno(*error))),
        // A directory that cannot be read may be a store.
        MountAnswer::NotOurs => {
            Err(found.store.err().map_or_else(|| no_store(path), |e| access_error(path, errno(e))))
        }
        MountAnswer::Presence(text) => Ok(ResolvedPath::Mount(mount_of(path, &found)?, presence_in(text)?)),
        MountAnswer::Dead => mount_of(path, &found).map(ResolvedPath::Dead),
        MountAnswer::Refused(_) => {
            let entry = mount_of(path, &found)?;
            let presence = serving_by_source(&entry)?;
            Ok(ResolvedPath::Mount(entry, presence))
        }
    }
}

/// The mount that a path is in.
fn mount_of(path: &Path, found: &PathInfo) -> Result<Entry> {
    let table = MountTable::read()?;
    let real = found.real();
    let above = || real.ancestors().find_map(|dir| table.at(dir));
    let entry = if found.mount == 0 { above().filter(|e| e.is_ours()) } else { table.by_id(found.mount) };
    entry.cloned().ok_or_else(|| access_error(path, io::Error::from_raw_os_error(libc::ENOTCONN)))
}

/// The presence in the answer of a mount.
pub(super) fn presence_in(text: &str) -> Result<Presence> {
    serde_json::from_str(text).map_err(|_| {
        Error::Environment(format!(
            "the daemon of the mount gives an answer that this program does not understand ({}); is it \
             another version? Unmount with `umount -i` and mount again",
            text.trim()
        ))
    })
}

/// Finds the server of a mount that may not be asked: the process that listens in the store's directory, if it confirms
/// that this mount is its own.
pub(super) fn serving_by_source(entry: &Entry) -> Result<Presence> {
    let client = Client::connect(&entry.source)?;
    let presence = client.map(|client| client.presence().clone());
    presence.filter(|presence| presence.mount == Some((entry.major, entry.minor))).ok_or_else(|| {
        Error::Environment(format!(
            "it cannot be found out which process serves {}; run the command as the user who mounted it",
            show(&entry.mountpoint)
        ))
    })
}

/// A daemon that exists but cannot be reached.
pub(super) fn unreachable(mountpoint: &Path, presence: &Presence) -> Error {
    Error::Environment(format!(
        "process {}, which serves {}, cannot be reached from here (it closes the store, or runs in a container with a \
         network of its own); run the command where it runs",
        presence.pid,
        show(mountpoint)
    ))
}

/// Changes that were not durable when a daemon ended are lost, whatever came afterwards.
pub(super) fn ended_in_disorder(store: &Path) -> Error {
    Error::Environment(format!(
        "the process that had {} open ended without closing it (it was killed, or the machine stopped): the \
         last writes that were not synced may be lost; mount it again and check the last writes",
        show(store)
    ))
}

/// Whether there is a store; an error if that cannot be found out.
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
        let error = access_error(Path::new("/srv/store"), denied());
        assert_eq!(error.exit_code(), 7);
        assert!(error.to_string().contains("no permission to look at /srv/store"), "{error}");
        assert_eq!(access_error(Path::new("/x"), io::Error::from_raw_os_error(libc::EIO)).exit_code(), 1);
        // A name that is longer than the host has them fails as any other look does.
        let tmp = tempfile::tempdir().unwrap();
        assert!(has_store(tmp.path()).is_ok_and(|there| !there));
        assert!(has_store(&tmp.path().join("n".repeat(300))).is_err());
    }
}
