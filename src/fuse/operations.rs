//! What each request means in terms of `Fs`, independent of the transport.
//!
//! Keeps true: the two transports ([`super::requests`] over `/dev/fuse`, [`super::ring`] over io_uring) only convert,
//! so that a mount behaves the same on both. What a request may carry is decided here: both hand over the kernel's
//! numbers as they came.

use fuser::{FopenFlags, WriteFlags};

use super::adapter::Adapter;
use super::control_dir::{self, TRASH_INO, may_create, may_remove, not_ours};
use super::ioctl;
use super::requester::Requester;
use super::xattr::{self, Fitted};
use crate::error::{Error, Result};
use crate::fs::{self, Access, Attr, Caller, DirEntry, NameSpace, SetAttr};

/// The longest copy_file_range in one request: the reply has 32 bits for the length, and the kernel wants pages.
const MAX_COPY: u64 = 0xffff_f000;

/// Takes one name of a listing; false where it has no room left.
pub(super) type AddName<'a> = &'a mut dyn FnMut(&DirEntry<'_>) -> bool;
/// The same with attributes; "." and ".." have none.
pub(super) type AddEntry<'a> = &'a mut dyn FnMut(&DirEntry<'_>, Option<&Attr>) -> bool;

impl Adapter {
    /// `None` for a missing name. The kernel caches it; creating the name goes through the kernel and ends that.
    pub(super) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Attr>> {
        match self.find(parent, name) {
            Err(Error::Posix(libc::ENOENT)) => Ok(None),
            result => result.map(Some),
        }
    }

    pub(super) fn forget(&self, ino: u64, nlookup: u64) {
        if control_dir::owns(ino) {
            self.control.forget(ino, nlookup);
        } else {
            self.fs.forget(ino, nlookup);
        }
    }

    /// The mode may come with the type of the file.
    pub(super) fn setattr(&self, ino: u64, requester: Requester, set: SetAttr) -> Result<Attr> {
        let set = &SetAttr { mode: set.mode.map(|mode| mode & 0o7777), ..set };
        if control_dir::owns(ino) {
            return self.control.setattr(ino, set);
        }
        if requester.caller.uid != 0 && set.takes_set_ids() {
            // The reply tells the kernel.
            self.fs.drop_set_ids(ino, |gid| requester.is_in(gid))?;
        }
        let result = self.fs.setattr(ino, requester.caller, set);
        if result.is_err() && set.size.is_some() {
            // It may be partly truncated.
            self.pages.attributes_changed(ino);
        }
        result
    }

    pub(super) fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        not_ours(ino, libc::EINVAL)?;
        self.fs.readlink(ino)
    }

    pub(super) fn mknod(
        &self,
        parent: u64,
        name: &[u8],
        caller: Caller,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<Attr> {
        may_create(parent, name)?;
        self.fs.mknod(parent, name, caller, mode, umask, rdev)
    }

    pub(super) fn mkdir(
        &self,
        parent: u64,
        name: &[u8],
        caller: Caller,
        mode: u32,
        umask: u32,
    ) -> Result<Attr> {
        may_create(parent, name)?;
        self.before_sealing(parent, None)?;
        self.fs.mkdir(parent, name, caller, mode, umask)
    }

    pub(super) fn symlink(&self, parent: u64, name: &[u8], caller: Caller, target: &[u8]) -> Result<Attr> {
        may_create(parent, name)?;
        self.fs.symlink(parent, name, caller, target)
    }

    pub(super) fn link(&self, ino: u64, newparent: u64, newname: &[u8]) -> Result<Attr> {
        not_ours(ino, libc::EPERM)?;
        may_create(newparent, newname)?;
        self.fs.link(ino, newparent, newname)
    }

    pub(super) fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        may_remove(parent, name)?;
        self.fs.unlink(parent, name)
    }

    pub(super) fn rmdir(&self, parent: u64, name: &[u8], caller: Caller) -> Result<()> {
        may_remove(parent, name)?;
        if let Some(number) = self.fs.rmdir_as(parent, name, caller)? {
            self.pages.drop_names_of(&self.fs, number, None);
        }
        Ok(())
    }

    /// Removes a subvolume that is moved into the trash. The kernel takes the new name for one that exists now, and is
    /// told of that as well.
    fn trash(&self, parent: u64, name: &[u8], newname: &[u8], caller: Caller) -> Result<()> {
        not_ours(parent, libc::EPERM)?;
        if let Some(number) = self.fs.drop_by_name(parent, name, caller)? {
            self.pages.drop_names_of(&self.fs, number, Some((TRASH_INO, newname.to_vec())));
        }
        Ok(())
    }

    /// `flags` are those of renameat2(2).
    pub(super) fn rename(
        &self,
        (parent, name): (u64, &[u8]),
        (newparent, newname): (u64, &[u8]),
        flags: u32,
        caller: Caller,
    ) -> Result<()> {
        let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        if flags & !known != 0 || flags == known {
            return Err(Error::Posix(libc::EINVAL));
        }
        let flags = fs::RenameFlags {
            noreplace: flags & libc::RENAME_NOREPLACE != 0,
            exchange: flags & libc::RENAME_EXCHANGE != 0,
        };
        if newparent == TRASH_INO && !flags.exchange {
            return self.trash(parent, name, newname, caller);
        }
        may_remove(parent, name)?;
        may_remove(newparent, newname)?;
        self.before_sealing(newparent, Some((parent, name)))?;
        self.fs.rename(parent, name, newparent, newname, flags)
    }

    /// A new regular file, and how the kernel is to treat it while it is open.
    pub(super) fn create(
        &self,
        parent: u64,
        name: &[u8],
        caller: Caller,
        mode: u32,
        umask: u32,
    ) -> Result<(Attr, FopenFlags)> {
        let attr = self.mknod(parent, name, caller, libc::S_IFREG | mode & 0o7777, umask, 0)?;
        Ok((attr, FopenFlags::FOPEN_KEEP_CACHE))
    }

    /// `flags` are those of open(2), here and in the next.
    pub(super) fn read(&self, ino: u64, offset: u64, size: u32, flags: i32) -> Result<Vec<u8>> {
        if control_dir::owns(ino) {
            self.control.read(ino, offset, size)
        } else {
            self.fs.read_as(ino, offset, size, access(flags))
        }
    }

    /// The same into a buffer, without a copy between; how many bytes.
    pub(super) fn read_into(&self, ino: u64, offset: u64, out: &mut [u8], flags: i32) -> Result<usize> {
        if !control_dir::owns(ino) {
            return self.fs.read_into(ino, offset, out, access(flags));
        }
        let data = self.control.read(ino, offset, out.len() as u32)?;
        out.get_mut(..data.len()).ok_or(Error::Posix(libc::EIO))?.copy_from_slice(&data);
        Ok(data.len())
    }

    /// Writes all of `data`. Every write of a plain user has the flag for set-id bits. The kernel is notified only if
    /// bits were cleared, since it expects a WRITE to change only size and times and would keep the old mode. If a
    /// write of cached pages is refused, the kernel also drops the pages.
    pub(super) fn write(
        &self,
        ino: u64,
        requester: Requester,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<u32> {
        let kill_priv = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let write = || {
            if control_dir::owns(ino) {
                return self.control.write(ino, data);
            }
            if kill_priv {
                self.take_set_ids(ino, requester)?;
            }
            self.fs.write(ino, offset, data, kill_priv)
        };
        let result = write();
        if result.is_err() && flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            self.pages.drop_of(ino);
        }
        result.map(|()| data.len() as u32)
    }

    /// A descriptor was closed. If the kernel sends no OPEN, it need not send this either.
    pub(super) fn flush(&self, ino: u64) -> Result<()> {
        self.needs_opening()?;
        self.closed(ino);
        Ok(())
    }

    /// `data_only` is that of fdatasync(2).
    pub(super) fn fsync(&self, ino: u64, data_only: bool) -> Result<()> {
        match data_only {
            _ if control_dir::owns(ino) => Ok(()),
            true => self.fs.fdatasync(ino),
            false => self.fs.fsync(ino),
        }
    }

    pub(super) fn readdir(&self, ino: u64, cookie: u64, add: AddName<'_>) -> Result<()> {
        if control_dir::owns(ino) {
            self.control.readdir(ino, cookie, add)
        } else {
            self.fs.readdir(ino, cookie, add)
        }
    }

    /// Rows that were added before an error carry references, so they have to be sent; the kernel gets the error when
    /// it asks for the rest.
    pub(super) fn readdirplus(&self, ino: u64, cookie: u64, add: AddEntry<'_>) -> Result<()> {
        let mut rows = 0_usize;
        let mut counted = |entry: &DirEntry<'_>, attr: Option<&Attr>| {
            let taken = add(entry, attr);
            rows += usize::from(taken);
            taken
        };
        let result = if control_dir::owns(ino) {
            self.control.readdirplus(ino, cookie, &mut counted)
        } else {
            self.fs.readdirplus(ino, cookie, &mut counted)
        };
        if rows > 0 { Ok(()) } else { result }
    }

    pub(super) fn setxattr(
        &self,
        ino: u64,
        requester: Requester,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        match name {
            name if name == xattr::CLONE.as_bytes() => return self.wish_clone(ino, requester.caller, value),
            name if name == xattr::DROP.as_bytes() => return self.wish_drop(requester.caller, value),
            _ => {}
        }
        xattr::check(name, self.opts.posix_acl)?;
        if xattr::setting(name).is_some() {
            return Err(Error::Posix(libc::EPERM));
        }
        not_ours(ino, libc::EPERM)?;
        // The kernel asks for the attributes again after it has set an ACL.
        self.fs.setxattr(ino, name, value, flags, |gid| requester.is_in(gid))
    }

    /// `size` is the room that the caller has, 0 where it asks for the size; here and in the next.
    fn wish_clone(&self, source: u64, caller: Caller, value: &[u8]) -> Result<()> {
        let (sign, parent, name) = xattr::clone_wish(value)?;
        for ino in [parent, source] {
            not_ours(ino, libc::EINVAL)?;
        }
        if sign == Some(b'-') {
            self.fs.forget_wish(parent, name, caller);
            return Ok(());
        }
        match sign {
            Some(b'!') => self.fs.wish_read_only(parent, name, source, caller),
            _ => self.fs.wish_clone(parent, name, source, caller),
        }
    }

    fn wish_drop(&self, caller: Caller, value: &[u8]) -> Result<()> {
        let (sign, root) = xattr::drop_wish(value)?;
        not_ours(root, libc::EINVAL)?;
        self.fs.check_drop(root, caller)?;
        match sign {
            None => self.fs.allow_drop(root, caller)?,
            Some(b'-') => self.fs.forbid_drop(root),
            Some(_) => {}
        }
        Ok(())
    }

    pub(super) fn getxattr(&self, ino: u64, caller: Caller, name: &[u8], size: u32) -> Result<Fitted> {
        if name == xattr::PRESENCE {
            return xattr::fit(self.control.presence(caller)?, size);
        }
        if let Some(setting) = xattr::setting(name) {
            not_ours(ino, libc::ENODATA)?;
            let found = self.fs.setting(ino, setting)?.ok_or(Error::Posix(libc::ENODATA))?;
            return xattr::fit(found.value.into_bytes(), size);
        }
        xattr::check(name, self.opts.posix_acl)?;
        not_ours(ino, libc::ENODATA)?;
        xattr::fit(self.fs.getxattr(ino, name)?, size)
    }

    pub(super) fn listxattr(&self, ino: u64, caller: Caller, size: u32) -> Result<Fitted> {
        let list = if control_dir::owns(ino) { Vec::new() } else { self.fs.listxattr(ino)? };
        xattr::fit(xattr::visible(&list, self.opts.posix_acl, caller.uid == 0), size)
    }

    pub(super) fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        match xattr::check(name, self.opts.posix_acl) {
            // `cp -a` removes the ACL of every directory and expects the answer that there is none.
            Err(_) if NameSpace::of(name) == Some(NameSpace::Acl) => Err(Error::Posix(libc::ENODATA)),
            Err(error) => Err(error),
            Ok(()) => not_ours(ino, libc::ENODATA).and_then(|()| self.fs.removexattr(ino, name)),
        }
    }

    pub(super) fn ioctl(&self, ino: u64, caller: Caller, command: u32, input: &[u8]) -> Result<Vec<u8>> {
        not_ours(ino, libc::ENOTTY)?;
        if ioctl::protects(command, input) {
            self.write_out(ino)?;
        }
        let result = ioctl::answer(&self.fs, ino, caller, command, input);
        if ioctl::changes(command) {
            self.pages.attributes_changed(ino);
        }
        result
    }

    pub(super) fn fallocate(
        &self,
        ino: u64,
        requester: Requester,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<()> {
        not_ours(ino, libc::EPERM)?;
        self.drop_set_ids(ino, requester)?;
        let result = self.fs.fallocate(ino, offset, len, mode);
        if result.as_ref().is_err_and(|error| !matches!(error, Error::Posix(_))) {
            // Part of the hole may have been made.
            self.pages.drop_of(ino);
        }
        result
    }

    pub(super) fn lseek(&self, ino: u64, offset: i64, whence: i32) -> Result<i64> {
        let offset = if control_dir::owns(ino) {
            self.control.lseek(ino, offset, whence)
        } else {
            self.fs.lseek(ino, offset, whence)
        }?;
        i64::try_from(offset).map_err(|_| Error::Posix(libc::EOVERFLOW))
    }

    /// Between our files and the store's the kernel copies by reading and writing after EXDEV.
    pub(super) fn copy_file_range(
        &self,
        requester: Requester,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
    ) -> Result<u32> {
        if control_dir::owns(from.0) && control_dir::owns(to.0) {
            // Only the daemon's own first request does this; after EXDEV the kernel would write.
            return Err(Error::Posix(libc::EINVAL));
        }
        // Between our files and the store's the kernel copies by reading and writing after EXDEV.
        not_ours(from.0, libc::EXDEV)?;
        not_ours(to.0, libc::EXDEV)?;
        self.drop_set_ids(to.0, requester)?;
        let copied = self.fs.copy_file_range(from.0, from.1, to.0, to.1, len.min(MAX_COPY))?;
        Ok(copied as u32)
    }
}

/// Whether a read through a descriptor with these flags counts as an access.
fn access(flags: i32) -> Access {
    if flags & libc::O_NOATIME != 0 { Access::Unnoticed } else { Access::Counts }
}
