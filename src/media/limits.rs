//! What the kernel lets this process use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A limit that a mount can run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Files that are open at a time.
    OpenFiles,
    /// The size in bytes that a file is given by this process.
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

/// Raises a limit as far as this process may. What it is then; none if there is none.
pub fn raise(limit: Limit) -> Option<u64> {
    let found = getrlimit(limit.resource());
    if found.current == found.maximum {
        return found.current;
    }
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    // More open files than the system allows at all are refused here; then it stays as it was.
    if setrlimit(limit.resource(), raised).is_ok() { found.maximum } else { found.current }
}

/// How many files this process may have open at a time.
pub fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
