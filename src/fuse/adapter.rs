//! What stands between the kernel and `Fs`: the parts of a request's handling that more than one request needs.

use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};

use super::ControlFiles;
use super::control_dir::{self, ControlDir};
use super::init::Agreed;
use super::options::MountOptions;
use super::protect::Pages;
use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, Fs, ROOT_INO, SetAttr};

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

    /// The set-id bits of an inode which are lost when somebody without privilege changes its content.
    pub(super) fn set_ids(&self, ino: u64) -> u32 {
        self.fs.getattr(ino).map_or(0, |attr| set_ids(attr.mode))
    }

    /// The kernel leaves set-id bits to us on every change of content, and says on WRITE whether they have to go.
    /// FALLOCATE and COPY_FILE_RANGE have no such flag: there everybody but root loses them.
    pub(super) fn drop_set_ids(&self, ino: u64, caller: Caller) -> Result<()> {
        if caller.uid == 0 {
            return Ok(());
        }
        let mode = self.fs.getattr(ino)?.mode;
        if set_ids(mode) != 0 {
            let set = SetAttr { mode: Some(mode & 0o7777 & !set_ids(mode)), ..SetAttr::default() };
            self.fs.setattr(ino, caller, &set)?;
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

    pub(super) fn closed(&self, ino: u64) {
        if !control_dir::owns(ino) {
            self.fs.file_closed(ino);
        }
    }
}

/// Set-gid without the right to execute for the group once meant mandatory locking, and stays.
fn set_ids(mode: u32) -> u32 {
    let group = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & (libc::S_ISUID | group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_gid_goes_only_with_execute_for_the_group() {
        assert_eq!(set_ids(0o6755), 0o6000);
        assert_eq!(set_ids(0o6745), 0o4000);
        assert_eq!(set_ids(0o1777), 0);
    }
}
