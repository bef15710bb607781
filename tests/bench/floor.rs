//! The floor: a filesystem on fuser that answers as cairnfs does, and does nothing.
//!
//! Inodes are kept in memory, written bytes are counted and thrown away, reads give zeros. What a
//! command takes on it is what FUSE costs on this machine, so cairnfs can be stated as a fraction of it.
//! It runs as a process of its own (a hidden subcommand of the benchmark), as any FUSE daemon does.

mod answer;
pub mod counts;
pub mod negotiation;
pub mod process;
mod spin;
mod tree;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use answer::{answered_if, created_with, empty, kind_of, listing, minimal_acl, opened_if, sized, time};
use counts::{Counts, Kind};
use negotiation::{Acl, Negotiation};
use spin::Spinner;
use tree::{New, Reply, Tree};

const GENERATION: Generation = Generation(1);
const ACL_ACCESS: &str = "system.posix_acl_access";

/// What outlives a remount.
pub struct Shared {
    tree: Mutex<Tree>,
    counts: Arc<Counts>,
}

pub struct Floor {
    shared: Arc<Shared>,
    negotiation: Negotiation,
    ttl: Duration,
    zeros: Vec<u8>,
    spinner: Arc<OnceLock<Spinner>>,
}

impl Floor {
    fn new(shared: Arc<Shared>, negotiation: Negotiation, spinner: Arc<OnceLock<Spinner>>) -> Self {
        Floor {
            shared,
            ttl: negotiation.ttl(),
            // The kernel reads no more at once than it may write.
            zeros: vec![0; negotiation.max_write.max(1 << 20) as usize],
            negotiation,
            spinner,
        }
    }

    /// Notes a request, and gives the tree to answer it from.
    fn tree(&self, kind: Kind) -> MutexGuard<'_, Tree> {
        self.arrived(kind);
        self.locked()
    }

    fn locked(&self) -> MutexGuard<'_, Tree> {
        self.shared.tree.lock().expect("no code that holds the tree panics")
    }

    fn arrived(&self, kind: Kind) {
        self.shared.counts.hit(kind);
        self.woken();
    }

    fn woken(&self) {
        if let Some(spinner) = self.spinner.get() {
            spinner.request_arrived();
        }
    }

    fn entry(&self, answer: Reply<FileAttr>, reply: ReplyEntry) {
        match answer {
            Ok(attr) => reply.entry(&self.ttl, &attr, GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn attr(&self, answer: Reply<FileAttr>, reply: ReplyAttr) {
        match answer {
            Ok(attr) => reply.attr(&self.ttl, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    /// A new node as the request asks for it; without POSIX ACLs the kernel has applied the umask.
    fn new_node<'a>(
        &self,
        req: &Request,
        name: &'a OsStr,
        kind: FileType,
        (mode, umask): (u32, u32),
    ) -> New<'a> {
        let masked = if self.negotiation.acl == Acl::Refused { 0 } else { umask };
        New {
            name,
            kind,
            perm: (mode & !masked & 0o7777) as u16,
            uid: req.uid(),
            gid: req.gid(),
            rdev: 0,
            target: b"",
        }
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.negotiation.apply(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answer = self.tree(Kind::Lookup).lookup(parent, name);
        match answer {
            Err(Errno::ENOENT) if self.negotiation.negative => {
                let mut nothing = self.locked().node(INodeNo::ROOT).expect("a root").attr;
                nothing.ino = INodeNo(0);
                reply.entry(&self.ttl, &nothing, GENERATION);
            }
            answer => self.entry(answer, reply),
        }
    }

    // fuser gives the nodes of a BATCH_FORGET one by one, so that batches are not seen here.
    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        self.tree(Kind::Forget).forget(ino.0, count);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let answer = self.tree(Kind::Getattr).node(ino).map(|node| node.attr);
        self.attr(answer, reply);
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let answer = self.tree(Kind::Setattr).node(ino).map(|node| {
            if let Some(size) = size {
                node.resize(size);
            }
            let attr = &mut node.attr;
            attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
            attr.uid = uid.unwrap_or(attr.uid);
            attr.gid = gid.unwrap_or(attr.gid);
            attr.atime = atime.map_or(attr.atime, time);
            attr.mtime = mtime.map_or(attr.mtime, time);
            attr.ctime = SystemTime::now();
            *attr
        });
        self.attr(answer, reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let answer = self.tree(Kind::Readlink).node(ino).map(|n| n.target.clone());
        match answer {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
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
        let mut new = self.new_node(req, name, kind_of(mode), (mode, umask));
        new.rdev = rdev;
        self.entry(self.tree(Kind::Mknod).add(parent, &new), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let new = self.new_node(req, name, FileType::Directory, (mode, umask));
        self.entry(self.tree(Kind::Mkdir).add(parent, &new), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.tree(Kind::Unlink).remove(parent, name, false), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.tree(Kind::Rmdir).remove(parent, name, true), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let mut new = self.new_node(req, name, FileType::Symlink, (0o777, 0));
        new.target = target.as_os_str().as_bytes();
        self.entry(self.tree(Kind::Symlink).add(parent, &new), reply);
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
        self.arrived(Kind::Rename);
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let answer = self.locked().rename((parent, name), (newparent, newname));
        empty(answer, reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(self.tree(Kind::Link).link(ino, parent, name), reply);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.arrived(Kind::Open);
        opened_if(self.negotiation.open, FopenFlags::FOPEN_KEEP_CACHE, reply);
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
        self.arrived(Kind::Create);
        if !self.negotiation.create {
            return reply.error(Errno::ENOSYS);
        }
        let new = self.new_node(req, name, FileType::RegularFile, (mode, umask));
        let answer = self.locked().add(parent, &new);
        match answer {
            Ok(attr) => {
                let flags = created_with(self.negotiation.direct, flags);
                reply.created(&self.ttl, &attr, GENERATION, FileHandle(0), flags);
            }
            Err(errno) => reply.error(errno),
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
        let length = self.locked().node(ino).map(|node| node.attr.size);
        self.woken();
        match length {
            Ok(length) => {
                let most = (size as usize).min(self.zeros.len());
                let left = most.min(length.saturating_sub(offset) as usize);
                self.shared.counts.read(left);
                reply.data(&self.zeros[..left]);
            }
            Err(errno) => reply.error(errno),
        }
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
        self.shared.counts.written(data.len());
        self.woken();
        let end = offset + data.len() as u64;
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let answer = self.locked().node(ino).map(|node| node.written(end, kill));
        match answer {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.arrived(Kind::Flush);
        answered_if(self.negotiation.flush, reply);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.arrived(Kind::Release);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.arrived(Kind::Fsync);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.arrived(Kind::Opendir);
        opened_if(self.negotiation.opendir, FopenFlags::FOPEN_CACHE_DIR, reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut tree = self.tree(Kind::Readdir);
        let entries = match listing(&mut tree, ino, offset) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        for entry in entries {
            if reply.add(entry.attr.ino, entry.cookie, entry.attr.kind, &entry.name) {
                break;
            }
        }
        drop(tree);
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut tree = self.tree(Kind::Readdirplus);
        let entries = match listing(&mut tree, ino, offset) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        for entry in entries {
            let attr = &entry.attr;
            if reply.add(attr.ino, entry.cookie, &entry.name, &self.ttl, attr, GENERATION) {
                break;
            }
            // The listed entry is in the tree, and the lock is still held.
            if entry.name != "." && entry.name != ".." {
                let _ = tree.refer(attr.ino.0);
            }
        }
        drop(tree);
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.arrived(Kind::Releasedir);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.arrived(Kind::Fsyncdir);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.arrived(Kind::Statfs);
        reply.statfs(1 << 40, 1 << 39, 1 << 39, 1 << 32, 1 << 31, 4096, 255, 4096);
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.arrived(Kind::Setxattr);
        if self.negotiation.acl == Acl::Refused && name.as_bytes().starts_with(b"system.posix_acl") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let answer =
            self.locked().node(ino).map(|node| match minimal_acl(value).filter(|_| name == ACL_ACCESS) {
                Some(bits) => node.attr.perm = node.attr.perm & 0o7000 | bits,
                None => {
                    node.xattrs.insert(name.to_owned(), value.to_vec());
                }
            });
        empty(answer, reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.arrived(Kind::Getxattr);
        if !self.negotiation.getxattr {
            return reply.error(Errno::ENOSYS);
        }
        let found = self.locked().node(ino).and_then(|node| node.xattr(name));
        sized(found, size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.tree(Kind::Listxattr).node(ino).map(|node| {
            let mut names = Vec::new();
            for name in node.xattrs.keys() {
                names.extend_from_slice(name.as_bytes());
                names.push(0);
            }
            names
        });
        sized(names, size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.tree(Kind::Removexattr).node(ino).and_then(|node| {
            let removed = node.xattrs.remove(name);
            removed.map(drop).ok_or(Errno::from_i32(libc::ENODATA))
        });
        empty(answer, reply);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let answer = self.tree(Kind::Fallocate).node(ino).map(|node| {
            if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
                node.resize(node.attr.size.max(offset + length));
            }
        });
        empty(answer, reply);
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
        let size = self.tree(Kind::Lseek).node(ino).map(|node| node.attr.size);
        match size {
            Ok(size) if offset >= 0 && (offset as u64) < size => {
                let data = whence == libc::SEEK_DATA;
                reply.offset(if data { offset } else { size as i64 });
            }
            Ok(_) => reply.error(Errno::ENXIO),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
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
        let mut tree = self.tree(Kind::CopyFileRange);
        let answer = tree.node(ino_in).map(|node| node.attr.size);
        let answer = answer.and_then(|size| {
            // The reply has 32 bits for the length.
            let copied = len.min(size.saturating_sub(offset_in)).min(1 << 31);
            let node = tree.node(ino_out)?;
            node.resize(node.attr.size.max(offset_out + copied));
            Ok(copied as u32)
        });
        drop(tree);
        match answer {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(errno),
        }
    }
}
