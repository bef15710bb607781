//! The one way from a request to its answer, for both transports.
//!
//! Keeps true: whatever happens while a request is handled, it is answered; a panic is answered with an input/output
//! error. Errors are logged and become errnos here and nowhere else. The transports differ in how an answer travels:
//! fuser has a type of reply for each request ([`super::replies`]), io_uring has the memory of its entry
//! ([`super::ring`]).

use std::time::Duration;

use super::control_dir;
use crate::error::{Error, Result};
use crate::fs::Attr;
use crate::sync::thread::caught;

/// How long the kernel may cache a name or attributes. Nothing changes behind its back, so this only bounds the effect
/// of an error of ours.
pub(super) const ENTRY_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an entry may be cached. The content of a control file is that of its lookup, and the number that it shows
/// is not the one in the entry: neither may be cached.
pub(super) fn entry_timeout(attr: &Attr) -> Duration {
    if control_dir::is_file(attr.ino) { Duration::ZERO } else { ENTRY_TIMEOUT }
}

/// The name of a request in error messages.
#[derive(Clone, Copy)]
pub(super) struct RequestInfo {
    pub what: &'static str,
    pub ino: u64,
}

/// The way back to whoever made a request, for an answer with a `T`.
pub(super) trait Reply<T>: Sized {
    fn send(self, answer: T);
    fn refuse(self, errno: i32);

    /// What came of the handling goes.
    fn finish(self, handled: Result<T, i32>) {
        match handled {
            Ok(answer) => self.send(answer),
            Err(errno) => self.refuse(errno),
        }
    }
}

impl RequestInfo {
    /// Handles the request: what to answer, or the errno. Nothing else ends the wait of the one who made it, and the
    /// thread has other requests to serve.
    pub(super) fn handle<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T, i32> {
        // What a panic leaves half done in a batch keeps that from being committed; locks are not poisoned.
        let result = caught(work).unwrap_or_else(|| {
            tracing::error!(
                request = self.what,
                ino = self.ino,
                "the handling of a request panicked; it is answered with an input/output error"
            );
            Err(Error::Posix(libc::EIO))
        });
        result.map_err(|error| self.errno(&error))
    }

    /// Handles the request and sends the answer.
    pub(super) fn answer<T>(self, reply: impl Reply<T>, work: impl FnOnce() -> Result<T>) {
        reply.finish(self.handle(work));
    }

    /// The errno for an error. Ordinary refusals are not logged; every other error is.
    fn errno(self, error: &Error) -> i32 {
        if !matches!(error, Error::Posix(_)) {
            tracing::warn!(request = self.what, ino = self.ino, "{error}");
        }
        error.errno()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes whatever is answered.
    struct Taken<'a>(&'a mut Option<Result<i32, i32>>);

    impl Reply<i32> for Taken<'_> {
        fn send(self, answer: i32) {
            *self.0 = Some(Ok(answer));
        }

        fn refuse(self, errno: i32) {
            *self.0 = Some(Err(errno));
        }
    }

    #[test]
    fn a_request_whose_handling_panics_is_answered() {
        let answer_to = |work: fn() -> Result<i32>| {
            let (request_info, mut answer) = (RequestInfo { what: "test", ino: 1 }, None);
            request_info.answer(Taken(&mut answer), work);
            assert_eq!(answer, Some(request_info.handle(work)));
            request_info.handle(work)
        };
        assert_eq!(answer_to(|| Ok(7)), Ok(7));
        assert_eq!(answer_to(|| Err(Error::Posix(libc::ENOENT))), Err(libc::ENOENT));
        assert_eq!(answer_to(|| Err(Error::Latched("a sync failed".into()))), Err(libc::EROFS));
        assert_eq!(answer_to(|| panic!("on purpose")), Err(libc::EIO));
    }
}
