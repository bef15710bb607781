//! The requests that come over `/dev/fuse`, one method each: convert, call, reply.
//!
//! A file has no handle here. Reads, writes and the rest name the inode, which lives as long as the kernel holds a
//! reference to it, so OPEN and RELEASE carry nothing that is needed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::adapter::Adapter;
use super::answer::{Asked, KEEP, in_any_case, keep};
use super::asker::Asker;
use super::{convert, init, ioctl, protect, xattr};
use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, DirEntry, SetAttr};

/// The adapter as fuser calls it.
pub(super) struct DevFuse {
    pub adapter: Arc<Adapter>,
    /// Requests can be taken over io_uring as well; then only forgetting and a few others come here.
    pub rings: bool,
}

impl DevFuse {
    /// Handles a request; EIO if that panics.
    fn ask<R>(&self, handle: impl FnOnce(&Adapter) -> Result<R>) -> Result<R> {
        in_any_case(|| handle(&self.adapter), Error::Posix(libc::EIO))
    }

    /// As [`seals`](crate::fs::Fs::seals); in doubt it does.
    fn seals(&self, directory: u64) -> bool {
        self.ask(|adapter| Ok(adapter.fs.seals(directory))).unwrap_or(true)
    }

    /// Does `work` here, or where it waits for requests that come here, in a thread of its own. A reply that it holds
    /// is an error if there can be none.
    fn apart_if(&self, waits: bool, work: impl FnOnce(&Adapter) + Send + 'static) {
        if waits {
            let adapter = Arc::clone(&self.adapter);
            protect::start("cairn-protect", move || work(&adapter));
        } else {
            // A reply that it held when it panicked has said EIO.
            let _ = self.ask(|adapter| {
                work(adapter);
                Ok(())
            });
        }
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

fn asker(req: &Request) -> Asker {
    Asker { caller: caller(req), pid: req.pid() }
}

fn asked(what: &'static str, ino: INodeNo) -> Asked {
    Asked { what, ino: ino.0 }
}

impl DevFuse {
    /// Flags of an open file or directory: what the kernel has cached stays good.
    fn opened(&self, flags: FopenFlags, reply: ReplyOpen) {
        match self.ask(|adapter| adapter.open()) {
            Ok(()) => reply.opened(FileHandle(0), flags),
            Err(error) => reply.error(Errno::from_i32(error.errno())),
        }
    }
}

impl Filesystem for DevFuse {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = init::negotiate(config, &self.adapter.opts, self.rings);
        self.adapter.agree(agreed);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.ask(|adapter| adapter.lookup(parent.0, name.as_bytes())) {
            Ok(None) => reply.entry(&KEEP, &convert::NOTHING, Generation(0)),
            Ok(Some(attr)) => asked("lookup", parent).entry(Ok(attr), reply),
            Err(error) => asked("lookup", parent).entry(Err(error), reply),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        // There is no answer to it.
        let _ = self.ask(|adapter| {
            adapter.forget(ino.0, nlookup);
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        asked("getattr", ino).attr(self.ask(|adapter| adapter.getattr_of(ino.0)), reply);
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
        asked("setattr", ino).attr(self.ask(|adapter| adapter.setattr(ino.0, asker(req), &set)), reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        asked("readlink", ino).data(self.ask(|adapter| adapter.readlink(ino.0)), reply);
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
        let result =
            self.ask(|adapter| adapter.mknod(parent.0, name.as_bytes(), caller(req), mode, umask, rdev));
        asked("mknod", parent).entry(result, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, caller) = (name.to_owned(), caller(req));
        self.apart_if(self.seals(parent.0), move |adapter| {
            let result = adapter.mkdir(parent.0, name.as_bytes(), caller, mode, umask);
            asked("mkdir", parent).entry(result, reply);
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.as_bytes(), target.as_os_str().as_bytes());
        asked("symlink", parent)
            .entry(self.ask(|adapter| adapter.symlink(parent.0, name, caller(req), target)), reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        asked("link", ino)
            .entry(self.ask(|adapter| adapter.link(ino.0, newparent.0, newname.as_bytes())), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        asked("unlink", parent).empty(self.ask(|adapter| adapter.unlink(parent.0, name.as_bytes())), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        asked("rmdir", parent).empty(self.ask(|adapter| adapter.rmdir(parent.0, name.as_bytes())), reply);
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
        let (name, newname) = (name.to_owned(), newname.to_owned());
        self.apart_if(self.seals(newparent.0), move |adapter| {
            let (name, newname) = (name.as_bytes(), newname.as_bytes());
            let result = adapter.rename(parent.0, name, newparent.0, newname, flags.bits());
            asked("rename", parent).empty(result, reply);
        });
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.opened(self.adapter.file_flags(), reply);
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
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.ask(|adapter| adapter.create(parent.0, name.as_bytes(), caller(req), mode, umask)) {
            Ok(attr) => reply.created(
                &KEEP,
                &convert::file_attr(&attr),
                Generation(attr.generation),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
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
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        asked("read", ino).data(self.ask(|adapter| adapter.read(ino.0, offset, size, flags.0)), reply);
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let result = self.ask(|adapter| adapter.write(ino.0, asker(req), offset, data, write_flags));
        asked("write", ino).written(result, reply);
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        asked("flush", ino).empty(self.ask(|adapter| adapter.flush(ino.0)), reply);
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
        let result = self.ask(|adapter| {
            adapter.closed(ino.0);
            Ok(())
        });
        asked("release", ino).empty(result, reply);
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        asked("fsync", ino).empty(self.ask(|adapter| adapter.fsync(ino.0)), reply);
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut add = |entry: &DirEntry<'_>| {
            let kind = convert::file_type(entry.mode);
            let name = OsStr::from_bytes(entry.name);
            !reply.add(INodeNo(entry.ino), entry.cookie, kind, name)
        };
        match self.ask(|adapter| adapter.readdir(ino.0, offset, &mut add)) {
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
        // The kernel takes neither attributes nor a reference for "." and "..", only number and type.
        let mut add = |entry: &DirEntry<'_>, attr: Option<&Attr>| {
            let (generation, keep) = attr.map_or((0, KEEP), |a| (a.generation, keep(a)));
            let attr = attr.map_or_else(|| convert::bare(entry), convert::file_attr);
            let name = OsStr::from_bytes(entry.name);
            !reply.add(attr.ino, entry.cookie, name, &keep, &attr, Generation(generation))
        };
        match self.ask(|adapter| adapter.readdirplus(ino.0, offset, &mut add)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(asked("readdirplus", ino).errno(&error)),
        }
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.ask(|adapter| adapter.fs.statfs()) {
            Ok(s) => {
                reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize)
            }
            Err(error) => reply.error(asked("statfs", ino).errno(&error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let result = self.ask(|adapter| adapter.setxattr(ino.0, asker(req), name.as_bytes(), value, flags));
        asked("setxattr", ino).empty(result, reply);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.ask(|adapter| adapter.getxattr(ino.0, caller(req), name.as_bytes()));
        xattr::send(asked("getxattr", ino), value, size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr::send(
            asked("listxattr", ino),
            self.ask(|adapter| adapter.listxattr(ino.0, caller(req))),
            size,
            reply,
        );
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        asked("removexattr", ino)
            .empty(self.ask(|adapter| adapter.removexattr(ino.0, name.as_bytes())), reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let (caller, input) = (caller(req), in_data.to_owned());
        self.apart_if(ioctl::protects(cmd, in_data), move |adapter| {
            match adapter.ioctl(ino.0, caller, cmd, &input) {
                Ok(data) => reply.ioctl(0, &data),
                Err(error) => reply.error(asked("ioctl", ino).errno(&error)),
            }
        });
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
        let result = self.ask(|adapter| adapter.fallocate(ino.0, asker(req), offset, length, mode));
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
        match self.ask(|adapter| adapter.lseek(ino.0, offset, whence)) {
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
        let (from, to) = ((ino_in.0, offset_in), (ino_out.0, offset_out));
        asked("copy_file_range", ino_out)
            .written(self.ask(|adapter| adapter.copy_file_range(asker(req), from, to, len)), reply);
    }
}
