//! Tasks that access a mount run in a child process.
//!
//! A request to a FUSE mount cannot be cancelled once the daemon has taken it: even SIGKILL does not end a process that
//! waits there. So two kinds of process never access a mount themselves. One is the daemon: if it were killed while one
//! of its threads waits for its own mount, it would keep the connection open, wait for itself for ever and hold the
//! store's lock. The other is a command, which has to return to its user even if the daemon does not answer. Both start
//! this program once more, with `child_task`, and wait for that process as long as they want.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::mount::{UnmountMode, detach, nobody_answers};
use super::mount_table::{MountTable, id_of};
use super::protect;
use super::xattr::PRESENCE;
use crate::error::{Error, Result};
use crate::store::CONFIG_FILE;

/// The hidden command.
const COMMAND: &str = "child-task";

/// This program, even if its path is hidden by a mount or was replaced.
const MYSELF: &str = "/proc/self/exe";

/// More bytes than any presence has.
const MAX_PRESENCE: usize = 4096;

/// A task at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildTask {
    /// Report what is at the path, and the answer of the daemon that serves it.
    Ask,
    /// Let the kernel learn which requests a new mount does not need.
    Prime,
    /// Make the kernel write out its changed pages.
    Flush,
    /// Unmount if nobody uses it.
    Unmount,
    /// Detach the mount.
    LazyUnmount,
}

impl ChildTask {
    const ALL: [(&str, Self); 5] = [
        ("ask", Self::Ask),
        ("prime", Self::Prime),
        ("flush", Self::Flush),
        ("unmount", Self::Unmount),
        ("lazy-unmount", Self::LazyUnmount),
    ];

    /// The task with this name.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == word).map(|(_, child_task)| *child_task)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, child_task)| *child_task == self).map_or("", |(name, _)| name)
    }

    /// Runs the task; the result goes to standard output.
    pub fn run(self, path: &Path) -> Result<()> {
        match self {
            Self::Ask => {
                let found = serde_json::to_string(&look(path))
                    .map_err(|e| Error::io("encoding what was found", e.into()))?;
                println!("{found}");
                Ok(())
            }
            Self::Prime => prime(path),
            Self::Flush => flush(path).map_err(|e| Error::io(format!("flushing {}", path.display()), e)),
            Self::Unmount => detach(path, UnmountMode::Normal),
            Self::LazyUnmount => detach(path, UnmountMode::Lazy),
        }
    }

    fn command(self, path: &Path) -> Command {
        let mut command = Command::new(MYSELF);
        command.arg(COMMAND).arg(self.name()).arg("--").arg(path).stdin(Stdio::null());
        command
    }

    /// Runs the task in a child process and waits for it; an error has its message. If no process can be started, runs
    /// the task here.
    pub fn send(self, path: &Path) -> Result<()> {
        let child = self.command(path).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let done = match child {
            Ok(child) => child.wait_with_output(),
            Err(error) => {
                tracing::debug!("starting a process for `{}`: {error}", self.name());
                return self.run(path);
            }
        };
        let done = done.map_err(|e| Error::io(format!("waiting for `{}`", self.name()), e))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.trim().strip_prefix("cairnfs: ").unwrap_or(said.trim()).to_owned();
        match done.status.code() {
            Some(4) => Err(Error::Busy(said)),
            _ if said.is_empty() => {
                Err(Error::Environment(format!("{} at {}: {}", self.name(), path.display(), done.status)))
            }
            _ => Err(Error::Environment(said)),
        }
    }

    /// The same, but waits no longer than `timeout`; false if that was too short. The child process then goes on.
    pub fn send_within(self, path: &Path, timeout: Duration) -> bool {
        let Ok(child) = self.command(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            return self.run(path).is_ok();
        };
        within(child, timeout, |child| child.wait().is_ok_and(|status| status.success())).unwrap_or(false)
    }
}

/// Asks what is at a path. `None` if the answer takes longer than `timeout`: there is a mount whose daemon does not
/// answer.
pub fn ask(path: &Path, timeout: Duration) -> Result<Option<PathInfo>> {
    if cfg!(test) {
        // The program of the unit tests has no such command.
        return Ok(Some(look(path)));
    }
    let child = ChildTask::Ask.command(path).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(child) = child else {
        return Ok(Some(look(path)));
    };
    let answer = within(child, timeout, |child| {
        let mut text = String::new();
        let read = child.stdout.take().map_or(Ok(0), |mut out| out.read_to_string(&mut text));
        let ended = child.wait();
        read.and(ended).map(|_| text)
    });
    let Some(text) = answer else { return Ok(None) };
    let asking = || format!("asking what is at {}", path.display());
    let text = text.map_err(|e| Error::io(asking(), e))?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::io(asking(), e.into()))
}

/// Waits for a child in a thread of its own. The child may hang in the kernel; then both are left alone, and end when
/// the request does.
fn within<T: Send + 'static>(
    mut child: Child,
    timeout: Duration,
    wait: impl FnOnce(&mut Child) -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::channel();
    let pid = rustix::process::Pid::from_child(&child);
    thread::spawn(move || tell.send(wait(&mut child)));
    let done = told.recv_timeout(timeout).ok();
    if done.is_none() {
        // It ends as soon as it can.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    done
}

/// What is at a path.
#[derive(Debug, Serialize, Deserialize)]
pub struct PathInfo {
    /// The path without symbolic links, byte by byte.
    real: Vec<u8>,
    /// The kernel's number of the mount it is in; 0 if the path could not be read.
    pub mount: u64,
    /// Whether it is the directory of a store; the errno of the host if that cannot be found out.
    pub store: std::result::Result<bool, i32>,
    /// The answer of the mount.
    pub answer: MountAnswer,
}

/// The answer of the mount at a path.
#[derive(Debug, Serialize, Deserialize)]
pub enum MountAnswer {
    /// The path cannot be read: the errno of the host.
    NotThere(i32),
    /// It is in no mount of ours.
    NotOurs,
    /// It is in a mount of ours, with this presence of its daemon.
    Presence(String),
    /// It is in a mount of ours whose daemon is gone.
    Dead,
    /// It is in a mount of ours whose daemon may not be asked: the errno.
    Refused(i32),
}

impl PathInfo {
    /// The path without symbolic links.
    pub fn real(&self) -> PathBuf {
        PathBuf::from(std::ffi::OsString::from_vec(self.real.clone()))
    }
}

/// Finds out what is at a path; may wait for a daemon.
fn look(path: &Path) -> PathInfo {
    let nothing = |answer| PathInfo { real: absolute(path), mount: 0, store: Ok(false), answer };
    // Opened like this, the root of a mount needs no request to its daemon.
    let file = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(error) if nobody_answers(&error.into()) => return nothing(MountAnswer::Dead),
        Err(error) => return nothing(MountAnswer::NotThere(error.raw_os_error())),
    };
    let here = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Without /proc, use the path again.
    let real = fs::read_link(&here).or_else(|_| fs::canonicalize(path));
    let real = real.map_or_else(|_| absolute(path), |real| real.into_os_string().into_vec());
    let mount = id_of(&file).unwrap_or(0);
    let ours = MountTable::read().is_ok_and(|table| table.by_id(mount).is_some_and(|e| e.is_ours()));
    let store = match rustix::fs::statat(&file, CONFIG_FILE, AtFlags::empty()) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode).is_file()),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) if nobody_answers(&e.into()) => Ok(false),
        Err(e) => Err(e.raw_os_error()),
    };
    let answer = if ours { ask_mount(&here) } else { MountAnswer::NotOurs };
    PathInfo { real, mount, store, answer }
}

fn absolute(path: &Path) -> Vec<u8> {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).into_os_string().into_vec()
}

/// Any file of a mount has the answer, also if only a part of the mount is visible through a bind mount.
fn ask_mount(path: &Path) -> MountAnswer {
    let mut value = [0; MAX_PRESENCE];
    match rustix::fs::getxattr(path, OsStr::from_bytes(PRESENCE), &mut value[..]) {
        Ok(length) => MountAnswer::Presence(String::from_utf8_lossy(&value[..length]).into_owned()),
        Err(error) if nobody_answers(&error.into()) => MountAnswer::Dead,
        Err(error) => MountAnswer::Refused(error.raw_os_error()),
    }
}

/// Root may not look into a user's mount. The daemon already has everything written with write(2), and the kernel
/// writes out the rest when the mount ends.
fn flush(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        root => protect::write_out_all(&root?),
    }
}

/// Lets the kernel learn which requests it need not send. Until it has opened one file, it sends a request at the end
/// of each file that it makes; the same holds for directories.
fn prime(mountpoint: &Path) -> Result<()> {
    let learned = || -> io::Result<()> {
        fs::metadata(mountpoint)?;
        fs::read(mountpoint.join(".cairnfs/generation"))?;
        probe_copy_file_range(mountpoint);
        fs::read_dir(mountpoint).map(drop)
    };
    learned().map_err(|e| Error::io(format!("the new mount at {}", mountpoint.display()), e))
}

/// A kernel with a newer form of copy_file_range tries that one first. If two programs do so at once and both get "no
/// such request", the kernel takes the second answer for one about the older form, and from then on every copy in this
/// mount is done by reading and writing. So this function makes the kernel try once, before any program can, with a
/// copy that is refused.
fn probe_copy_file_range(mountpoint: &Path) {
    let from = File::open(mountpoint.join(".cairnfs/generation"));
    let to = File::options().write(true).open(mountpoint.join(".cairnfs/gc"));
    // On a read-only mount there is nothing to learn.
    if let (Ok(from), Ok(to)) = (from, to)
        && let Err(error) = rustix::fs::copy_file_range(from, Some(&mut 0), to, Some(&mut 0), 1)
        && error != Errno::INVAL
    {
        tracing::debug!("a copy that was to be refused: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errand_has_a_name_of_its_own() {
        for (name, child_task) in ChildTask::ALL {
            assert_eq!(ChildTask::named(name), Some(child_task));
            assert_eq!(child_task.name(), name);
        }
        assert_eq!(ChildTask::named("fly"), None);
    }

    #[test]
    fn what_is_at_a_path_survives_the_pipe() {
        let tmp = tempfile::tempdir().unwrap();
        let odd = tmp.path().join(OsStr::from_bytes(b"st\xffore"));
        fs::create_dir(&odd).unwrap();
        let again = |path: &Path| -> PathInfo {
            serde_json::from_str(&serde_json::to_string(&look(path)).unwrap()).unwrap()
        };
        let found = again(&odd);
        assert_eq!(found.real(), fs::canonicalize(&odd).unwrap());
        assert!(found.mount != 0 && matches!((found.store, found.answer), (Ok(false), MountAnswer::NotOurs)));
        fs::write(odd.join(CONFIG_FILE), "").unwrap();
        assert_eq!(again(&odd).store, Ok(true));
        assert!(matches!(again(&tmp.path().join("none")).answer, MountAnswer::NotThere(libc::ENOENT)));
        assert_eq!(again(&tmp.path().join("n".repeat(300))).mount, 0);
    }

    #[test]
    fn who_hangs_is_not_waited_for() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(within(child, Duration::from_millis(1), |child| child.wait().is_ok()).is_none());
        let child = Command::new("true").spawn().unwrap();
        assert_eq!(
            within(child, Duration::from_secs(100), |child| child.wait().unwrap().success()),
            Some(true)
        );
    }
}
