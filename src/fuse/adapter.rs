//! The layer between the kernel and `Fs`: the parts of the handling that more than one kind of request needs.

use std::sync::{Arc, OnceLock};

use fuser::FopenFlags;

use super::control_dir::{self, ControlDir, ControlFiles, TRASH_INO};
use super::init::Negotiated;
use super::options::MountOptions;
use super::protect::Pages;
use super::requester::Requester;
use crate::error::{Error, Result};
use crate::fs::{AccessTimes, Attr, Fs, ROOT_INO};

/// The layer between the kernel and `Fs`. Immutable while it runs.
pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) control: ControlDir,
    pub(super) opts: MountOptions,
    /// The result of the negotiation with the kernel. Filled before the first request is taken.
    negotiated: OnceLock<Negotiated>,
    /// What the kernel holds of files.
    pub(super) pages: Pages,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, control: Arc<dyn ControlFiles>, opts: &MountOptions) -> Self {
        Self {
            fs,
            control: ControlDir::new(control),
            opts: opts.clone(),
            negotiated: OnceLock::new(),
            pages: Pages::default(),
        }
    }

    /// Stores the result of the negotiation.
    pub(super) fn set_negotiated(&self, negotiated: Negotiated) {
        // It was empty: each adapter has one session.
        let _ = self.negotiated.set(negotiated);
    }

    /// True if the kernel will send its requests over io_uring.
    pub(super) fn uses_rings(&self) -> bool {
        self.negotiated.get().is_some_and(|negotiated| negotiated.rings)
    }

    pub(super) fn find(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        if parent == TRASH_INO && name == b".." {
            self.control.lookup(ROOT_INO, name)
        } else if control_dir::owns(parent) && name == b".." {
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

    /// The kernel leaves set-id bits to us on every change of content; a flag of WRITE says whether they have to be
    /// cleared. FALLOCATE and COPY_FILE_RANGE have no such flag: there they are cleared for everybody but root.
    pub(super) fn drop_set_ids(&self, ino: u64, requester: Requester) -> Result<()> {
        if requester.caller.uid == 0 { Ok(()) } else { self.take_set_ids(ino, requester) }
    }

    /// Clears the set-id bits that `requester` has no right to keep, and notifies the kernel.
    pub(super) fn take_set_ids(&self, ino: u64, requester: Requester) -> Result<()> {
        if self.fs.drop_set_ids(ino, |gid| requester.is_in(gid))? {
            self.pages.attributes_changed(ino);
        }
        Ok(())
    }

    /// Called before a directory is added to `parent`, which may seal a subvolume there, or the one that is moved there
    /// from this name.
    pub(super) fn before_sealing(&self, parent: u64, moved: Option<(u64, &[u8])>) -> Result<()> {
        if !self.fs.seals(parent) {
            return Ok(());
        }
        self.pages.write_out(self.uses_rings(), || {
            let mut files = self.fs.remembered_of(parent)?;
            if let Some((from, name)) = moved {
                files.extend(self.fs.remembered_at(from, name)?);
            }
            Ok(files)
        })
    }

    /// Waits until the kernel has written out its pages of what `ino` is about to protect.
    pub(super) fn write_out(&self, ino: u64) -> Result<()> {
        self.pages.write_out(self.uses_rings(), || self.fs.remembered_of(ino))
    }

    /// Nothing has to be done to open a file or directory, and the kernel may learn that it need not ask.
    pub(super) fn needs_opening(&self) -> Result<()> {
        if self.opts.no_open { Err(Error::Posix(libc::ENOSYS)) } else { Ok(()) }
    }

    /// The flags of an open file: its cached pages stay, unless the daemon has to learn of each open. The page cache is
    /// never passed by, or a write beside a shared mapping of the same page would be lost with the rest of the page.
    pub(super) fn open(&self) -> Result<FopenFlags> {
        self.needs_opening()?;
        let strict = self.opts.atime == AccessTimes::Always;
        Ok(if strict { FopenFlags::empty() } else { FopenFlags::FOPEN_KEEP_CACHE })
    }

    /// The same for a directory.
    pub(super) fn opendir(&self) -> Result<FopenFlags> {
        self.needs_opening()?;
        Ok(FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR)
    }

    pub(super) fn closed(&self, ino: u64) {
        if !control_dir::owns(ino) {
            self.fs.file_closed(ino);
        }
    }
}
