//! The requests that come over `/dev/fuse`, one method each: the fields that matter, the call, the kind of reply.
//!
//! fuser reads these requests and writes their replies, and shows neither as bytes: its parser is private, its replies
//! are a type for each kind. So there are two decoders, fuser's here and [`super::ring`]'s for io_uring, and what they
//! decode meets in [`super::operations`]; results meet in [`super::answer`]. Over `/dev/fuse` there is no STATX and no
//! SETXATTR_EXT, which fuser does not know.
//!
//! Files have no handles here. Reads, writes and other requests name the inode, which exists as long as the kernel has
//! a reference to it, so OPEN and RELEASE contain nothing that is needed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::adapter::Adapter;
use super::answer::{ENTRY_TIMEOUT, Reply, RequestInfo, entry_timeout};
use super::requester::Requester;
use super::{convert, init, ioctl, protect};
use crate::error::Result;
use crate::fs::{Attr, Caller, DirEntry, SetAttr};

/// The adapter as fuser calls it.
pub(super) struct DevFuse {
    pub adapter: Arc<Adapter>,
    /// Requests can be taken over io_uring as well; then only FORGET and a few others arrive here.
    pub rings: bool,
}

impl DevFuse {
    fn answer<T>(
        &self,
        request_info: RequestInfo,
        reply: impl Reply<T>,
        work: impl FnOnce(&Adapter) -> Result<T>,
    ) {
        request_info.answer(reply, || work(&self.adapter));
    }

    /// The same, but in a thread of its own where it waits for requests that come here. If there can be none, fuser
    /// answers EIO for the reply that is dropped.
    fn answer_apart_if<T>(
        &self,
        waits: bool,
        request_info: RequestInfo,
        reply: impl Reply<T> + Send + 'static,
        work: impl FnOnce(&Adapter) -> Result<T> + Send + 'static,
    ) {
        if waits {
            let adapter = Arc::clone(&self.adapter);
            protect::start("cairn-protect", move || request_info.answer(reply, || work(&adapter)));
        } else {
            self.answer(request_info, reply, work);
        }
    }

    /// As [`seals`](crate::fs::Fs::seals); in doubt, true.
    fn seals(&self, directory: INodeNo) -> bool {
        request_info("seals", directory).handle(|| Ok(self.adapter.fs.seals(directory.0))).unwrap_or(true)
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

fn requester(req: &Request) -> Requester {
    Requester { caller: caller(req), pid: req.pid() }
}

fn request_info(what: &'static str, ino: INodeNo) -> RequestInfo {
    RequestInfo { what, ino: ino.0 }
}

impl Filesystem for DevFuse {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let negotiated = init::negotiate(config, &self.adapter.opts, self.rings);
        self.adapter.set_negotiated(negotiated);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer(request_info("lookup", parent), reply, |adapter| {
            adapter.lookup(parent.0, name.as_bytes())
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        // There is no answer to it.
        let _ = request_info("forget", ino).handle(|| {
            self.adapter.forget(ino.0, nlookup);
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(request_info("getattr", ino), reply, |adapter| adapter.getattr_of(ino.0));
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
            mode,
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::timestamp),
        };
        self.answer(request_info("setattr", ino), reply, |adapter| {
            adapter.setattr(ino.0, requester(req), set)
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(request_info("readlink", ino), reply, |adapter| adapter.readlink(ino.0));
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
        self.answer(request_info("mknod", parent), reply, |adapter| {
            adapter.mknod(parent.0, name.as_bytes(), caller(req), mode, umask, rdev)
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, caller) = (name.to_owned(), caller(req));
        self.answer_apart_if(self.seals(parent), request_info("mkdir", parent), reply, move |adapter| {
            adapter.mkdir(parent.0, name.as_bytes(), caller, mode, umask)
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.as_bytes(), target.as_os_str().as_bytes());
        self.answer(request_info("symlink", parent), reply, |adapter| {
            adapter.symlink(parent.0, name, caller(req), target)
        });
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.answer(request_info("link", ino), reply, |adapter| {
            adapter.link(ino.0, newparent.0, newname.as_bytes())
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(request_info("unlink", parent), reply, |adapter| {
            adapter.unlink(parent.0, name.as_bytes())
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let caller = caller(req);
        self.answer(request_info("rmdir", parent), reply, |adapter| {
            adapter.rmdir(parent.0, name.as_bytes(), caller)
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, newname, caller) = (name.to_owned(), newname.to_owned(), caller(req));
        self.answer_apart_if(self.seals(newparent), request_info("rename", parent), reply, move |adapter| {
            let (from, to) = ((parent.0, name.as_bytes()), (newparent.0, newname.as_bytes()));
            adapter.rename(from, to, flags.bits(), caller)
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(request_info("open", ino), reply, Adapter::open);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(request_info("opendir", ino), reply, Adapter::opendir);
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
        self.answer(request_info("create", parent), reply, |adapter| {
            adapter.create(parent.0, name.as_bytes(), caller(req), mode, umask)
        });
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
        self.answer(request_info("read", ino), reply, |adapter| adapter.read(ino.0, offset, size, flags.0));
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
        self.answer(request_info("write", ino), reply, |adapter| {
            adapter.write(ino.0, requester(req), offset, data, write_flags)
        });
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.answer(request_info("flush", ino), reply, |adapter| adapter.flush(ino.0));
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
        self.answer(request_info("release", ino), reply, |adapter| {
            adapter.closed(ino.0);
            Ok(())
        });
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.answer(request_info("fsync", ino), reply, |adapter| adapter.fsync(ino.0, datasync));
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
        let listed = request_info("readdir", ino).handle(|| self.adapter.readdir(ino.0, offset, &mut add));
        reply.finish(listed);
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
            let (generation, entry_timeout) =
                attr.map_or((0, ENTRY_TIMEOUT), |a| (a.generation, entry_timeout(a)));
            let attr = attr.map_or_else(|| convert::bare(entry), convert::file_attr);
            let name = OsStr::from_bytes(entry.name);
            !reply.add(attr.ino, entry.cookie, name, &entry_timeout, &attr, Generation(generation))
        };
        let listed =
            request_info("readdirplus", ino).handle(|| self.adapter.readdirplus(ino.0, offset, &mut add));
        reply.finish(listed);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.answer(request_info("statfs", ino), reply, |adapter| adapter.fs.statfs());
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
        self.answer(request_info("setxattr", ino), reply, |adapter| {
            adapter.setxattr(ino.0, requester(req), name.as_bytes(), value, flags)
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.answer(request_info("getxattr", ino), reply, |adapter| {
            adapter.getxattr(ino.0, caller(req), name.as_bytes(), size)
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(request_info("listxattr", ino), reply, |adapter| {
            adapter.listxattr(ino.0, caller(req), size)
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(request_info("removexattr", ino), reply, |adapter| {
            adapter.removexattr(ino.0, name.as_bytes())
        });
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
        let waits = ioctl::protects(cmd, in_data);
        self.answer_apart_if(waits, request_info("ioctl", ino), reply, move |adapter| {
            adapter.ioctl(ino.0, caller, cmd, &input)
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
        self.answer(request_info("fallocate", ino), reply, |adapter| {
            adapter.fallocate(ino.0, requester(req), offset, length, mode)
        });
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
        self.answer(request_info("lseek", ino), reply, |adapter| adapter.lseek(ino.0, offset, whence));
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
        self.answer(request_info("copy_file_range", ino_out), reply, |adapter| {
            adapter.copy_file_range(requester(req), from, to, len)
        });
    }
}
