//! Mounting a FUSE connection at a directory, and unmounting it.
//!
//! Root calls mount(2). Where that is not permitted, fusermount3 (set-uid root) does it and passes the connection
//! back over a socket, which it finds as its standard input: so nothing has to be done between fork and exec.
//!
//! fuser could do both. It is not used for this because it calls umount once more when a session has ended. That would
//! unmount whatever is mounted there by then, for instance the disk below a mount over a mount point.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::options::{MountOptions, Remount};
use crate::error::{Error, Result};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
const HELPER_MISSING: &str = "fusermount3 is not there, which users other than root need to mount and unmount; install the \
                              package fuse3, or do it as root";
const RIGHT_MISSING: &str = "mounting needs the right CAP_SYS_ADMIN, which root does not have here (in a container, a user \
                             namespace or a service unit); give it that right, such as with `--cap-add SYS_ADMIN`";

/// Where to look for the helper beside PATH: mount(8) starts its helpers without a PATH.
const USUAL_PLACES: [&str; 6] =
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Whether an error says that the daemon of a mount is gone. The first request after its end may report an aborted
/// connection or, over io_uring, a cancelled one; later requests report that there is none.
pub fn nobody_answers(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED))
}

/// Resolves the mount point to the name under which it stands in the mount table.
pub(super) fn resolve(mountpoint: &Path) -> Result<PathBuf> {
    let shown = mountpoint.display();
    let environment = |text: String| Err(Error::Environment(text));
    match mountpoint.canonicalize().and_then(|path| Ok((path.metadata()?, path))) {
        Ok((meta, path)) if meta.is_dir() => Ok(path),
        Ok(_) => environment(format!("{shown} is not a directory; name one to mount at")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            environment(format!("the mount point {shown} does not exist; make it: mkdir -p {shown}"))
        }
        Err(error) if nobody_answers(&error) => {
            environment(format!("a dead FUSE mount is still at {shown}; take it away first: umount {shown}"))
        }
        Err(error) => environment(format!(
            "cannot use {shown} as a mount point: {error}; choose a directory that you can enter"
        )),
    }
}

/// Mounts at a directory from [`resolve`] and returns the connection. The kernel's first request waits on it.
pub(super) fn attach(mountpoint: &Path, opts: &MountOptions) -> Result<OwnedFd> {
    match attach_directly(mountpoint, opts)? {
        Some(device) => Ok(device),
        None => attach_with_helper(mountpoint, opts),
    }
}

/// mount(2). `None` if only root may call it.
fn attach_directly(mountpoint: &Path, opts: &MountOptions) -> Result<Option<OwnedFd>> {
    let device = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => {
            return Err(Error::Environment(format!(
                "{DEVICE} cannot be opened ({error}); load the module with `modprobe fuse`, or \
                 pass the device into the container"
            )));
        }
    };
    let mode = File::open(mountpoint)
        .and_then(|dir| dir.metadata())
        .map_err(|error| refused(mountpoint, &error.to_string()))?
        .permissions()
        .mode();
    let data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={}{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        opts.kernel_words(),
    );
    let data = CString::new(data).map_err(|error| refused(mountpoint, &error.to_string()))?;
    let kind = opts.fstype();
    match rustix::mount::mount(
        opts.fsname.as_os_str(),
        mountpoint,
        kind.as_str(),
        opts.flags(),
        data.as_c_str(),
    ) {
        Ok(()) => Ok(Some(device.into())),
        Err(Errno::PERM) => Ok(None),
        Err(Errno::NODEV) => Err(Error::Environment(String::from(
            "this kernel does not know FUSE; load the module with `modprobe fuse`",
        ))),
        Err(error) => Err(refused(mountpoint, &error.to_string())),
    }
}

fn refused(mountpoint: &Path, reason: &str) -> Error {
    Error::Environment(format!(
        "mounting at {} was refused: {reason}; mount as root or at a directory of your own",
        mountpoint.display()
    ))
}

/// An error that names what this user lacks for a mount, as far as that can be known before trying.
pub fn can_mount() -> Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { helper().map(drop) }
}

/// The program that mounts for users who may not call mount(2).
fn helper() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(USUAL_PLACES.map(PathBuf::from));
    dirs.map(|dir| dir.join(HELPER)).find(|file| is_program(file)).ok_or_else(without_helper)
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The error without the helper. Root does not need the helper; for root it names the missing right instead.
fn without_helper() -> Error {
    let root = rustix::process::geteuid().is_root();
    Error::Environment(String::from(if root { RIGHT_MISSING } else { HELPER_MISSING }))
}

fn attach_with_helper(mountpoint: &Path, opts: &MountOptions) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| Error::io("making a socket pair", error))?;
    let child = Command::new(helper()?)
        .arg("-o")
        .arg(opts.helper_words())
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| helper_failed(&error))?;
    // The pipe ends with the helper. Reading it first prevents a long message from blocking the helper.
    let mut complaint = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut complaint);
    }
    let status = child.wait().map_err(|error| helper_failed(&error))?;
    if !status.success() {
        return Err(explain(mountpoint, complaint.trim()));
    }
    receive(&ours)?.ok_or_else(|| explain(mountpoint, complaint.trim()))
}

fn helper_failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => without_helper(),
        _ => Error::Environment(format!("{HELPER} could not be run: {error}; run it by hand to see why")),
    }
}

/// The message of fusermount3, as a sentence that says what to do.
fn explain(mountpoint: &Path, complaint: &str) -> Error {
    let shown = mountpoint.display();
    let said = complaint.strip_prefix("fusermount3: ").unwrap_or(complaint);
    Error::Environment(if rustix::process::geteuid().is_root() && said.contains("not permitted") {
        String::from(RIGHT_MISSING)
    } else if said.contains("user_allow_other") {
        String::from(
            "the option allow_other is not permitted to users here; write `user_allow_other` \
             into /etc/fuse.conf, or mount without it",
        )
    } else if said.contains(DEVICE) {
        format!("{said}; give your user the right to use {DEVICE}, or mount as root")
    } else if said.contains("no write access") || said.contains("Permission denied") {
        format!("{shown} is not yours to mount at ({said}); choose a directory that you own")
    } else {
        format!("{HELPER} refused to mount at {shown}: {said}; mount as root, or see fusermount3(1)")
    })
}

/// The descriptor that the helper sent, if it sent one.
fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| Error::io(format!("receiving the connection from {HELPER}"), error.into()))?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Changes a mount that is there, as root.
pub fn remount(mountpoint: &Path, change: Remount) -> Result<()> {
    let shown = mountpoint.display();
    let failed = |error: Errno| Error::io(format!("changing the mount at {shown}"), error.into());
    let present = rustix::fs::statvfs(mountpoint).map_err(failed)?.f_flag;
    rustix::mount::mount_remount(mountpoint, change.flags(present), c"").map_err(|error| match error {
        Errno::PERM => Error::Environment(format!(
            "only root may change a mount (CAP_SYS_ADMIN is missing); unmount {shown} and mount it again"
        )),
        Errno::BUSY => Error::Busy(format!(
            "{shown} cannot become read-only: a program has a file open for writing there (`fuser -vm {shown}` shows \
             which)"
        )),
        error => failed(error),
    })
}

/// How to give up a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmountMode {
    /// Refused while a program uses it.
    Normal,
    /// Detached at once, unmounted when the last program has left it.
    Lazy,
    /// Even if the daemon does not answer.
    Force,
}

/// Unmounts by the system call, or through fusermount3 if that is not permitted. A busy mount is [`Error::Busy`]; if
/// nothing is mounted there, this is success.
pub fn detach(mountpoint: &Path, how: UnmountMode) -> Result<()> {
    let flags = match how {
        UnmountMode::Normal => UnmountFlags::empty(),
        UnmountMode::Lazy => UnmountFlags::DETACH,
        UnmountMode::Force => UnmountFlags::FORCE,
    };
    match rustix::mount::unmount(mountpoint, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(busy(mountpoint)),
        Err(Errno::PERM) if how == UnmountMode::Lazy => detach_with_helper(mountpoint, &["-u", "-z"]),
        Err(Errno::PERM) => detach_with_helper(mountpoint, &["-u"]),
        Err(error) => Err(not_unmounted(mountpoint, error)),
    }
}

/// Aborts the connection: waiting requests get ECONNABORTED.
pub(super) fn abort(mountpoint: &Path) -> Result<()> {
    rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE)
        .map_err(|error| not_unmounted(mountpoint, error))
}

fn detach_with_helper(mountpoint: &Path, flags: &[&str]) -> Result<()> {
    let Output { status, stderr, .. } = Command::new(helper()?)
        .args(flags)
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| helper_failed(&error))?;
    let complaint = String::from_utf8_lossy(&stderr);
    if status.success() {
        Ok(())
    } else if complaint.contains("busy") {
        Err(busy(mountpoint))
    } else {
        Err(Error::Environment(format!("unmounting {}: {}", mountpoint.display(), complaint.trim())))
    }
}

fn not_unmounted(mountpoint: &Path, error: Errno) -> Error {
    Error::io(format!("unmounting {}", mountpoint.display()), error.into())
}

fn busy(mountpoint: &Path) -> Error {
    Error::Busy(format!(
        "{0} is in use: a program has a file open or its working directory there (`fuser -vm {0}` shows which)",
        mountpoint.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_become_sentences_with_a_way_out() {
        let explained = |said: &str| explain(Path::new("/m"), said).to_string();
        let text = explained(
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf",
        );
        assert!(text.contains("write `user_allow_other`"), "{text}");
        let text = explained("fusermount3: user has no write access to mountpoint /m");
        assert!(text.contains("choose a directory that you own"), "{text}");
        let text = explained("fusermount3: failed to open /dev/fuse: Permission denied");
        assert!(text.contains("mount as root"), "{text}");
    }

    #[test]
    fn a_missing_mount_point_is_named_with_the_command_that_makes_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let missing = dir.path().join("m");
        let error = resolve(&missing).expect_err("does not exist");
        assert!(error.to_string().contains("mkdir -p"), "{error}");
        std::fs::write(&missing, "").expect("writes");
        let error = resolve(&missing).expect_err("is a file");
        assert!(error.to_string().contains("not a directory"), "{error}");
        assert_eq!(error.exit_code(), 7);
    }
}
