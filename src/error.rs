//! The one error type of the crate.
//!
//! Every variant carries the object it is about. [`Error::errno`] is the single place where an error becomes what a
//! program sees through the mount, [`Error::exit_code`] the single place where it becomes what a shell sees; both are
//! exhaustive matches, so a new variant has to decide.

use std::io;

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

    /// The metadata database cannot be opened; the text says the way out.
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

    /// The caller's words do not fit: arguments, options, values.
    #[error("{0}")]
    Usage(String),

    /// The store's format is not one this program knows.
    #[error("{0}")]
    Format(String),

    /// A cycle was ended before it freed anything more (I7), or by request.
    #[error("the cycle was ended: {0}; nothing that is needed was freed")]
    CycleEnded(String),

    /// What the machine has to offer does not suffice: no /dev/fuse, no fusermount3, a lacking right.
    #[error("{0}")]
    Environment(String),

    /// A check found damage; the text is the summary.
    #[error("{0}")]
    CheckFailed(String),
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
            | Self::CheckFailed(_) => libc::EIO,
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
        }
    }

    /// True where the host said that its disk is full.
    pub fn is_no_space(&self) -> bool {
        self.errno() == libc::ENOSPC
    }
}
