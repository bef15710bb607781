//! The types that fuser has for replies, one for each kind of answer over `/dev/fuse`.

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr,
};

use super::answer::{ENTRY_TIMEOUT, Reply, entry_timeout};
use super::convert;
use super::xattr::Fitted;
use crate::fs::{Attr, FsStat};

/// `$reply` carries a `$answer`, and `$send` sends it.
macro_rules! carries {
    ($($reply:ty: $answer:ty => $send:expr;)*) => {
        $(
            impl Reply<$answer> for $reply {
                fn send(self, answer: $answer) {
                    let send: fn(Self, $answer) = $send;
                    send(self, answer);
                }

                fn refuse(self, errno: i32) {
                    self.error(Errno::from_i32(errno));
                }
            }
        )*
    };
}

carries! {
    ReplyEntry: Attr => |reply, attr| {
        reply.entry(&entry_timeout(&attr), &convert::file_attr(&attr), Generation(attr.generation));
    };
    ReplyEntry: Option<Attr> => |reply, found| match found {
        Some(attr) => reply.send(attr),
        None => reply.entry(&ENTRY_TIMEOUT, &convert::NEGATIVE_ENTRY, Generation(0)),
    };
    ReplyAttr: Attr => |reply, attr| reply.attr(&ENTRY_TIMEOUT, &convert::file_attr(&attr));
    ReplyCreate: (Attr, FopenFlags) => |reply, (attr, flags)| {
        let generation = Generation(attr.generation);
        reply.created(&ENTRY_TIMEOUT, &convert::file_attr(&attr), generation, FileHandle(0), flags);
    };
    ReplyOpen: FopenFlags => |reply, flags| reply.opened(FileHandle(0), flags);
    ReplyData: Vec<u8> => |reply, data| reply.data(&data);
    ReplyWrite: u32 => |reply, size| reply.written(size);
    ReplyLseek: i64 => |reply, offset| reply.offset(offset);
    ReplyEmpty: () => |reply, ()| reply.ok();
    ReplyDirectory: () => |reply, ()| reply.ok();
    ReplyDirectoryPlus: () => |reply, ()| reply.ok();
    ReplyIoctl: Vec<u8> => |reply, data| reply.ioctl(0, &data);
    ReplyXattr: Fitted => |reply, fitted| match fitted {
        Fitted::Size(size) => reply.size(size),
        Fitted::Value(value) => reply.data(&value),
    };
    ReplyStatfs: FsStat => |reply, s| {
        reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize);
    };
}
