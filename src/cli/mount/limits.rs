//! The resource limits of a mount. They are raised as far as possible. If that is not enough, the mount is refused,
//! since it would fail later.

use crate::error::{Error, Result};
use crate::media::{Limit, raise};

/// Files that must be open at the same time: those of the store, its directories, connections of commands.
const OPEN_FILES: u64 = 128;
/// Addresses beside the caches: code, stacks of threads, arenas of the allocator and buffers.
const ADDRESSES: u64 = 1 << 30;

/// Raises the limits, or says which one is too low. `cache` is what the caches take, in bytes.
pub(super) fn ensure(cache: u64) -> Result<()> {
    enough(raise(Limit::OpenFiles), raise(Limit::FileSize), raise(Limit::AddressSpace), cache)
}

fn enough(files: Option<u64>, size: Option<u64>, addresses: Option<u64>, cache: u64) -> Result<()> {
    let refused =
        |text: String| Err(Error::Environment(format!("{text}. systemd units have Limit...= for it")));
    if let Some(files) = files.filter(|files| *files < OPEN_FILES) {
        return refused(format!(
            "a process may have {files} files open here, and a mount needs {OPEN_FILES}; `ulimit -n {OPEN_FILES}` as root \
             raises that"
        ));
    }
    if let Some(size) = size {
        return refused(format!(
            "a process may write files of {size} bytes at most here, and those of a store grow beyond any \
             limit; `ulimit -f unlimited` as root removes the limit"
        ));
    }
    let needed = ADDRESSES + cache;
    if let Some(addresses) = addresses.filter(|addresses| *addresses < needed) {
        return refused(format!(
            "a process may use {addresses} bytes of addresses here, and a mount with these caches needs \
             {needed}; `ulimit -v unlimited` as root removes the limit, and -o cache= makes the caches \
             smaller"
        ));
    }
    Ok(())
}

/// If a thread cannot be started, says which limit was reached. The number of threads depends on the machine, so it is
/// not checked before.
pub(super) fn explained(error: Error) -> Error {
    match error {
        Error::Io { what, source } if source.raw_os_error() == Some(libc::EAGAIN) => {
            Error::Environment(format!(
                "{what}: {source}; this user or group of processes has as many threads as it may (`ulimit -u`, TasksMax= of \
             systemd, pids.max of a cgroup)"
            ))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_that_is_too_low_is_named() {
        let cache = 192 << 20;
        enough(None, None, None, cache).unwrap();
        enough(Some(OPEN_FILES), None, Some(ADDRESSES + cache), cache).unwrap();
        for (files, size, addresses, named) in [
            (Some(OPEN_FILES - 1), None, None, "ulimit -n"),
            (None, Some(1 << 40), None, "ulimit -f"),
            (None, None, Some(ADDRESSES), "ulimit -v"),
        ] {
            let error = enough(files, size, addresses, cache).unwrap_err();
            assert!(error.exit_code() == 7 && error.to_string().contains(named), "{error}");
        }
        let threads = std::io::Error::from_raw_os_error(libc::EAGAIN);
        let error = explained(Error::io("starting workers", threads));
        assert!(error.exit_code() == 7 && error.to_string().contains("ulimit -u"), "{error}");
        assert!(matches!(explained(Error::Posix(libc::EAGAIN)), Error::Posix(_)));
    }
}
