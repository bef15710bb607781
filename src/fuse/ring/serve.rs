//! From the bytes of a request to the bytes of its reply, by way of the [`Adapter`].
//!
//! Requests come from the kernel, but nothing here trusts them: one that does not decode gets EIO.

use std::ffi::CStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::abi::{self, fattr, op};
use super::entry::Request;
use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, DirEntry, SetAttr, SetTime, Timestamp};
use crate::fuse::adapter::Adapter;
use crate::fuse::answer::RequestInfo;
use crate::fuse::requester::Requester;
use crate::fuse::xattr::Fitted;
use fuser::{FopenFlags, WriteFlags};

/// Serves one request. The payload has the input and takes the output; returns the length of the output, or an errno.
pub(super) fn answer(adapter: &Adapter, request: &Request, payload: &mut [u8]) -> Result<usize, i32> {
    let header = &request.header;
    let what = op::name(header.opcode).ok_or(libc::ENOSYS)?;
    let call =
        Call { adapter, request, ino: header.nodeid, caller: Caller { uid: header.uid, gid: header.gid } };
    RequestInfo { what, ino: call.ino }.handle(|| call.serve(payload))
}

/// One request with what every operation needs of it.
struct Call<'a> {
    adapter: &'a Adapter,
    request: &'a Request,
    ino: u64,
    caller: Caller,
}

/// Puts a reply at the beginning of the payload.
fn put(payload: &mut [u8], reply: &(impl IntoBytes + Immutable + ?Sized)) -> Result<usize> {
    let bytes = reply.as_bytes();
    payload.get_mut(..bytes.len()).ok_or(Error::Posix(libc::EIO))?.copy_from_slice(bytes);
    Ok(bytes.len())
}

fn put_entry(payload: &mut [u8], attr: &Attr) -> Result<usize> {
    put(payload, &abi::EntryOut::from(attr))
}

fn put_open(payload: &mut [u8], flags: FopenFlags) -> Result<usize> {
    put(payload, &abi::OpenOut::from(flags))
}

/// The name at the beginning, and what follows it.
fn name(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let name = CStr::from_bytes_until_nul(bytes).map_err(|_| Error::Posix(libc::EIO))?.to_bytes();
    Ok((name, &bytes[name.len() + 1..]))
}

/// A value or list of extended attributes, or its size.
fn put_xattr(payload: &mut [u8], fitted: Fitted) -> Result<usize> {
    match fitted {
        Fitted::Size(size) => put(payload, &abi::GetxattrOut { size, ..Default::default() }),
        Fitted::Value(value) => put(payload, value.as_slice()),
    }
}

impl Call<'_> {
    fn serve(&self, payload: &mut [u8]) -> Result<usize> {
        match self.request.header.opcode {
            op::LOOKUP => self.lookup(payload),
            op::GETATTR => self.getattr(payload),
            op::STATX => self.statx(payload),
            op::SETATTR => self.setattr(payload),
            op::READLINK => self.readlink(payload),
            op::SYMLINK => self.symlink(payload),
            op::MKNOD => self.mknod(payload),
            op::MKDIR => self.mkdir(payload),
            op::UNLINK => self.unlink(payload),
            op::RMDIR => self.rmdir(payload),
            op::RENAME | op::RENAME2 => self.rename(payload),
            op::LINK => self.link(payload),
            op::OPEN => put_open(payload, self.adapter.open()?),
            op::OPENDIR => put_open(payload, self.adapter.opendir()?),
            op::CREATE => self.create(payload),
            op::READ => self.read(payload),
            op::WRITE => self.write(payload),
            op::STATFS => self.statfs(payload),
            op::FLUSH => self.adapter.flush(self.ino).map(|()| 0),
            op::RELEASE | op::RELEASEDIR => self.release(),
            op::FSYNC | op::FSYNCDIR => self.fsync(),
            op::SETXATTR => self.setxattr(payload),
            op::GETXATTR => self.getxattr(payload),
            op::LISTXATTR => self.listxattr(payload),
            op::REMOVEXATTR => self.removexattr(payload),
            op::READDIR => self.readdir(payload),
            op::READDIRPLUS => self.readdirplus(payload),
            op::IOCTL => self.ioctl(payload),
            op::FALLOCATE => self.fallocate(),
            op::LSEEK => self.lseek(payload),
            op::COPY_FILE_RANGE => self.copy_file_range(payload),
            _ => Err(Error::Posix(libc::ENOSYS)),
        }
    }

    /// The operation's own header.
    fn operation<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T> {
        let (header, _) =
            T::read_from_prefix(&self.request.operation).map_err(|_| Error::Posix(libc::EIO))?;
        Ok(header)
    }

    fn requester(&self) -> Requester {
        Requester { caller: self.caller, pid: self.request.header.pid }
    }

    /// The input in the payload.
    fn input<'p>(&self, payload: &'p [u8]) -> &'p [u8] {
        &payload[..self.request.payload.min(payload.len())]
    }

    fn lookup(&self, payload: &mut [u8]) -> Result<usize> {
        match self.adapter.lookup(self.ino, name(self.input(payload))?.0)? {
            Some(attr) => put_entry(payload, &attr),
            None => put(payload, &abi::EntryOut::negative()),
        }
    }

    fn getattr(&self, payload: &mut [u8]) -> Result<usize> {
        put(payload, &abi::AttrOut::from(&self.adapter.getattr_of(self.ino)?))
    }

    /// Returns all attributes, whatever was asked for. The kernel sends this request if a program wants the time of
    /// birth. Over `/dev/fuse` fuser does not know the request, and the kernel does without.
    fn statx(&self, payload: &mut [u8]) -> Result<usize> {
        put(payload, &abi::StatxOut::from(&self.adapter.getattr_of(self.ino)?))
    }

    fn setattr(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::SetattrIn = self.operation()?;
        let has = |bit: u32| args.valid & bit != 0;
        let time = |bit, now, sec, nsec| {
            has(bit).then(|| if has(now) { SetTime::Now } else { SetTime::At(Timestamp { sec, nsec }) })
        };
        let set = SetAttr {
            mode: has(fattr::MODE).then_some(args.mode),
            uid: has(fattr::UID).then_some(args.uid),
            gid: has(fattr::GID).then_some(args.gid),
            size: has(fattr::SIZE).then_some(args.size),
            atime: time(fattr::ATIME, fattr::ATIME_NOW, args.atime, args.atimensec),
            mtime: time(fattr::MTIME, fattr::MTIME_NOW, args.mtime, args.mtimensec),
            ctime: has(fattr::CTIME).then_some(Timestamp { sec: args.ctime, nsec: args.ctimensec }),
        };
        put(payload, &abi::AttrOut::from(&self.adapter.setattr(self.ino, self.requester(), set)?))
    }

    fn readlink(&self, payload: &mut [u8]) -> Result<usize> {
        put(payload, self.adapter.readlink(self.ino)?.as_slice())
    }

    fn symlink(&self, payload: &mut [u8]) -> Result<usize> {
        let (link, rest) = name(self.input(payload))?;
        let attr = self.adapter.symlink(self.ino, link, self.caller, name(rest)?.0)?;
        put_entry(payload, &attr)
    }

    fn mknod(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::MknodIn = self.operation()?;
        let (name, _) = name(self.input(payload))?;
        let attr = self.adapter.mknod(self.ino, name, self.caller, args.mode, args.umask, args.rdev)?;
        put_entry(payload, &attr)
    }

    fn mkdir(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::MkdirIn = self.operation()?;
        let (name, _) = name(self.input(payload))?;
        put_entry(payload, &self.adapter.mkdir(self.ino, name, self.caller, args.mode, args.umask)?)
    }

    fn unlink(&self, payload: &[u8]) -> Result<usize> {
        self.adapter.unlink(self.ino, name(self.input(payload))?.0).map(|()| 0)
    }

    fn rmdir(&self, payload: &[u8]) -> Result<usize> {
        self.adapter.rmdir(self.ino, name(self.input(payload))?.0, self.caller).map(|()| 0)
    }

    fn rename(&self, payload: &[u8]) -> Result<usize> {
        let args: abi::RenameIn = self.operation()?;
        // The older form ends before the flags.
        let flags = if self.request.header.opcode == op::RENAME2 { args.flags } else { 0 };
        let (old, rest) = name(self.input(payload))?;
        let to = (args.newdir, name(rest)?.0);
        self.adapter.rename((self.ino, old), to, flags, self.caller).map(|()| 0)
    }

    fn link(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::LinkIn = self.operation()?;
        let attr = self.adapter.link(args.oldnodeid, self.ino, name(self.input(payload))?.0)?;
        put_entry(payload, &attr)
    }

    fn create(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::CreateIn = self.operation()?;
        let (name, _) = name(self.input(payload))?;
        let (attr, flags) = self.adapter.create(self.ino, name, self.caller, args.mode, args.umask)?;
        put(payload, &abi::CreateOut { entry: (&attr).into(), open: flags.into() })
    }

    fn read(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::ReadIn = self.operation()?;
        let out = payload.get_mut(..args.size as usize).ok_or(Error::Posix(libc::EIO))?;
        self.adapter.read_into(self.ino, args.offset, out, args.flags as i32)
    }

    fn write(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::WriteIn = self.operation()?;
        let data = self.input(payload).get(..args.size as usize).ok_or(Error::Posix(libc::EIO))?;
        let flags = WriteFlags::from_bits_retain(args.write_flags);
        let size = self.adapter.write(self.ino, self.requester(), args.offset, data, flags)?;
        put(payload, &abi::WriteOut { size, ..Default::default() })
    }

    fn statfs(&self, payload: &mut [u8]) -> Result<usize> {
        put(payload, &abi::StatfsOut::from(&self.adapter.fs.statfs()?))
    }

    fn release(&self) -> Result<usize> {
        self.adapter.closed(self.ino);
        Ok(0)
    }

    fn setxattr(&self, payload: &[u8]) -> Result<usize> {
        let args: abi::SetxattrIn = self.operation()?;
        let (name, value) = name(self.input(payload))?;
        let value = value.get(..args.size as usize).ok_or(Error::Posix(libc::EIO))?;
        self.adapter.setxattr(self.ino, self.requester(), name, value, args.flags).map(|()| 0)
    }

    fn getxattr(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::GetxattrIn = self.operation()?;
        let name = name(self.input(payload))?.0;
        put_xattr(payload, self.adapter.getxattr(self.ino, self.caller, name, args.size)?)
    }

    fn listxattr(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::GetxattrIn = self.operation()?;
        put_xattr(payload, self.adapter.listxattr(self.ino, self.caller, args.size)?)
    }

    fn removexattr(&self, payload: &[u8]) -> Result<usize> {
        self.adapter.removexattr(self.ino, name(self.input(payload))?.0).map(|()| 0)
    }

    fn readdir(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::ReadIn = self.operation()?;
        let mut rows = Rows::new(payload, args.size);
        self.adapter.readdir(self.ino, args.offset, &mut |entry| rows.add(&dirent(entry), entry.name))?;
        Ok(rows.used)
    }

    fn readdirplus(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::ReadIn = self.operation()?;
        let mut rows = Rows::new(payload, args.size);
        self.adapter.readdirplus(self.ino, args.offset, &mut |row, attr| {
            let entry = attr.map_or_else(|| abi::EntryOut::bare(row), abi::EntryOut::from);
            let ino = attr.map_or(row.ino, |attr| attr.ino);
            let dirent = abi::Dirent { ino, ..dirent(row) };
            rows.add(&abi::DirentPlus { entry, dirent }, row.name)
        })?;
        Ok(rows.used)
    }

    fn ioctl(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::IoctlIn = self.operation()?;
        let answer = self.adapter.ioctl(self.ino, self.caller, args.cmd, self.input(payload))?;
        let head = put(payload, &abi::IoctlOut { in_iovs: 1, out_iovs: 1, ..Default::default() })?;
        Ok(head + put(&mut payload[head..], answer.as_slice())?)
    }

    fn fallocate(&self) -> Result<usize> {
        let args: abi::FallocateIn = self.operation()?;
        self.adapter.fallocate(self.ino, self.requester(), args.offset, args.length, args.mode).map(|()| 0)
    }

    fn fsync(&self) -> Result<usize> {
        let args: abi::FsyncIn = self.operation()?;
        self.adapter.fsync(self.ino, args.flags & abi::FDATASYNC != 0).map(|()| 0)
    }

    fn lseek(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::LseekIn = self.operation()?;
        let offset = self.adapter.lseek(self.ino, args.offset, args.whence)?;
        put(payload, &abi::LseekOut { offset })
    }

    fn copy_file_range(&self, payload: &mut [u8]) -> Result<usize> {
        let args: abi::CopyFileRangeIn = self.operation()?;
        let (from, to) = ((self.ino, args.off_in), (args.nodeid_out, args.off_out));
        let size = self.adapter.copy_file_range(self.requester(), from, to, args.len)?;
        put(payload, &abi::WriteOut { size, ..Default::default() })
    }
}

fn dirent(entry: &DirEntry<'_>) -> abi::Dirent {
    let kind = (entry.mode & libc::S_IFMT) >> 12;
    abi::Dirent { ino: entry.ino, off: entry.cookie, namelen: entry.name.len() as u32, kind }
}

/// The rows of a listing, each padded to 8 bytes.
struct Rows<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl<'a> Rows<'a> {
    fn new(payload: &'a mut [u8], size: u32) -> Self {
        let room = payload.len().min(size as usize);
        Self { room: &mut payload[..room], used: 0 }
    }

    /// False where there is no room.
    fn add(&mut self, head: &(impl IntoBytes + Immutable), name: &[u8]) -> bool {
        let head = head.as_bytes();
        let row = (head.len() + name.len()).next_multiple_of(8);
        let Some(room) = self.room.get_mut(self.used..self.used + row) else {
            return false;
        };
        room.fill(0);
        room[..head.len()].copy_from_slice(head);
        room[head.len()..head.len() + name.len()].copy_from_slice(name);
        self.used += row;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_their_zero_and_must_have_one() {
        assert_eq!(name(b"a\0bc\0").unwrap(), (&b"a"[..], &b"bc\0"[..]));
        assert_eq!(name(b"\0").unwrap(), (&b""[..], &b""[..]));
        assert!(name(b"abc").is_err());
        assert!(name(b"").is_err());
    }

    #[test]
    fn a_row_that_does_not_fit_leaves_the_others_as_they_are() {
        let mut payload = [0xff; 100];
        let mut rows = Rows::new(&mut payload, 80);
        let entry = DirEntry { ino: 7, cookie: 9, mode: libc::S_IFREG, name: b"twelve bytes" };
        assert!(rows.add(&dirent(&entry), entry.name));
        assert_eq!(rows.used, 40);
        assert!(rows.add(&dirent(&entry), entry.name));
        assert!(!rows.add(&dirent(&entry), entry.name));
        assert_eq!(rows.used, 80);
        assert_eq!(&payload[24..40], b"twelve bytes\0\0\0\0");
        assert_eq!(payload[80], 0xff, "nothing beyond what was asked for");
    }
}
