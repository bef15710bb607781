//! One process has a store open at a time.
//!
//! The lock is the kernel's (`flock` on `STORE/lock`), so it ends with its holder however that ends. The text in the
//! file only says who the holder is; it is never what decides. The file is never removed: a second process could
//! otherwise lock the removed one while a third locks its successor.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{process, thread};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::error::{Error, Result};
use crate::sabotage::{Protection, out};

use super::HostMedia;

/// The lock's name in the store.
const NAME: &str = "lock";
/// How often a held lock is tried again.
const POLL: Duration = Duration::from_millis(20);
/// How long a note that cannot be its holder's is given to be replaced: the holder writes it right after it got the
/// lock.
const NOTE_GRACE: Duration = Duration::from_millis(100);
/// More of a note is not read.
const NOTE_MAX: usize = 256;

/// Held while this process has the store open.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
    path: PathBuf,
}

impl StoreLock {
    /// Locks the store in `media`, trying until `wait` is over; `who` is what others are told meanwhile.
    pub fn acquire(media: &HostMedia, wait: Duration, who: &str) -> Result<Self> {
        let dir = media.path();
        let path = dir.join(NAME);
        let file = open_or_make(media).map_err(|error| cannot_open(dir, &path, error))?;
        let begin = Instant::now();
        loop {
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            match locked {
                _ if out(Protection::StoreLock) => return Ok(Self { file, path }),
                Ok(()) => {
                    let lock = Self { file, path };
                    lock.note(who)?;
                    return Ok(lock);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => {
                    let what = format!("locking {}", path.display());
                    return Err(Error::io(what, errno.into()));
                }
            }
            let waited = begin.elapsed();
            let holder = Holder::read(&file);
            if waited >= wait && (holder.seen() || waited >= wait + NOTE_GRACE) {
                return Err(Error::Busy(holder.refusal(dir)));
            }
            thread::sleep(POLL.min(wait.saturating_sub(waited).max(Duration::from_millis(1))));
        }
    }

    /// Writes this process and `who` into the file; to be called again after a fork, which the lock outlives but the
    /// process id does not.
    pub fn note(&self, who: &str) -> Result<()> {
        let mut note = format!("pid {}: {}", process::id(), who.replace('\n', " "));
        while note.len() >= NOTE_MAX {
            note.pop();
        }
        note.push('\n');
        // A full disk must not keep a store closed: without a note, others are told a little less.
        let written = self.file.set_len(0).and_then(|()| self.file.write_all_at(note.as_bytes(), 0));
        match written {
            Err(error) if error.raw_os_error() != Some(libc::ENOSPC) => {
                Err(Error::io(format!("writing {}", self.path.display()), error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for StoreLock {
    /// Takes the note back if it is still this process's: after a fork the child has written its own. The lock itself
    /// ends when the last copy of the descriptor is closed; to unlock here would take it from such a child.
    fn drop(&mut self) {
        if Holder::read(&self.file).is_this_process()
            && let Err(error) = self.file.set_len(0)
        {
            tracing::debug!("emptying {}: {error}", self.path.display());
        }
    }
}

fn open_or_make(media: &HostMedia) -> io::Result<File> {
    loop {
        match media.open_file(NAME, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match media.create_file(NAME) {
                // Another process has made it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            },
            opened => return opened,
        }
    }
}

fn cannot_open(dir: &Path, path: &Path, error: io::Error) -> Error {
    if error.raw_os_error() == Some(libc::EROFS) {
        return Error::Environment(format!(
            "the store {} is on a read-only file system; even reading takes the lock and may repair the database: make it \
             writable (`mount -o remount,rw`), or copy the store elsewhere",
            dir.display()
        ));
    }
    Error::io(format!("opening {}", path.display()), error)
}

/// The note of whoever has, or had, the lock.
struct Holder(String);

impl Holder {
    fn read(file: &File) -> Self {
        let mut buf = [0; NOTE_MAX];
        let len = file.read_at(&mut buf, 0).unwrap_or(0);
        Self(String::from_utf8_lossy(&buf[..len]).trim().to_owned())
    }

    fn pid(&self) -> Option<Pid> {
        let number = self.0.strip_prefix("pid ")?.split(':').next()?;
        Pid::from_raw(number.parse().ok()?)
    }

    fn is_this_process(&self) -> bool {
        self.pid() == Some(rustix::process::getpid())
    }

    /// Whether the note names a process that lives. One that does not is either a dead holder's, left by a crash and
    /// about to be replaced, or that of a process in another container.
    fn seen(&self) -> bool {
        self.pid().is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }

    fn refusal(&self, dir: &Path) -> String {
        let store = dir.display();
        let advice = "unmount it there first, or give the command to the process that has it open";
        if self.seen() {
            format!("the store {store} is in use by {}; {advice}", self.0)
        } else if self.0.is_empty() {
            format!("the store {store} is in use by another process; {advice}")
        } else {
            format!(
                "the store {store} is in use by a process that cannot be seen from here, perhaps in a container; the \
                 last one to note its name was \"{}\"; {advice}",
                self.0
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(dir: &Path, wait: Duration, who: &str) -> Result<StoreLock> {
        StoreLock::acquire(&HostMedia::open(dir).unwrap(), wait, who)
    }

    fn refusal(dir: &Path) -> String {
        match acquire(dir, Duration::ZERO, "second") {
            Err(Error::Busy(text)) => text,
            other => panic!("expected Busy, got {other:?}"),
        }
    }

    #[test]
    fn the_second_is_refused_and_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let lock = acquire(dir.path(), Duration::ZERO, "mount on /mnt").unwrap();
        let text = refusal(dir.path());
        let holder = format!("pid {}: mount on /mnt;", process::id());
        assert!(text.contains(&holder), "{text}");
        lock.note("after a fork").unwrap();
        assert!(refusal(dir.path()).contains("after a fork"));
        drop(lock);
        acquire(dir.path(), Duration::ZERO, "third").unwrap();
    }

    #[test]
    fn a_waiting_one_gets_it_when_the_holder_goes() {
        let dir = tempfile::tempdir().unwrap();
        let first = acquire(dir.path(), Duration::ZERO, "first").unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| acquire(dir.path(), Duration::from_secs(60), "second"));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_dead_holders_note_neither_refuses_nor_accuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        // Above the largest process id Linux gives.
        let stale = "pid 2000000000: a mount that crashed and whose note is long enough\n";
        std::fs::write(&path, stale).unwrap();
        let lock = acquire(dir.path(), Duration::ZERO, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("pid {}: new\n", process::id()));
        // A holder that did not get to write its note.
        std::fs::write(&path, stale).unwrap();
        let text = refusal(dir.path());
        assert!(!text.contains("in use by pid 2000000000"), "{text}");
        std::fs::write(&path, "").unwrap();
        assert!(refusal(dir.path()).contains("in use by another process"));
        drop(lock);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = acquire(dir.path(), Duration::ZERO, &"\n\u{e4}".repeat(500)).unwrap();
        let note = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        assert!(note.len() <= NOTE_MAX && note.ends_with("\u{e4}\n") | note.ends_with(" \n"));
        assert_eq!(note.lines().count(), 1);
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("x"), dir.path().join(NAME)).unwrap();
        assert!(acquire(dir.path(), Duration::ZERO, "new").is_err());
        assert!(!dir.path().join("x").exists());
    }
}
