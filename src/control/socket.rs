//! Where the control socket is, and how to reach it however long the store's path is.
//!
//! The address of a Unix socket holds 107 bytes. A longer store path is reached through `/proc/self/fd/N/`, the
//! opened directory, which is the same directory under a short name.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};

/// The socket's name in the store's directory.
const NAME: &str = "control.sock";

/// The longest path that fits into an address, its final NUL excluded.
const LONGEST_PATH: usize = 107;

/// A path that fits into an address. The directory stays open as long as the path is used.
struct ShortPath {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

fn short_path(store: &Path) -> io::Result<ShortPath> {
    let path = store.join(NAME);
    if path.as_os_str().as_bytes().len() <= LONGEST_PATH {
        return Ok(ShortPath { path, _dir: None });
    }
    let dir = rustix::fs::open(store, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(ShortPath {
        path: PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd())),
        _dir: Some(dir),
    })
}

/// Listens at the store's socket, replacing what a killed process left. To be called by the holder of the lock only.
pub(super) fn listen(store: &Path) -> Result<UnixListener> {
    let at = || format!("listening at {}", store.join(NAME).display());
    remove(store)?;
    let bound = || -> io::Result<OwnedFd> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Linux gives the socket's file the mode of the socket, so that it is never open to others, not even for a
        // moment between bind and chmod.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let short = short_path(store)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&short.path)?)?;
        rustix::net::listen(&socket, 16)?;
        Ok(socket)
    };
    bound().map(UnixListener::from).map_err(|e| Error::io(at(), e))
}

/// Removes the socket's file.
pub(super) fn remove(store: &Path) -> Result<()> {
    let path = store.join(NAME);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Connects to the process that has the store open. None if nobody listens there. With `patience`, no wait on the stream
/// is longer, and neither is the one for a place in the queue of a process that takes no connections.
pub(super) fn connect(store: &Path, patience: Option<Duration>) -> Result<Option<UnixStream>> {
    let connected = || -> io::Result<UnixStream> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let stream = UnixStream::from(socket);
        stream.set_write_timeout(patience)?;
        stream.set_read_timeout(patience)?;
        let short = short_path(store)?;
        rustix::net::connect(&stream, &SocketAddrUnix::new(&short.path)?)?;
        Ok(stream)
    };
    match connected() {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Error::Environment(format!(
            "no permission to use {}; run the command as the user who mounted the store, or as root",
            store.join(NAME).display()
        ))),
        Err(e) => Err(Error::io(format!("connecting to {}", store.join(NAME).display()), e)),
    }
}

/// An error if the process that had the store open ended without closing it: its socket is there, and nobody listens.
pub fn closed_in_order(store: &Path) -> Result<()> {
    let is_left = fs::symlink_metadata(store.join(NAME)).is_ok() && matches!(connect(store, None), Ok(None));
    if !is_left {
        return Ok(());
    }
    Err(Error::Environment(format!(
        "the process that had {} open ended without closing it (killed, or with the machine): what was written last \
         and not synced may be lost; mount it again and look at what was being written",
        store.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_long_path_works_and_a_stale_socket_is_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let long = tmp.path().join("d".repeat(120));
        for store in [tmp.path(), &long] {
            fs::create_dir_all(store).unwrap();
            assert!(connect(store, None).unwrap().is_none(), "nobody listens yet");
            closed_in_order(store).unwrap();
            drop(listen(store).unwrap());
            assert_eq!(
                closed_in_order(store).unwrap_err().exit_code(),
                7,
                "the listener has gone and left it"
            );
            assert!(store.join(NAME).exists());
            assert!(connect(store, None).unwrap().is_none(), "a stale socket is nobody");
            let _listener = listen(store).unwrap();
            assert!(connect(store, None).unwrap().is_some());
            closed_in_order(store).unwrap();
            let mode = fs::metadata(store.join(NAME)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            remove(store).unwrap();
            remove(store).unwrap();
        }
    }
}
