//! One mount from its beginning to its end.
//!
//! Keeps true: a mount does not outlive its session. The session may end by umount, by an error, or by being dropped
//! before it ran; afterwards nothing of ours is mounted, and nothing else was unmounted.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{Config, INodeNo, SessionACL};

use super::adapter::Adapter;
use super::child_task::ChildTask;
use super::mount::{self, UnmountMode};
use super::mount_table::{Entry, MountTable};
use super::options::MountOptions;
use super::requests::DevFuse;
use super::ring::{self, Rings};
use super::users::is_alive;
use crate::error::{Error, Result};

/// Read-ahead set on the mount: one request of the largest size.
const READ_AHEAD_KB: &str = "1024";

/// A mount that is established; [`Session::run`] serves it.
pub struct Session {
    /// `None` once it runs.
    inner: Option<fuser::Session<DevFuse>>,
    adapter: Arc<Adapter>,
    /// The connection, for requests that come over io_uring.
    connection: OwnedFd,
    notifier: Notifier,
    unmounter: Unmounter,
}

/// Ends a session from another thread.
#[derive(Clone, Debug)]
pub struct Unmounter {
    /// Immutable: the entry of the new mount in the mount table, which identifies it wherever it is.
    entry: Option<Entry>,
    /// Set when the session has ended.
    ended: Arc<AtomicBool>,
}

/// Notifies the kernel of changes by the daemon itself.
///
/// Each call takes the kernel's lock of the directory or inode. Another thread's request may hold that lock while it
/// waits for us. So call this without holding any lock of `Fs`, and never from within a request.
#[derive(Clone, Debug)]
pub struct Notifier(fuser::Notifier);

pub(super) fn start(adapter: Adapter, mountpoint: &Path, opts: &MountOptions) -> Result<Session> {
    let mountpoint = mount::resolve(mountpoint)?;
    // The kernel reads its switch when a connection is made.
    let rings = ring::wanted(opts.io_uring)?;
    let connection = mount::attach(&mountpoint, opts)?;
    let adapter = Arc::new(adapter);
    let entry = entry_at(&mountpoint).filter(|entry| entry.fstype == opts.fstype());
    let unmounter = Unmounter { entry, ended: Arc::new(AtomicBool::new(false)) };
    let mut config = Config::default();
    // With io_uring they have little to do: mostly FORGET.
    config.n_threads = Some(if rings { 1 } else { opts.threads.max(1) });
    // The kernel checks who may use the mount. fuser's own check knows only the owner, and would refuse requests that
    // the kernel makes itself.
    let begun = connection.try_clone().and_then(|kept| {
        let served = DevFuse { adapter: Arc::clone(&adapter), rings };
        fuser::Session::from_fd(served, connection, SessionACL::All, config).map(|inner| (inner, kept))
    });
    match begun {
        Ok((inner, connection)) => {
            adapter.pages.set_kernel(inner.notifier());
            unmounter.raise_read_ahead();
            let notifier = Notifier(inner.notifier());
            Ok(Session { inner: Some(inner), adapter, connection, notifier, unmounter })
        }
        Err(error) => {
            unmounter.clear_away();
            Err(Error::Environment(format!(
                "the kernel did not begin the FUSE protocol: {error}; its log (dmesg) may say why"
            )))
        }
    }
}

fn entry_at(mountpoint: &Path) -> Option<Entry> {
    MountTable::read().ok()?.at(mountpoint).cloned()
}

impl Session {
    /// Serves the mount until it is unmounted.
    pub fn run(mut self) -> Result<()> {
        let Some(inner) = self.inner.take() else {
            return Ok(());
        };
        let rings = match self.start_rings() {
            Ok(rings) => rings,
            Err(error) => {
                self.unmounter.abort();
                return Err(error);
            }
        };
        let result = inner.run();
        self.unmounter.clear_away();
        let result = result.map_err(|error| Error::io("serving the mount", error));
        result.and(rings.map_or(Ok(()), Rings::join))
    }

    fn start_rings(&self) -> Result<Option<Rings>> {
        if !self.adapter.uses_rings() {
            return Ok(None);
        }
        let unmounter = self.unmounter();
        Rings::start(&self.adapter, &self.connection, move || unmounter.abort()).map(Some)
    }

    /// What ends this session.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// What tells the kernel of changes.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.inner.take().is_some() {
            self.unmounter.clear_away();
        }
    }
}

/// The result of an unmount by the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnmountOutcome {
    /// It is unmounted everywhere: the mount has ended, or ends with the last program that uses it.
    Complete,
    /// It is still mounted at these places, over which something else is mounted.
    Covered(Vec<PathBuf>),
}

impl Unmounter {
    /// Every place of this mount in the mount namespace of this process: where it was made, or where it was moved,
    /// bound or renamed to. Empty if it is detached, or if the table of mounts cannot be read.
    pub fn places(&self) -> Vec<Entry> {
        let Some(entry) = self.entry.as_ref().filter(|_| !self.ended.load(Ordering::Acquire)) else {
            return Vec::new();
        };
        let table = MountTable::read().ok();
        let places = table.iter().flat_map(|table| table.places_of(entry));
        // The kernel reuses the number of the device as soon as it is free.
        places.filter(|place| place.source == entry.source).cloned().collect()
    }

    /// True once the session has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.entry.as_ref().is_some_and(|e| is_alive(e) == Some(false))
    }

    /// The entry of the mount: its numbers do not change. `None` if the table of mounts did not show it.
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// Unmounts at every place: as umount(8) does if nobody uses it, otherwise lazily. A child process does it: the end
    /// of a mount waits until the kernel has written out its pages, and so for this process.
    pub fn unmount(&self) -> UnmountOutcome {
        let (mut places, mut left) = (self.places(), Vec::new());
        let how = if places.len() == 1 { ChildTask::Unmount } else { ChildTask::LazyUnmount };
        // The last mount is on top of the earlier ones.
        while let Some(place) = places.pop() {
            if !place.is_visible() {
                left.push(place.mountpoint);
                continue;
            }
            let done = match how.send(&place.mountpoint) {
                Err(Error::Busy(_)) => ChildTask::LazyUnmount.send(&place.mountpoint),
                done => done,
            };
            if let Err(error) = done {
                tracing::error!("{error}");
                left.push(place.mountpoint);
            }
        }
        if left.is_empty() { UnmountOutcome::Complete } else { UnmountOutcome::Covered(left) }
    }

    /// Detaches the mount; it ends when the last program has left it.
    pub fn detach(&self) {
        for place in self.places().iter().rev().filter(|place| place.is_visible()) {
            if let Err(error) = mount::detach(&place.mountpoint, UnmountMode::Lazy) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Unmounts at the end of the session: a mount without a daemon would only hang or fail.
    fn clear_away(&self) {
        self.detach();
        self.ended.store(true, Ordering::Release);
    }

    /// Aborts the connection, so that requests do not wait for an answer that will never come.
    fn abort(&self) {
        if let Some(place) = self.places().iter().find(|place| place.is_visible())
            && let Err(error) = mount::abort(&place.mountpoint)
        {
            tracing::warn!("{error}");
        }
        self.clear_away();
    }

    /// The protocol cannot request more than the kernel's default read-ahead (128 KiB); root can set more.
    fn raise_read_ahead(&self) {
        let Some(Entry { major, minor, .. }) = &self.entry else {
            return;
        };
        let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(error) = fs::write(&file, READ_AHEAD_KB) {
            tracing::debug!("{file}: {error}; read-ahead stays as it is");
        }
    }
}

impl Notifier {
    /// The name may mean something else now, or nothing.
    pub fn inval_entry(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.0
            .inval_entry(INodeNo(parent), OsStr::from_bytes(name))
            .map_err(|error| Error::io("telling the kernel of a changed name", error))
    }

    /// Attributes and content of the inode changed.
    pub fn inval_inode(&self, ino: u64) -> Result<()> {
        self.0
            .inval_inode(INodeNo(ino), 0, 0)
            .map_err(|error| Error::io("telling the kernel of a changed inode", error))
    }

    /// The name was removed, and with it the inode `child`; watchers of the directory hear of it.
    pub fn delete(&self, parent: u64, child: u64, name: &[u8]) -> Result<()> {
        self.0
            .delete(INodeNo(parent), INodeNo(child), OsStr::from_bytes(name))
            .map_err(|error| Error::io("telling the kernel of a removed name", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_mount_is_ours() {
        let unmounter = |entry| Unmounter { entry, ended: Arc::new(AtomicBool::new(false)) };
        let there = entry_at(Path::new("/proc")).unwrap();
        assert!(unmounter(Some(there.clone())).places().contains(&there));
        assert!(unmounter(None).places().is_empty());
        // Another mount has got the number of ours.
        for other in [
            Entry { source: "/srv/store".into(), ..there.clone() },
            Entry { fstype: "fuse.cairnfs".into(), ..there.clone() },
            Entry { minor: there.minor + 1_000_000, ..there.clone() },
        ] {
            assert!(unmounter(Some(other)).places().is_empty());
        }
        let ended = unmounter(Some(there));
        ended.ended.store(true, Ordering::Release);
        assert!(ended.places().is_empty());
    }
}
