//! One process has a store open at a time.
//!
//! The lock is the kernel's (`flock` on `STORE/lock`), so it ends with its holder however that ends. The file is never
//! removed: a second process could otherwise lock the removed one while a third locks its successor.
//!
//! If several machines reach a file system, or one machine reaches it in several ways, only some of them may see the
//! lock. There the note in the file ([`holder`](super::holder)) is a second check. A process that got the lock is
//! refused if the note says that another process may still live. If that cannot be found out, it is refused until a
//! person empties the file. The note never gives a store to anybody.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sabotage::{Protection, out};

use super::HostMedia;
use super::holder::{HolderState, HostId, NOTE_MAX, Note};

/// The lock's name in the store.
const NAME: &str = "lock";
/// How long a held lock is waited for without a word.
const SILENT_WAIT: Duration = Duration::from_secs(1);
/// How often a held lock is tried again.
const POLL: Duration = Duration::from_millis(20);
/// How long a process waits for a note that cannot be the holder's to be replaced: the holder writes its note right
/// after it got the lock. The same time is given to a holder that is just ending.
const NOTE_GRACE: Duration = Duration::from_millis(100);

/// The parameters of waiting and of the second check.
#[derive(Debug, Clone)]
struct HolderCheck {
    here: HostId,
    /// Getting the lock proves that nobody else holds it.
    trusted: bool,
    /// The interval of a holder's beats.
    beat: Duration,
    /// How long to watch for a beat. Hosts cache what they read for some seconds.
    watch: Duration,
    /// How long a held lock is waited for without a word.
    silence: Duration,
}

/// Held while this process has the store open.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
    path: PathBuf,
    here: HostId,
    heartbeat: Option<Heartbeat>,
}

fn is_lock_needed() -> bool {
    !out(Protection::StoreLock)
}

fn is_lock_seen() -> bool {
    !out(Protection::LockIsSeen)
}

fn is_holder_read() -> bool {
    !out(Protection::HolderIsRead)
}

/// The thread that writes the beats; it ends when this is dropped.
#[derive(Debug)]
struct Heartbeat {
    /// Dropped first.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreLock {
    /// Locks the store in `media`, trying until `wait` is over, which is said in the log once it lasts; `who` is what
    /// others are told meanwhile.
    pub fn acquire(media: &HostMedia, wait: Duration, who: &str) -> Result<Self> {
        let check = HolderCheck {
            here: HostId::here(),
            trusted: media.sees_all_locks() && is_lock_seen(),
            beat: Duration::from_secs(5),
            watch: Duration::from_secs(25),
            silence: SILENT_WAIT,
        };
        Self::acquire_with(media, wait, who, &check)
    }

    fn acquire_with(media: &HostMedia, wait: Duration, who: &str, check: &HolderCheck) -> Result<Self> {
        let dir = media.path();
        let path = dir.join(NAME);
        let file = open_lock_file(media).map_err(|error| cannot_open(dir, &path, error))?;
        let (begin, mut told) = (Instant::now(), false);
        loop {
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            let note = read_note(&file);
            let refusal = match locked {
                _ if !is_lock_needed() => return Ok(Self::of(file, path, check)),
                Err(errno) if !matches!(errno, Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(Error::io(format!("locking {}", path.display()), errno.into()));
                }
                // As on a host with local locks.
                Err(_) if is_lock_seen() => in_use(&note, dir, ADVICE),
                _ => match note.holder_state(&check.here, check.trusted, &file) {
                    _ if !is_holder_read() => return Self::begin(file, path, who, check),
                    HolderState::Free => return Self::begin(file, path, who, check),
                    HolderState::Rebooted if !beat_advances(media, &note, check) => {
                        return Self::begin(file, path, who, check);
                    }
                    HolderState::Alive => in_use(&note, dir, ADVICE),
                    HolderState::Rebooted | HolderState::Unseen => unseen(&note, dir),
                },
            };
            let waited = begin.elapsed();
            if waited >= wait && (locked.is_err() && note.is_alive() || waited >= wait + NOTE_GRACE) {
                return Err(Error::Busy(refusal));
            }
            if !told && locked.is_err() && (check.silence..wait).contains(&waited) {
                told = true;
                let until = format!("waiting for it, up to {} s", wait.as_secs());
                tracing::warn!("{}", in_use(&note, dir, &until));
            }
            thread::sleep(POLL.min(wait.saturating_sub(waited).max(Duration::from_millis(1))));
        }
    }

    fn of(file: File, path: PathBuf, check: &HolderCheck) -> Self {
        Self { file, path, here: check.here.clone(), heartbeat: None }
    }

    /// The lock is this process's.
    fn begin(file: File, path: PathBuf, who: &str, check: &HolderCheck) -> Result<Self> {
        let mut lock = Self::of(file, path, check);
        lock.note(who)?;
        if !check.trusted {
            lock.heartbeat = Some(Heartbeat::start(&lock, who, check)?);
        }
        Ok(lock)
    }

    /// Writes this process and `who` into the file. Call it again after a fork: the lock survives the fork, the process
    /// id does not.
    pub fn note(&self, who: &str) -> Result<()> {
        let note = Note::new(who, &self.here).encode();
        // A full disk must not keep a store closed: without a note, others only learn a little less.
        let written = self.file.set_len(0).and_then(|()| self.file.write_all_at(note.as_bytes(), 0));
        match written.map_err(|error| Error::io(format!("writing {}", self.path.display()), error)) {
            Err(error) if !error.is_no_space() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for StoreLock {
    /// Takes the note back if it is still this process's: after a fork the child has written its own. The lock itself
    /// ends when the last copy of the descriptor is closed; to unlock here would take it from such a child.
    fn drop(&mut self) {
        drop(self.heartbeat.take());
        if read_note(&self.file).is_this_process()
            && let Err(error) = self.file.set_len(0)
        {
            tracing::debug!("emptying {}: {error}", self.path.display());
        }
    }
}

impl Heartbeat {
    fn start(lock: &StoreLock, who: &str, check: &HolderCheck) -> Result<Self> {
        let failed = |error| Error::io("starting the thread that shows that the store is in use", error);
        let file = lock.file.try_clone().map_err(failed)?;
        let (mut note, every) = (Note::new(who, &check.here), check.beat);
        let (stop, stopped) = mpsc::channel::<()>();
        let beat = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                note.beat += 1;
                // Each beat has the same length. A missing beat makes nobody think that the store is free.
                if let Err(error) = file.write_all_at(note.encode().as_bytes(), 0) {
                    tracing::debug!("noting that the store is in use: {error}");
                }
            }
        };
        let thread = thread::Builder::new().name("cairn-beat".into()).spawn(beat).map_err(failed)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Nothing in it panics, and nothing waits for it but this.
            let _ = thread.join();
        }
    }
}

fn open_lock_file(media: &HostMedia) -> io::Result<File> {
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

fn read_note(file: &File) -> Note {
    let mut buf = [0; NOTE_MAX];
    let len = file.read_at(&mut buf, 0).unwrap_or(0);
    Note::decode(&buf[..len])
}

/// Whether the beat of the note goes on. Each look opens the file again, so that a host that caches it reads it again.
/// Any other change of the note also shows that somebody has the store.
fn beat_advances(media: &HostMedia, note: &Note, check: &HolderCheck) -> bool {
    let begin = Instant::now();
    tracing::warn!(
        "{}: the machine was started anew while the store was open; looking for {} s whether a copy of the machine has \
         it open",
        media.path().display(),
        check.watch.as_secs()
    );
    while begin.elapsed() < check.watch {
        thread::sleep(check.beat / 5);
        if media.open_file(NAME, false).is_ok_and(|file| read_note(&file) != *note) {
            return true;
        }
    }
    false
}

const ADVICE: &str = "unmount it there first, or give the command to the process that has it open";

/// Who has the store, and what follows from it.
fn in_use(note: &Note, dir: &Path, so: &str) -> String {
    let store = dir.display();
    if note.is_alive() {
        format!("the store {store} is in use by {}; {so}", note.text)
    } else if note.is_empty() {
        format!("the store {store} is in use by another process; {so}")
    } else {
        format!(
            "the store {store} is in use by a process that cannot be seen from here, perhaps in a container; the last one \
             to note its name was \"{}\"; {so}",
            note.text
        )
    }
}

fn unseen(note: &Note, dir: &Path) -> String {
    let store = dir.display();
    format!(
        "the store {store} was opened on another machine or in another container (\"{}\") and not closed, and its lock \
         cannot be seen from here; two processes would destroy it. {ADVICE}. If that process or its machine has ended, say \
         so with `truncate -s 0 {store}/{NAME}`",
        note.text
    )
}

#[cfg(test)]
mod tests {
    use std::process;

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

    /// What is said in the log.
    #[derive(Clone, Default)]
    struct Said(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

    impl io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_that_waits_says_so_once_and_whom_it_waits_for() {
        let (dir, said) = (tempfile::tempdir().unwrap(), Said::default());
        let first = acquire(dir.path(), Duration::ZERO, "mounted at /m").unwrap();
        let text = || String::from_utf8(said.0.lock().clone()).unwrap();
        thread::scope(|scope| {
            let log = said.clone();
            let logger = tracing_subscriber::fmt().with_writer(move || log.clone()).finish();
            let second = scope.spawn(|| {
                let media = HostMedia::open(dir.path()).unwrap();
                let wait = Duration::from_secs(60);
                tracing::subscriber::with_default(logger, || {
                    StoreLock::acquire_with(&media, wait, "second", &check(true))
                })
            });
            while text().is_empty() {
                thread::yield_now();
            }
            drop(first);
            second.join().unwrap().unwrap();
        });
        let expected =
            format!("is in use by pid {}: mounted at /m; waiting for it, up to 60 s", process::id());
        assert!(text().contains(&expected) && text().lines().count() == 1, "{}", text());
    }

    #[test]
    fn a_dead_holders_note_neither_refuses_nor_accuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        // Above the largest process id Linux gives.
        let stale = "pid 2000000000: a mount that crashed and whose note is long enough\n";
        std::fs::write(&path, stale).unwrap();
        let lock = acquire(dir.path(), Duration::ZERO, "new").unwrap();
        let note = std::fs::read_to_string(&path).unwrap();
        assert_eq!(note.lines().next(), Some(&*format!("pid {}: new", process::id())));
        // A holder that did not get to write its note.
        std::fs::write(&path, stale).unwrap();
        let text = refusal(dir.path());
        assert!(!text.contains("in use by pid 2000000000"), "{text}");
        std::fs::write(&path, "").unwrap();
        assert!(refusal(dir.path()).contains("in use by another process"));
        drop(lock);
    }

    /// A note of a process elsewhere, as it would stand there.
    fn note_of(boot: &str, machine: &str, beat: u64) -> String {
        format!("pid 5: mounted at /m\nboot {boot} machine {machine} pids 1 started 9 beat {beat:012}\n")
    }

    fn check(trusted: bool) -> HolderCheck {
        let here = HostId { boot: "b2".into(), machine: "m1".into(), pids: "2".into() };
        HolderCheck {
            here,
            trusted,
            beat: Duration::from_millis(10),
            watch: Duration::from_millis(300),
            silence: Duration::ZERO,
        }
    }

    fn guarded(dir: &Path, trusted: bool) -> Result<StoreLock> {
        StoreLock::acquire_with(&HostMedia::open(dir).unwrap(), Duration::ZERO, "new", &check(trusted))
    }

    #[test]
    fn where_locks_may_be_local_the_note_of_another_machine_refuses_until_a_person_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, note_of("b1", "m2", 3)).unwrap();
        drop(guarded(dir.path(), true).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"", "closed in order");
        drop(guarded(dir.path(), false).unwrap());
        std::fs::write(&path, note_of("b1", "m2", 3)).unwrap();
        let error = guarded(dir.path(), false).unwrap_err();
        let way_out = format!("truncate -s 0 {}", path.display());
        assert!(error.exit_code() == 4 && error.to_string().contains(&way_out), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), note_of("b1", "m2", 3));
        std::fs::write(&path, "").unwrap();
        guarded(dir.path(), false).unwrap();
    }

    #[test]
    fn a_note_from_before_a_reboot_refuses_only_while_its_beat_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, note_of("b1", "m1", 3)).unwrap();
        drop(guarded(dir.path(), false).unwrap());
        std::fs::write(&path, note_of("b1", "m1", 3)).unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let beats = thread::spawn({
            let path = path.clone();
            move || {
                for beat in 4.. {
                    File::options()
                        .write(true)
                        .open(&path)
                        .unwrap()
                        .write_all_at(note_of("b1", "m1", beat).as_bytes(), 0)
                        .unwrap();
                    if stopped.recv_timeout(Duration::from_millis(10)) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            }
        });
        let refused = guarded(dir.path(), false);
        drop(stop);
        beats.join().unwrap();
        assert_eq!(refused.unwrap_err().exit_code(), 4);
    }

    #[test]
    fn a_holder_beats_where_locks_may_be_local_and_only_there() {
        let dir = tempfile::tempdir().unwrap();
        let beat = || read_note(&File::open(dir.path().join(NAME)).unwrap()).beat;
        let lock = guarded(dir.path(), false).unwrap();
        while beat() < 3 {
            thread::yield_now();
        }
        drop(lock);
        let lock = guarded(dir.path(), true).unwrap();
        assert!(lock.heartbeat.is_none() && beat() == 0);
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("x"), dir.path().join(NAME)).unwrap();
        assert!(acquire(dir.path(), Duration::ZERO, "new").is_err());
        assert!(!dir.path().join("x").exists());
    }
}
