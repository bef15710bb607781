//! The resource limits of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A limit that a mount can run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Files that are open at a time.
    OpenFiles,
    /// The size in bytes to which this process can write a file.
    FileSize,
    /// Bytes of addresses.
    AddressSpace,
}

impl Limit {
    fn resource(self) -> Resource {
        match self {
            Self::OpenFiles => Resource::Nofile,
            Self::FileSize => Resource::Fsize,
            Self::AddressSpace => Resource::As,
        }
    }
}

/// Raises a limit as far as this process may. Returns the new limit; none if there is no limit.
pub fn raise(limit: Limit) -> Option<u64> {
    let found = getrlimit(limit.resource());
    if found.current == found.maximum {
        return found.current;
    }
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    // The system refuses more open files than it allows at all; then the limit stays as it was.
    if setrlimit(limit.resource(), raised).is_ok() { found.maximum } else { found.current }
}

/// How many files this process may have open at a time.
pub fn max_open_files_now() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
