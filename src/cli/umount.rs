//! `cairnfs umount`, also what umount(8) calls. Exit code 0 means that the daemon has confirmed that everything is
//! durable.
//!
//! umount(2) does not wait for a FUSE daemon, and paths do not identify it: the store may have been moved or hidden,
//! and the mount may be visible at a second place or be used by programs that cannot be seen. So the command asks the
//! daemon through the mount before it unmounts. Then either the daemon closes the store and reports the result; or
//! something still uses its file system, and it makes everything durable, keeps the store open and says so.
//!
//! If the daemon cannot be asked, nothing is unmounted. `-f` is for a daemon that may never answer: it unmounts in any
//! case, and bounds every wait.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::args::UmountArgs;
use super::show;
use super::target::{ASK_TIMEOUT, ended_in_disorder, presence_in, serving_by_source, unreachable};
use crate::control::{Client, Presence, is_unresponsive};
use crate::error::{Error, Result};
use crate::fuse::{
    ChildTask, Entry, MountAnswer, MountTable, PathInfo, UnmountMode, User, ask, detach, is_alive, list_users,
};
use crate::sabotage::{Protection, out};

/// How long `-f` waits for an answer that costs the daemon nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long `-f` waits for the store to be closed: staged bytes have to be stored first.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the kernel may take to write out its changed pages.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a process may take to end after it has closed its store.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a process may take to end after its connection was aborted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How many users of a mount are named.
const MAX_NAMES: usize = 5;

/// A mount that is to be unmounted.
struct UnmountTarget {
    entry: Entry,
    /// The answer of the mount; none if there was none.
    answer: Option<MountAnswer>,
}

/// The daemon that serves it.
enum Daemon {
    /// It sends the result of the closing to one client, and answers the other.
    Tells { waiting: Box<Client>, asking: Box<Client> },
    /// It is gone.
    Gone,
    /// It cannot be asked, for this reason.
    Cannot(Error),
}

pub(super) fn run(args: &UmountArgs) -> Result<()> {
    let UnmountTarget { entry, answer } = find(&args.path)?;
    if !entry.is_visible() {
        return Err(Error::Busy(format!(
            "{0} cannot be unmounted: something else is mounted over it; unmount that first",
            show(&entry.mountpoint)
        )));
    }
    let say = |text: &str| {
        if args.verbose {
            eprintln!("cairnfs: {}: {text}", show(&entry.mountpoint));
        }
    };
    match daemon_of(&entry, answer, args.force) {
        Daemon::Gone => {
            detach(&entry.mountpoint, UnmountMode::Lazy)?;
            Err(ended_in_disorder(&entry.source))
        }
        Daemon::Cannot(_) if args.force => {
            force_unmount(&entry.mountpoint)?;
            Err(silent(&entry.source))
        }
        Daemon::Cannot(error) => Err(error),
        Daemon::Tells { mut waiting, .. } if args.force => {
            detach(&entry.mountpoint, UnmountMode::Force)?;
            say("unmounted, waiting for the store to be closed");
            waiting.set_timeout(CLOSE_TIMEOUT)?;
            closed(&mut waiting, &entry)?;
            say("everything is durable");
            Ok(())
        }
        Daemon::Tells { waiting, mut asking } => {
            report_waiting(&mut asking, &entry);
            flush_kernel_cache(&entry)?;
            if args.lazy {
                // Before it is detached, so that a failure leaves everything as it was.
                make_durable(&mut asking)?;
                detach(&entry.mountpoint, UnmountMode::Lazy)?;
            } else {
                detach(&entry.mountpoint, UnmountMode::Normal)
                    .map_err(|error| name_users(error, &entry, asking.presence()))?;
            }
            say("unmounted, waiting until everything is durable");
            await_durable(&entry, *waiting, &mut asking)?;
            say("everything is durable");
            Ok(())
        }
    }
}

/// Unmounts by force. That aborts all requests that wait for the daemon, also those of the child process that asked it.
/// Until that process has ended, the kernel reports the mount as busy.
fn force_unmount(mountpoint: &Path) -> Result<()> {
    let begin = Instant::now();
    loop {
        match detach(mountpoint, UnmountMode::Force) {
            Err(Error::Busy(_)) if begin.elapsed() < ABORT_TIMEOUT => thread::sleep(POLL),
            // Its request is aborted; it ends as soon as the kernel lets it.
            Err(Error::Busy(_)) => return detach(mountpoint, UnmountMode::Lazy),
            done => return done,
        }
    }
}

/// Makes the kernel write out its changed pages, so that the daemon can make them durable.
fn flush_kernel_cache(entry: &Entry) -> Result<()> {
    if ChildTask::Flush.send_within(&entry.mountpoint, FLUSH_TIMEOUT) {
        return Ok(());
    }
    Err(Error::Environment(format!(
        "the kernel could not write out its changed pages of {0} (see {1}); nothing was unmounted. `cairnfs \
         umount -f {0}` unmounts all the same, and unsynced data may be lost",
        show(&entry.mountpoint),
        show(&entry.source.join("cairnfs.log"))
    )))
}

fn make_durable(asking: &mut Client) -> Result<()> {
    if out(Protection::DurableBeforeLeave) { Ok(()) } else { asking.sync() }
}

/// After the unmount: waits until everything is durable, and until the store is closed or the daemon says that it stays
/// open.
fn await_durable(entry: &Entry, mut waiting: Client, asking: &mut Client) -> Result<()> {
    if is_alive(entry).unwrap_or_else(|| has_places(entry)) {
        let synced = make_durable(asking);
        // The kernel may use the number for a newer mount by now; the daemon knows whether its own has ended.
        if asking.hello(None).is_ok_and(|presence| presence.serving) {
            synced?;
            let users = list_users(entry, asking.presence().pid);
            eprintln!(
                "cairnfs: {}: everything written so far is durable; process {} keeps the store open: {}",
                show(&entry.mountpoint),
                asking.presence().pid,
                if users.is_empty() {
                    "somebody who cannot be seen from here uses it".into()
                } else {
                    listed(&users)
                }
            );
            return Ok(());
        }
    }
    report_waiting(&mut waiting, entry);
    closed(&mut waiting, entry)
}

fn closed(waiting: &mut Client, entry: &Entry) -> Result<()> {
    waiting.closed().map_err(|error| if is_unresponsive(&error) { silent(&entry.source) } else { error })?;
    // Otherwise the disk below would still be busy.
    if !waiting.ends_within(EXIT_TIMEOUT) {
        eprintln!(
            "cairnfs: everything is durable and {} is closed, but process {} has not ended yet",
            show(&entry.source),
            waiting.presence().pid
        );
    }
    Ok(())
}

fn has_places(entry: &Entry) -> bool {
    MountTable::read().map_or(true, |table| table.places_of(entry).next().is_some())
}

fn report_waiting(client: &mut Client, entry: &Entry) {
    let (source, pid) = (entry.source.clone(), client.presence().pid);
    client.on_long_wait(move || {
        eprintln!(
            "cairnfs: still waiting until process {pid} has made everything in {} durable",
            show(&source)
        );
    });
}

fn listed(users: &[User]) -> String {
    let mut names: Vec<String> = users.iter().take(MAX_NAMES).map(ToString::to_string).collect();
    if users.len() > MAX_NAMES {
        names.push(format!("and {} more", users.len() - MAX_NAMES));
    }
    names.join("; ")
}

/// Adds the users of the mount to a refusal.
fn name_users(error: Error, entry: &Entry, server: &Presence) -> Error {
    let Error::Busy(text) = error else { return error };
    let table = MountTable::read().ok();
    let inside = table.iter().flat_map(|table| table.mounted_on(entry));
    let inside = inside.map(|inner| format!("{} is mounted in it", show(&inner.mountpoint)));
    let users: Vec<User> =
        list_users(entry, server.pid).into_iter().filter(|user| matches!(user, User::Program(_))).collect();
    let named: Vec<String> = inside.chain((!users.is_empty()).then(|| listed(&users))).collect();
    Error::Busy(if named.is_empty() { text } else { format!("{text}: {}", named.join("; ")) })
}

fn silent(store: &Path) -> Error {
    Error::Environment(format!(
        "the process that has {} open has not answered: the last writes that were not synced may be lost; \
         end that process (`fuser -v {}` shows it) and mount the store again",
        show(store),
        show(&store.join("lock"))
    ))
}

fn daemon_of(entry: &Entry, answer: Option<MountAnswer>, force: bool) -> Daemon {
    let presence = match answer {
        Some(MountAnswer::Dead) => return Daemon::Gone,
        Some(MountAnswer::Presence(text)) => presence_in(&text),
        Some(MountAnswer::Refused(_) | MountAnswer::NotOurs | MountAnswer::NotThere(_)) => {
            serving_by_source(entry)
        }
        None => {
            return Daemon::Cannot(Error::Environment(format!(
                "the daemon of {0} does not answer, so nothing was unmounted; `cairnfs umount -f {0}` \
                 unmounts by force, and unsynced data may be lost",
                show(&entry.mountpoint)
            )));
        }
    };
    let timeout = force.then_some(ANSWER_TIMEOUT);
    let connect = |presence: &Presence| {
        let client = Client::of_presence(presence, &entry.source, timeout)?;
        client.map(Box::new).ok_or_else(|| unreachable(&entry.mountpoint, presence))
    };
    let both = presence.and_then(|presence| {
        let mut waiting = connect(&presence)?;
        waiting.await_close()?;
        Ok(Daemon::Tells { waiting, asking: connect(&presence)? })
    });
    both.unwrap_or_else(Daemon::Cannot)
}

/// Finds the mount: at this path, or the only mount of the store at this path.
fn find(path: &Path) -> Result<UnmountTarget> {
    let found = ask(path, ASK_TIMEOUT)?;
    let table = MountTable::read()?;
    let real = match &found {
        Some(found) if found.mount != 0 => found.real(),
        _ => absolute(path),
    };
    let numbered = found.as_ref().and_then(|found| table.by_id(found.mount));
    let here = numbered.filter(|entry| entry.mountpoint == real).or_else(|| {
        // If the path could not be read, or nobody answered, the table says what is mounted there.
        let unseen = found.as_ref().is_none_or(|found| found.mount == 0);
        unseen.then(|| table.at(&real)).flatten()
    });
    match here {
        Some(entry) if entry.is_ours() => {
            Ok(UnmountTarget { entry: entry.clone(), answer: found.map(|found| found.answer) })
        }
        Some(entry) => Err(Error::Usage(format!(
            "{} is a mount of type {}, not of a cairnfs store; use umount",
            show(path),
            entry.fstype
        ))),
        None => find_by_store(path, &real, &table),
    }
}

fn find_by_store(path: &Path, real: &Path, table: &MountTable) -> Result<UnmountTarget> {
    let directory = fs::metadata(real).map(|meta| (meta.dev(), meta.ino())).ok();
    let of_store = |entry: &&Entry| is_mount_of(entry, real, directory);
    let mounts: Vec<&Entry> = table.ours().filter(of_store).collect();
    match mounts[..] {
        [] => Err(match Client::connect(real).ok().flatten() {
            Some(client) => Error::Busy(still_open(real, client.presence(), None)),
            None => Error::Usage(format!("{} is not mounted", show(path))),
        }),
        [only] => {
            let found = ask(&only.mountpoint, ASK_TIMEOUT)?;
            Ok(UnmountTarget { entry: only.clone(), answer: found.map(|found| found.answer) })
        }
        _ => Err(Error::Usage(format!(
            "{} is mounted in {} places; name the one to unmount",
            show(path),
            mounts.len()
        ))),
    }
}

/// The message about a store that a process has open although no mount of it is visible.
pub(super) fn still_open(store: &Path, presence: &Presence, entry: Option<&Entry>) -> String {
    let users = entry.map(|entry| list_users(entry, presence.pid)).unwrap_or_default();
    let users = if users.is_empty() { String::new() } else { format!(": {}", listed(&users)) };
    format!(
        "the store {0} is still open in process {1} (pid {1}): programs use a mount of it that was detached \
         (`umount -l`) or is in another mount namespace{users}; end these programs, or `kill {1}`; a second \
         `kill {1}` disconnects them",
        show(store),
        presence.pid
    )
}

/// The daemon's own directory counts, wherever that is now; if the daemon cannot be asked, the table does.
fn is_mount_of(entry: &Entry, store: &Path, directory: Option<(u64, u64)>) -> bool {
    match ask(&entry.mountpoint, ASK_TIMEOUT) {
        Ok(Some(PathInfo { mount, answer: MountAnswer::Presence(text), .. })) if mount == entry.id => {
            presence_in(&text).is_ok_and(|presence| Some(presence.directory) == directory)
        }
        _ => entry.source == store,
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_refused() {
        for (path, said) in [("/proc", "type proc"), ("/nonexistent/place", "is not mounted")] {
            let error = find(Path::new(path)).err().unwrap();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
