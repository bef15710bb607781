//! Answers to the kernel that need more than a line: directory listings, attribute values, and the
//! requests that are answered with ENOSYS so that they are not sent again.

use std::ffi::OsString;
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyEmpty, ReplyOpen, ReplyXattr, TimeOrNow,
};

use super::tree::{Reply, Tree};

pub fn empty(answer: Reply<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// ENOSYS is what makes the kernel stop asking.
pub fn answered_if(wanted: bool, reply: ReplyEmpty) {
    if wanted {
        reply.ok();
    } else {
        reply.error(Errno::ENOSYS);
    }
}

pub fn opened_if(wanted: bool, flags: FopenFlags, reply: ReplyOpen) {
    if wanted {
        reply.opened(FileHandle(0), flags);
    } else {
        reply.error(Errno::ENOSYS);
    }
}

/// A file created to be written from its start to its end does without the page cache; one that may
/// be read by the same descriptor does not, unless it is a temporary file, as rsync makes them.
pub fn created_with(direct: bool, flags: i32) -> FopenFlags {
    let write_only = flags & libc::O_ACCMODE == libc::O_WRONLY;
    if direct && (write_only || flags & libc::O_EXCL != 0) {
        FopenFlags::FOPEN_DIRECT_IO
    } else {
        FopenFlags::FOPEN_KEEP_CACHE
    }
}

pub fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

pub fn time(set: TimeOrNow) -> SystemTime {
    match set {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

/// The permission bits of an ACL that says no more than a mode does.
pub fn minimal_acl(value: &[u8]) -> Option<u16> {
    let entries = value.get(4..).filter(|entries| entries.len() == 24)?;
    let permissions = |i: usize| u16::from(entries[i * 8 + 2] & 7);
    Some(permissions(0) << 6 | permissions(1) << 3 | permissions(2))
}

pub struct Listed {
    pub cookie: u64,
    pub name: OsString,
    pub attr: FileAttr,
}

/// More entries than fit one reply, from after `cookie`; "." and ".." have cookies of their own.
pub fn listing(tree: &mut Tree, ino: INodeNo, cookie: u64) -> Reply<Vec<Listed>> {
    const DOTS: u64 = 2;
    const ENOUGH: usize = 1024;
    let own = tree.node(ino)?.attr;
    let dir = tree.node(ino)?.dir.as_ref().ok_or(Errno::ENOTDIR)?;
    let found: Vec<_> = dir
        .after(cookie.saturating_sub(DOTS))
        .take(ENOUGH)
        .map(|(cookie, name, child)| (cookie + DOTS, name.to_owned(), child))
        .collect();
    let mut listed = Vec::with_capacity(found.len() + 2);
    for (dot, name) in [(1, "."), (2, "..")] {
        if cookie < dot {
            listed.push(Listed { cookie: dot, name: name.into(), attr: own });
        }
    }
    for (cookie, name, child) in found {
        let attr = tree.node(INodeNo(child))?.attr;
        listed.push(Listed { cookie, name, attr });
    }
    Ok(listed)
}

/// An attribute's value, or its length when the caller asks with no room.
pub fn sized(value: Reply<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Err(errno) => reply.error(errno),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}
