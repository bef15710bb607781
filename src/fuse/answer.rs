//! The last step of every request: a `Result` becomes a reply. One place logs and maps errors for all of them.

use std::time::Duration;

use fuser::{Errno, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite};

use super::{control_dir, convert};
use crate::error::{Error, Result};
use crate::fs::Attr;
use crate::sync::thread::caught;

/// How long the kernel may keep a name or attributes. Nothing changes behind its back, so the length only bounds
/// how long an error of ours could show.
pub(super) const KEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an entry may be kept. A control file's content is of the moment of its lookup, and the number that it
/// shows is not the one in the entry: neither must be remembered.
pub(super) fn keep(attr: &Attr) -> Duration {
    if control_dir::is_file(attr.ino) { Duration::ZERO } else { KEEP }
}

/// Handles a request: whatever happens, there is an answer, `eio` if the handling panics. Nothing else ends the wait of
/// the one who made it, and the thread has other requests to serve.
pub(super) fn in_any_case<R, E>(handle: impl FnOnce() -> Result<R, E>, eio: E) -> Result<R, E> {
    // What it leaves half done in a batch keeps that from being committed; locks are not poisoned.
    caught(handle).unwrap_or_else(|| {
        tracing::error!("the handling of a request panicked; it is answered with an input/output error");
        Err(eio)
    })
}

/// A request as errors name it.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub what: &'static str,
    pub ino: u64,
}

impl Asked {
    /// The errno for an error. Refusals are everyday life; everything else is somebody's trouble and is logged.
    pub(super) fn code(self, error: &Error) -> i32 {
        if !matches!(error, Error::Posix(_)) {
            tracing::warn!(request = self.what, ino = self.ino, "{error}");
        }
        error.errno()
    }

    /// The same as fuser has it.
    pub(super) fn errno(self, error: &Error) -> Errno {
        Errno::from_i32(self.code(error))
    }

    /// An entry: lookup, mknod, mkdir, symlink, link.
    pub(super) fn entry(self, result: Result<Attr>, reply: ReplyEntry) {
        match result {
            Ok(attr) => {
                let keep = keep(&attr);
                reply.entry(&keep, &convert::file_attr(&attr), Generation(attr.generation));
            }
            Err(error) => reply.error(self.errno(&error)),
        }
    }

    pub(super) fn attr(self, result: Result<Attr>, reply: ReplyAttr) {
        match result {
            Ok(attr) => reply.attr(&KEEP, &convert::file_attr(&attr)),
            Err(error) => reply.error(self.errno(&error)),
        }
    }

    pub(super) fn data(self, result: Result<Vec<u8>>, reply: ReplyData) {
        match result {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(self.errno(&error)),
        }
    }

    pub(super) fn empty(self, result: Result<()>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.errno(&error)),
        }
    }

    pub(super) fn written(self, result: Result<u32>, reply: ReplyWrite) {
        match result {
            Ok(size) => reply.written(size),
            Err(error) => reply.error(self.errno(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_whose_handling_panics_is_answered() {
        assert_eq!(in_any_case(|| Ok(7), libc::EIO), Ok(7));
        assert_eq!(in_any_case(|| Err::<i32, _>(libc::ENOENT), libc::EIO), Err(libc::ENOENT));
        assert_eq!(in_any_case(|| -> Result<i32, _> { panic!("on purpose") }, libc::EIO), Err(libc::EIO));
    }
}
