//! What stands between the kernel and `Fs`: the parts of a request's handling that more than one request needs.

use std::sync::{Arc, OnceLock};

use fuser::{FopenFlags, INodeNo, Notifier};

use super::ControlFiles;
use super::asker::Asker;
use super::control_dir::{self, ControlDir};
use super::init::Agreed;
use super::options::MountOptions;
use super::protect::Pages;
use crate::error::{Error, Result};
use crate::fs::{AccessTimes, Attr, Fs, ROOT_INO};

/// What stands between the kernel and `Fs`. Immutable while it runs.
pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) control: ControlDir,
    pub(super) opts: MountOptions,
    /// For what a reply cannot say. Filled before the first request is taken.
    kernel: Arc<OnceLock<Notifier>>,
    /// What was agreed on with the kernel. Filled before the first request is taken.
    agreed: OnceLock<Agreed>,
    /// What the kernel has to give up.
    pub(super) pages: Pages,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, control: Arc<dyn ControlFiles>, opts: &MountOptions) -> Self {
        Self {
            fs,
            control: ControlDir::new(control),
            opts: opts.clone(),
            kernel: Arc::default(),
            agreed: OnceLock::new(),
            pages: Pages::default(),
        }
    }

    /// The beginning of the protocol is over, and this is what came out.
    pub(super) fn agree(&self, agreed: Agreed) {
        // It was empty: each adapter begins one session.
        let _ = self.agreed.set(agreed);
    }

    /// True if the kernel will send its requests over io_uring.
    pub(super) fn rings_agreed(&self) -> bool {
        self.agreed.get().is_some_and(|agreed| agreed.rings)
    }

    /// Where to put the way back to the kernel once there is one.
    pub(super) fn kernel(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.kernel)
    }

    /// Makes the kernel ask again for attributes that a request changed although its reply has none. A negative
    /// offset spares the pages, and without them the kernel takes no lock that a request could hold.
    pub(super) fn attributes_changed(&self, ino: u64) {
        if let Some(kernel) = self.kernel.get()
            && let Err(error) = kernel.inval_inode(INodeNo(ino), -1, 0)
        {
            tracing::debug!(ino, "telling the kernel of changed attributes: {error}");
        }
    }

    pub(super) fn find(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        if control_dir::owns(parent) && name == b".." {
            self.fs.lookup(ROOT_INO, b".")
        } else if control_dir::owns_name(parent, name) {
            self.control.lookup(parent, name)
        } else {
            self.fs.lookup(parent, name)
        }
    }

    pub(super) fn getattr_of(&self, ino: u64) -> Result<Attr> {
        if control_dir::owns(ino) { self.control.getattr(ino) } else { self.fs.getattr(ino) }
    }

    /// The kernel leaves set-id bits to us on every change of content, and says on WRITE whether they have to go.
    /// FALLOCATE and COPY_FILE_RANGE have no such flag: there everybody but root loses them.
    pub(super) fn drop_set_ids(&self, ino: u64, asker: Asker) -> Result<()> {
        if asker.caller.uid == 0 { Ok(()) } else { self.take_set_ids(ino, asker) }
    }

    /// Takes the set-id bits away that `asker` has not the right to keep, and tells the kernel.
    pub(super) fn take_set_ids(&self, ino: u64, asker: Asker) -> Result<()> {
        if self.fs.drop_set_ids(ino, |gid| asker.is_in(gid))? {
            self.attributes_changed(ino);
        }
        Ok(())
    }

    /// Nothing has to be done to open a file or directory, and the kernel may learn that it need not ask. What it has
    /// of the file in its page cache stays: the cache is never passed by, or a write beside a shared mapping of the same
    /// page would be lost with the rest of the page.
    pub(super) fn open(&self) -> Result<()> {
        if self.opts.no_open { Err(Error::Posix(libc::ENOSYS)) } else { Ok(()) }
    }

    /// How the kernel is to treat an open file: its pages stay, unless each opening has to be heard of.
    pub(super) fn file_flags(&self) -> FopenFlags {
        let strict = self.opts.atime == AccessTimes::Always;
        if strict { FopenFlags::empty() } else { FopenFlags::FOPEN_KEEP_CACHE }
    }

    pub(super) fn closed(&self, ino: u64) {
        if !control_dir::owns(ino) {
            self.fs.file_closed(ino);
        }
    }
}
