//! The requests of the kernel, one method each: convert, call, reply.
//!
//! A file has no handle here. Reads, writes and the rest name the inode, which lives as long as the kernel holds a
//! reference to it, so OPEN and RELEASE carry nothing that is needed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::adapter::Adapter;
use super::answer::{Asked, KEEP, keep};
use super::control_dir::{self, may_create, may_remove, not_ours};
use super::{convert, init, ioctl, xattr};
use crate::error::Error;
use crate::fs::{self, Attr, Caller, SetAttr};

/// The longest copy_file_range in one request: the reply has 32 bits for the length, and the kernel wants pages.
const MAX_COPY: u64 = 0xffff_f000;

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

fn asked(what: &'static str, ino: INodeNo) -> Asked {
    Asked { what, ino }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::negotiate(config, &self.opts);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent.0, name.as_bytes()) {
            // Remembered like a name: creating it goes through the kernel and ends the memory.
            Err(Error::Posix(libc::ENOENT)) => {
                reply.entry(&KEEP, &convert::NOTHING, Generation(0));
            }
            result => asked("lookup", parent).entry(result, reply),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        if control_dir::owns(ino.0) {
            self.control.forget(ino.0, nlookup);
        } else {
            self.fs.forget(ino.0, nlookup);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        asked("getattr", ino).attr(self.getattr_of(ino.0), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::timestamp),
        };
        let result = if control_dir::owns(ino.0) {
            self.control.setattr(ino.0, &set)
        } else {
            self.fs.setattr(ino.0, caller(req), &set)
        };
        asked("setattr", ino).attr(result, reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let result = not_ours(ino.0, libc::EINVAL).and_then(|()| self.fs.readlink(ino.0));
        asked("readlink", ino).data(result, reply);
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = name.as_bytes();
        let result = may_create(parent.0, name)
            .and_then(|()| self.fs.mknod(parent.0, name, caller(req), mode, umask, rdev));
        asked("mknod", parent).entry(result, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let name = name.as_bytes();
        let result =
            may_create(parent.0, name).and_then(|()| self.fs.mkdir(parent.0, name, caller(req), mode, umask));
        asked("mkdir", parent).entry(result, reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.as_bytes(), target.as_os_str().as_bytes());
        let result =
            may_create(parent.0, name).and_then(|()| self.fs.symlink(parent.0, name, caller(req), target));
        asked("symlink", parent).entry(result, reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let newname = newname.as_bytes();
        let result = not_ours(ino.0, libc::EPERM)
            .and_then(|()| may_create(newparent.0, newname))
            .and_then(|()| self.fs.link(ino.0, newparent.0, newname));
        asked("link", ino).entry(result, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        let result = may_remove(parent.0, name).and_then(|()| self.fs.unlink(parent.0, name));
        asked("unlink", parent).empty(result, reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        let result = may_remove(parent.0, name).and_then(|()| self.fs.rmdir(parent.0, name));
        asked("rmdir", parent).empty(result, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        if flags.bits() & !known.bits() != 0 || flags.contains(known) {
            return reply.error(Errno::EINVAL);
        }
        let flags = fs::RenameFlags {
            noreplace: flags.contains(RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
        };
        let (name, newname) = (name.as_bytes(), newname.as_bytes());
        let result = may_remove(parent.0, name)
            .and_then(|()| may_remove(newparent.0, newname))
            .and_then(|()| self.fs.rename(parent.0, name, newparent.0, newname, flags));
        asked("rename", parent).empty(result, reply);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.opened(FopenFlags::FOPEN_KEEP_CACHE, reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.opened(FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.as_bytes();
        let mode = libc::S_IFREG | mode & 0o7777;
        let result = may_create(parent.0, name)
            .and_then(|()| self.fs.mknod(parent.0, name, caller(req), mode, umask, 0));
        match result {
            Ok(attr) => reply.created(
                &KEEP,
                &convert::file_attr(&attr),
                Generation(attr.generation),
                FileHandle(0),
                new_file_flags(flags),
            ),
            Err(error) => reply.error(asked("create", parent).errno(&error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let result = if control_dir::owns(ino.0) {
            self.control.read(ino.0, offset, size)
        } else {
            self.fs.read(ino.0, offset, size)
        };
        asked("read", ino).data(result, reply);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill_priv = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // The flag comes with every write of a plain user. Only where it takes bits away is the kernel told: it would
        // go on with the old mode, since a WRITE changes size and times in its eyes.
        let loses_set_ids = kill_priv && self.set_ids(ino.0) != 0;
        let result = if control_dir::owns(ino.0) {
            self.control.write(ino.0, data)
        } else {
            self.fs.write(ino.0, offset, data, kill_priv)
        };
        if loses_set_ids {
            self.attributes_changed(ino.0);
        }
        asked("write", ino).written(result.map(|()| data.len() as u32), reply);
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.opts.no_open {
            return reply.error(Errno::ENOSYS);
        }
        self.closed(ino);
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.closed(ino);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let result = if control_dir::owns(ino.0) { Ok(()) } else { self.fs.fsync(ino.0) };
        asked("fsync", ino).empty(result, reply);
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut add = |entry: &fs::DirEntry<'_>| {
            let kind = convert::file_type(entry.mode);
            let name = OsStr::from_bytes(entry.name);
            !reply.add(INodeNo(entry.ino), entry.cookie, kind, name)
        };
        let result = if control_dir::owns(ino.0) {
            self.control.readdir(ino.0, offset, &mut add)
        } else {
            self.fs.readdir(ino.0, offset, &mut add)
        };
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(asked("readdir", ino).errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut rows = 0_usize;
        // The kernel takes neither attributes nor a reference for "." and "..", only number and type.
        let mut add = |entry: &fs::DirEntry<'_>, attr: Option<&Attr>| {
            let (generation, keep) = attr.map_or((0, KEEP), |a| (a.generation, keep(a)));
            let attr = attr.map_or_else(|| convert::bare(entry), convert::file_attr);
            let name = OsStr::from_bytes(entry.name);
            let generation = Generation(generation);
            let taken = !reply.add(attr.ino, entry.cookie, name, &keep, &attr, generation);
            rows += usize::from(taken);
            taken
        };
        let result = if control_dir::owns(ino.0) {
            self.control.readdirplus(ino.0, offset, &mut add)
        } else {
            self.fs.readdirplus(ino.0, offset, &mut add)
        };
        match result {
            // Rows that were added before an error carry references: they have to be sent, and the kernel meets the
            // error when it asks for the rest.
            Err(error) if rows == 0 => reply.error(asked("readdirplus", ino).errno(&error)),
            _ => reply.ok(),
        }
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs() {
            Ok(s) => {
                reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize)
            }
            Err(error) => reply.error(asked("statfs", ino).errno(&error)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let name = name.as_bytes();
        let result = xattr::check(name, self.opts.posix_acl)
            .and_then(|()| not_ours(ino.0, libc::EPERM))
            .and_then(|()| self.fs.setxattr(ino.0, name, value, flags));
        asked("setxattr", ino).empty(result, reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes();
        let result = xattr::check(name, self.opts.posix_acl)
            .and_then(|()| not_ours(ino.0, libc::ENODATA))
            .and_then(|()| self.fs.getxattr(ino.0, name));
        xattr::send(asked("getxattr", ino), result, size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let result = if control_dir::owns(ino.0) { Ok(Vec::new()) } else { self.fs.listxattr(ino.0) };
        let result = result.map(|list| xattr::visible(&list, self.opts.posix_acl, req.uid() == 0));
        xattr::send(asked("listxattr", ino), result, size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        let result = match xattr::check(name, self.opts.posix_acl) {
            // `cp -a` clears the ACL of every directory and wants to hear that there is none.
            Err(_) if xattr::is_acl(name) => Err(Error::Posix(libc::ENODATA)),
            Err(error) => Err(error),
            Ok(()) => not_ours(ino.0, libc::ENODATA).and_then(|()| self.fs.removexattr(ino.0, name)),
        };
        asked("removexattr", ino).empty(result, reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let result =
            not_ours(ino.0, libc::ENOTTY).and_then(|()| ioctl::answer(&self.fs, ino.0, cmd, in_data));
        if ioctl::changes(cmd) {
            self.attributes_changed(ino.0);
        }
        match result {
            Ok(data) => reply.ioctl(0, &data),
            Err(error) => reply.error(asked("ioctl", ino).errno(&error)),
        }
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let result = not_ours(ino.0, libc::EPERM)
            .and_then(|()| self.drop_set_ids(ino.0, caller(req)))
            .and_then(|()| self.fs.fallocate(ino.0, offset, length, mode));
        asked("fallocate", ino).empty(result, reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let result = if control_dir::owns(ino.0) {
            self.control.lseek(ino.0, offset, whence)
        } else {
            self.fs.lseek(ino.0, offset, whence)
        };
        let result =
            result.and_then(|offset| i64::try_from(offset).map_err(|_| Error::Posix(libc::EOVERFLOW)));
        match result {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(asked("lseek", ino).errno(&error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // Between our files and the store's the kernel copies by reading and writing after EXDEV.
        let len = len.min(MAX_COPY);
        let result = not_ours(ino_in.0, libc::EXDEV)
            .and_then(|()| not_ours(ino_out.0, libc::EXDEV))
            .and_then(|()| self.drop_set_ids(ino_out.0, caller(req)))
            .and_then(|()| self.fs.copy_file_range(ino_in.0, offset_in, ino_out.0, offset_out, len));
        asked("copy_file_range", ino_out).written(result.map(|copied| copied as u32), reply);
    }
}

/// How the kernel is to treat a file that was just made. Who makes a file to write it whole does not read it back
/// through this descriptor: without the page cache it is copied once less, is not asked for its security.capability
/// first, and a backup does not push everything else out of memory. Later opens use the cache.
fn new_file_flags(flags: i32) -> FopenFlags {
    // With O_SYNC each write has to end with an FSYNC, which the kernel sends only on its way through the page cache.
    let synchronous = flags & (libc::O_SYNC | libc::O_DSYNC) != 0;
    if !synchronous && (flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_EXCL != 0) {
        FopenFlags::FOPEN_DIRECT_IO
    } else {
        FopenFlags::FOPEN_KEEP_CACHE
    }
}
