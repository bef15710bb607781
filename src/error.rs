//! The one error type of the crate.
//!
//! Every variant carries the object it is about. Only [`Error::errno`] turns an error into what a program sees through
//! the mount, and only [`Error::exit_code`] turns it into what a shell sees. Both are exhaustive matches, so a new
//! variant needs a decision in each. Panics of other crates that should become errors pass through [`contained`].

use std::cell::Cell;
use std::io;
use std::panic::PanicHookInfo;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A plain POSIX refusal: the caller asked for something the filesystem's rules do not allow.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Posix(i32),

    /// The host's file system refused an operation on one of the store's files.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The host's answer.
        source: io::Error,
    },

    /// Bytes in the store are not what was written.
    #[error("damaged: {0}; run `cairnfs check --data` to see which files are affected")]
    Damaged(String),

    /// The metadata database cannot be opened; the text says what to do.
    #[error("{0}")]
    Unusable(String),

    /// The store stopped accepting changes after a failed write or sync (I8).
    #[error(
        "the store is read-only since an earlier failure ({0}); unmount it, look at the disk, mount it again"
    )]
    Latched(String),

    /// The directory is not a store.
    #[error("{0}")]
    NotAStore(String),

    /// The store is in use by another process.
    #[error("{0}")]
    Busy(String),

    /// Wrong arguments, options or values.
    #[error("{0}")]
    Usage(String),

    /// The store's format is not one this program knows.
    #[error("{0}")]
    Format(String),

    /// A cycle was ended before it freed anything more (I7), or by request.
    #[error("the cycle was ended: {0}; nothing that is needed was freed")]
    CycleEnded(String),

    /// Something is missing on this machine: /dev/fuse, fusermount3, a right.
    #[error("{0}")]
    Environment(String),

    /// A check found damage; the text is the summary.
    #[error("{0}")]
    CheckFailed(String),

    /// A store works but needs attention; the text says why.
    #[error("{0}")]
    Unwell(String),
}

impl Error {
    /// An I/O error with what was being done.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// Bytes that do not decode.
    pub fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// A panic during the named operation; the panic itself was reported where it happened.
    pub fn panicked(what: &str) -> Self {
        Self::io(what, io::Error::other("it panicked; please report this"))
    }

    /// The errno a program sees when this error ends its request.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Posix(errno) => *errno,
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC) => libc::ENOSPC,
                Some(libc::EDQUOT) => libc::ENOSPC,
                _ => libc::EIO,
            },
            Self::Latched(_) => libc::EROFS,
            Self::Busy(_) => libc::EBUSY,
            Self::Usage(_) => libc::EINVAL,
            Self::Damaged(_)
            | Self::Unusable(_)
            | Self::NotAStore(_)
            | Self::Format(_)
            | Self::CycleEnded(_)
            | Self::Environment(_)
            | Self::CheckFailed(_)
            | Self::Unwell(_) => libc::EIO,
        }
    }

    /// The exit code of a command that ends with this error; `docs/operations.md` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Posix(_) | Self::Io { .. } | Self::Latched(_) | Self::CycleEnded(_) => 1,
            Self::Usage(_) => 2,
            Self::NotAStore(_) => 3,
            Self::Busy(_) => 4,
            Self::Format(_) => 5,
            Self::Damaged(_) | Self::Unusable(_) | Self::CheckFailed(_) => 6,
            Self::Environment(_) => 7,
            Self::Unwell(_) => 8,
        }
    }

    /// True if the host refused access, for a reason that has nothing to do with the stored bytes: a missing right, no
    /// descriptors, no memory, a removed disk.
    pub fn is_access_error(&self) -> bool {
        let refusals = [
            libc::EACCES,
            libc::EPERM,
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOMEM,
            libc::ENOBUFS,
            libc::EINTR,
            libc::EAGAIN,
            libc::ENODEV,
            libc::ENXIO,
            libc::ESTALE,
            libc::ENOTCONN,
            libc::ESHUTDOWN,
            libc::ETIMEDOUT,
        ];
        self.host_errno().is_some_and(|errno| refusals.contains(&errno))
    }

    /// True if the host could not read existing bytes. The error may be transient: only if it happens at two different
    /// moments it counts as damage.
    pub fn is_read_error(&self) -> bool {
        self.host_errno().is_some_and(|errno| errno != libc::ENOENT) && !self.is_access_error()
    }

    fn host_errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// True where the host said that its disk is full.
    pub fn is_no_space(&self) -> bool {
        self.errno() == libc::ENOSPC
    }
}

thread_local! {
    /// How many calls of [`contained`] this thread is in.
    static CONTAINED: Cell<u32> = const { Cell::new(0) };
}

/// Runs `work` and returns its panic, without a report by [`on_panic`]. It is for code of other crates that panics
/// instead of returning an error. Use it only if everything that the code may leave half done is discarded.
pub fn contained<R>(work: impl FnOnce() -> R) -> std::thread::Result<R> {
    CONTAINED.with(|depth| depth.set(depth.get() + 1));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    CONTAINED.with(|depth| depth.set(depth.get() - 1));
    done
}

/// Calls `tell` for each panic, except those that become an error.
pub fn on_panic(tell: impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |info| {
        if CONTAINED.with(Cell::get) == 0 {
            tell(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests panic beside this one, on threads of their own.
    #[test]
    fn a_contained_panic_is_returned_and_not_told() {
        let me = std::thread::current().id();
        let (told, tells) = std::sync::mpsc::channel();
        on_panic(move |info| {
            if std::thread::current().id() == me {
                let _ = told.send(info.to_string());
            }
        });
        let inner = || contained(|| panic!("of the inner one")).is_err();
        assert!(contained(|| assert!(inner())).is_ok());
        assert!(contained(|| panic!("of the outer one")).is_err());
        assert!(std::panic::catch_unwind(|| panic!("of nobody")).is_err());
        drop(std::panic::take_hook());
        let told: Vec<String> = tells.iter().collect();
        assert!(told.len() == 1 && told[0].contains("of nobody"), "{told:?}");
    }
}
