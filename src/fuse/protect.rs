//! The kernel's cached pages of files that are or will be protected.
//!
//! A page that a program changed (with the writeback cache, or through mapped memory) arrives as a WRITE at some later
//! time. So before chattr(1) is answered, and before a new subvolume seals its neighbour, the kernel has to write out
//! its pages of these files; acknowledged writes are kept. Pages that change later are refused when they arrive, and
//! the kernel drops them, so that nobody goes on reading bytes that the store does not have.
//!
//! For both, the kernel sends WRITE requests, and a thread must be free to take them. Over `/dev/fuse`, a separate
//! thread waits for the kernel. Over io_uring each queue has at least two threads, so one thread of all may wait;
//! others get EBUSY meanwhile.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::sabotage::{Protection, out};

/// What the kernel holds of files, and the way to tell it what a reply cannot say.
#[derive(Debug, Default)]
pub(super) struct Pages {
    kernel: Kernel,
    /// Held while waiting for pages to be written out.
    writing_out: Mutex<()>,
    /// Inodes whose pages have to be dropped. While there are any, one thread does so.
    stale: Arc<Mutex<HashSet<u64>>>,
}

/// Filled before the first request is taken.
type Kernel = Arc<OnceLock<Notifier>>;

impl Pages {
    /// This is the way to the kernel.
    pub(super) fn set_kernel(&self, kernel: Notifier) {
        // It was empty: each adapter begins one session.
        let _ = self.kernel.set(kernel);
    }

    /// Makes the kernel ask again for attributes that a request changed although its reply has none. A negative offset
    /// keeps the pages, and then the kernel takes no lock that a request could hold.
    pub(super) fn attributes_changed(&self, ino: u64) {
        if let Some(kernel) = self.kernel.get()
            && let Err(error) = kernel.inval_inode(INodeNo(ino), -1, 0)
        {
            tracing::debug!(ino, "telling the kernel of changed attributes: {error}");
        }
    }

    /// Waits until the kernel has written out what it holds of `files`. Where this is `one_only`, EBUSY while another
    /// one waits.
    pub(super) fn write_out(&self, one_only: bool, files: impl FnOnce() -> Result<Vec<u64>>) -> Result<()> {
        if !is_written_out_first() {
            return Ok(());
        }
        let _one = if one_only {
            self.writing_out.try_lock().ok_or(Error::Posix(libc::EBUSY))?
        } else {
            self.writing_out.lock()
        };
        for file in files()? {
            drop_pages(&self.kernel, file);
        }
        Ok(())
    }

    /// Makes the kernel drop the pages of a file that have a change which was refused here. Does not wait for it.
    pub(super) fn drop_of(&self, ino: u64) {
        let is_first = {
            let mut stale = self.stale.lock();
            let is_first = stale.is_empty();
            stale.insert(ino);
            is_first
        };
        if is_first {
            let (stale, kernel) = (Arc::clone(&self.stale), Arc::clone(&self.kernel));
            start("cairn-drop", move || {
                // An inode stays in the set until it is done, so that no second thread is started for it.
                while let Some(ino) = next_of(&stale) {
                    drop_pages(&kernel, ino);
                    stale.lock().remove(&ino);
                }
            });
        }
    }

    /// Makes the kernel drop the names that it has cached in a subvolume which was dropped, and this one, which it thinks
    /// there is. Does not wait for it: the kernel takes locks for that which a request may hold.
    pub(super) fn drop_names_of(&self, fs: &Arc<Fs>, number: u64, of_it: Option<(u64, Vec<u8>)>) {
        let (fs, kernel) = (Arc::clone(fs), Arc::clone(&self.kernel));
        start("cairn-drop", move || {
            let Some(kernel) = kernel.get() else { return };
            for (parent, name) in of_it.into_iter().chain(fs.remembered_names(number)) {
                if let Err(error) = kernel.inval_entry(INodeNo(parent), OsStr::from_bytes(&name)) {
                    // It has no such name, or forgets it right now.
                    tracing::debug!(parent, "having the kernel drop a name: {error}");
                }
            }
        });
    }
}

fn is_written_out_first() -> bool {
    !out(Protection::FlushBeforeProtect)
}

fn next_of(stale: &Mutex<HashSet<u64>>) -> Option<u64> {
    stale.lock().iter().next().copied()
}

/// Starts a thread; if there can be none, `work` is dropped with all it holds.
pub(super) fn start(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::error!("starting a thread: {error}");
    }
}

/// Has the kernel write out all that it holds of the mount that `file` is in, and waits for that. Asked of a mount of
/// this process it would wait for itself.
///
/// Pages whose file is protected are refused, and are gone then: whoever changed them was told. The kernel tells of it
/// once more, with EPERM, to whoever asks first, and not again; every other failure concerns bytes that are still to be
/// kept.
pub fn write_out_all(file: &File) -> io::Result<()> {
    match rustix::fs::syncfs(file) {
        Err(Errno::PERM) => Ok(rustix::fs::syncfs(file)?),
        done => Ok(done?),
    }
}

/// The kernel writes changed pages out, waits for that, and drops all.
fn drop_pages(kernel: &Kernel, ino: u64) {
    if let Some(kernel) = kernel.get()
        && let Err(error) = kernel.inval_inode(INodeNo(ino), 0, 0)
    {
        // If the kernel has forgotten the inode meanwhile, it has no pages.
        tracing::debug!(ino, "having the kernel drop pages: {error}");
    }
}
