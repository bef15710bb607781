//! The control socket, and how to reach it even if the store's path is long.
//!
//! The address of a Unix socket holds 107 bytes. A longer store path is reached through `/proc/self/fd/N/`, the opened
//! directory, which is the same directory under a short name. The socket itself is reached in the same way, opened
//! without following a link: in a user's store, root is led nowhere else.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};

/// The socket's name in the store's directory.
const NAME: &str = "control.sock";

/// How long a test connection without an answer may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest path that fits into an address, its final NUL excluded.
const MAX_PATH: usize = 107;

/// A path that fits into an address. The directory stays open as long as the path is used.
struct ShortPath {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

fn open_dir(store: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(store, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A descriptor of the socket's file, without opening it. Anything but a socket counts as missing.
fn hold(store: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::openat(open_dir(store)?, NAME, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode) != FileType::Socket {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(held)
}

/// A socket that root makes in a user's store belongs to that user.
fn give_to_owner(store: &Path) -> io::Result<()> {
    let owner = rustix::fs::fstat(open_dir(store)?)?;
    let held = hold(store)?;
    if rustix::process::geteuid().is_root() && rustix::fs::fstat(&held)?.st_uid != owner.st_uid {
        let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
        rustix::fs::chownat(&held, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

fn short_path(store: &Path) -> io::Result<ShortPath> {
    let path = store.join(NAME);
    if path.as_os_str().as_bytes().len() <= MAX_PATH {
        return Ok(ShortPath { path, _dir: None });
    }
    let dir = open_dir(store)?;
    Ok(ShortPath {
        path: PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd())),
        _dir: Some(dir),
    })
}

/// Listens at the store's socket and replaces one that a killed process has left. Only the holder of the lock may call
/// this.
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
    let socket = bound().map_err(|e| Error::io(at(), e))?;
    if let Err(error) = give_to_owner(store) {
        tracing::warn!("{} cannot be given to the store's owner: {error}", store.join(NAME).display());
    }
    Ok(socket.into())
}

/// Listens at an abstract name. It ends with its process and does not depend on paths.
pub(super) fn listen_abstract(name: &str) -> Result<UnixListener> {
    let bound = || -> io::Result<OwnedFd> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        rustix::net::listen(&socket, 16)?;
        Ok(socket)
    };
    bound().map(UnixListener::from).map_err(|e| Error::io(format!("listening at the socket {name}"), e))
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

/// Where a process that has a store open can be reached.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// At the socket in the store's directory.
    Store(PathBuf),
    /// At the abstract socket of this name.
    Abstract(String),
}

impl Address {
    fn shown(&self) -> String {
        match self {
            Self::Store(store) => store.join(NAME).display().to_string(),
            Self::Abstract(name) => format!("the socket {name}"),
        }
    }
}

/// Connects to the process that has the store open. None if nobody listens there. `timeout` bounds each wait on the
/// stream, and the wait for a process that accepts no connections.
pub(super) fn connect(address: &Address, timeout: Duration) -> Result<Option<UnixStream>> {
    let connected = || -> io::Result<UnixStream> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let stream = UnixStream::from(socket);
        stream.set_write_timeout(Some(timeout))?;
        stream.set_read_timeout(Some(timeout))?;
        match address {
            Address::Store(store) => {
                let held = hold(store)?;
                let path = format!("/proc/self/fd/{}", held.as_raw_fd());
                match rustix::net::connect(&stream, &SocketAddrUnix::new(path)?) {
                    // The descriptor is open, so this error does not mean that the file is missing.
                    Err(rustix::io::Errno::NOENT) => return Err(io::Error::other("/proc is not mounted")),
                    connected => connected?,
                }
            }
            Address::Abstract(name) => {
                rustix::net::connect(&stream, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
            }
        }
        Ok(stream)
    };
    match connected() {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Error::Environment(format!(
            "no permission to use {}; run the command as the user who mounted the store, or as root",
            address.shown()
        ))),
        Err(e) => Err(Error::io(format!("connecting to {}", address.shown()), e)),
    }
}

/// An error if the process that had the store open ended without closing it: its socket is there, and nobody listens.
pub fn closed_in_order(store: &Path) -> Result<()> {
    let is_left = fs::symlink_metadata(store.join(NAME)).is_ok()
        && matches!(connect(&Address::Store(store.to_owned()), PROBE_TIMEOUT), Ok(None));
    if !is_left {
        return Ok(());
    }
    Err(Error::Environment(format!(
        "the process that had {} open ended without closing it (it was killed, or the machine stopped): the \
         last writes that were not synced may be lost; mount it again and check the last writes",
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
            let connect = || connect(&Address::Store(store.to_owned()), PROBE_TIMEOUT);
            fs::create_dir_all(store).unwrap();
            assert!(connect().unwrap().is_none(), "nobody listens yet");
            closed_in_order(store).unwrap();
            drop(listen(store).unwrap());
            assert_eq!(
                closed_in_order(store).unwrap_err().exit_code(),
                7,
                "the listener has gone and left it"
            );
            assert!(store.join(NAME).exists());
            assert!(connect().unwrap().is_none(), "a stale socket is nobody");
            let _listener = listen(store).unwrap();
            assert!(connect().unwrap().is_some());
            closed_in_order(store).unwrap();
            let mode = fs::metadata(store.join(NAME)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            remove(store).unwrap();
            remove(store).unwrap();
        }
    }

    #[test]
    fn a_link_to_another_socket_is_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let (store, other) = (tmp.path().join("store"), tmp.path().join("other"));
        fs::create_dir(&store).unwrap();
        let elsewhere = UnixListener::bind(&other).unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        std::os::unix::fs::symlink(&other, store.join(NAME)).unwrap();
        assert!(connect(&Address::Store(store.clone()), PROBE_TIMEOUT).unwrap().is_none());
        assert_eq!(elsewhere.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody came");
        let _listener = listen(&store).unwrap();
        assert!(connect(&Address::Store(store.clone()), PROBE_TIMEOUT).unwrap().is_some());
        assert!(other.exists());
    }
}
