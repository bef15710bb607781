//! One mount from beginning to end.
//!
//! The parts start in this order: the lock and the store, the filesystem, the collector, the control server, the mount.
//! They stop in the reverse order. `Store::close` releases the lock last, so a process that gets the lock can rely on
//! everything being durable. If stopping a part fails, the others are still stopped; the first error is the result.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::handler::Handler;
use super::maintenance::{Maintenance, TaskRetries, back_up_at_close};
use super::signals::Signals;
use crate::check::Scrub;
use crate::control;
use crate::error::{Error, Result};
use crate::fs::{Fs, FsOptions};
use crate::fuse::{self, ChildTask, MountOptions};
use crate::gc::{self, Collector};
use crate::media::Media;
use crate::store::{OpenOptions, Store};

/// Everything a mount needs to know. Paths are absolute and without symbolic links.
pub struct Setup {
    /// The store's directory.
    pub store: PathBuf,
    /// Where to mount it.
    pub mountpoint: PathBuf,
    /// How to open the store.
    pub open: OpenOptions,
    /// How the filesystem behaves.
    pub fs: FsOptions,
    /// Cycles start by themselves, soon after enough was deleted.
    pub collect: bool,
    /// A cycle also starts this long after the last one, if there may be garbage.
    pub collect_interval: Option<Duration>,
    /// All data is read and compared once in this time; none: only on command.
    pub scrub: Option<Duration>,
    /// What the kernel is told.
    pub fuse: MountOptions,
}

/// Mounts, calls `ready` with the store's directory when the mount answers, serves the mount until it is unmounted, and
/// closes the store.
///
/// If `ready` fails (nobody waits for this mount any more), the store is unmounted again, and this error is the result.
pub fn serve(setup: Setup, ready: impl FnOnce(Arc<dyn Media>) -> Result<()> + Send) -> Result<()> {
    // Before anything else, so that a signal during the start does not kill a half-open store.
    let signals = Signals::catch()?;
    let store = Store::open(&setup.store, &setup.open)?;
    let dir = store.shared_media();
    let ready = move || ready(dir);
    let (closing, outcome) = match serve_store(&setup, &store, signals, ready) {
        Ok((closing, outcome)) => (Some(closing), outcome),
        Err(e) => (None, Err(e)),
    };
    let outcome = first_error(outcome, "closing the store", store.close());
    if let Some(closing) = closing {
        closing.report(&outcome);
    }
    if outcome.is_ok() {
        tracing::info!("{} is closed", setup.store.display());
    }
    outcome
}

/// The collector of a mounted store: its cycles begin by draining the deletion queue.
pub(crate) fn collector(
    store: &Arc<Store>,
    filesystem: &Arc<Fs>,
    auto: bool,
    interval: Option<Duration>,
) -> Result<Arc<Collector>> {
    let drained = Arc::clone(filesystem);
    let drain = Arc::new(move || drained.drain_orphans());
    Collector::new(Arc::clone(store), gc::Options { auto, interval, drain, ..gc::Options::default() })
}

/// Everything between opening and closing the store. If a part fails to start, the earlier parts have been stopped when
/// this returns.
fn serve_store(
    setup: &Setup,
    store: &Arc<Store>,
    signals: Signals,
    ready: impl FnOnce() -> Result<()> + Send,
) -> Result<(control::Closing, Result<()>)> {
    let filesystem = Fs::new(Arc::clone(store), setup.fs.clone())?;
    let collector = collector(store, &filesystem, setup.collect, setup.collect_interval)?;
    let scrub = Arc::new(Scrub::of(store));
    let parts = (Arc::clone(store), Arc::clone(&filesystem), Arc::clone(&collector), Arc::clone(&scrub));
    let tries = TaskRetries::new();
    let handler = Arc::new(Handler::new(setup, parts, Arc::clone(&tries)));

    let server = match start_server(setup, store, &handler) {
        Ok(server) => server,
        Err(e) => {
            collector.shutdown();
            return first_error(Err(e), "ending the filesystem", filesystem.shutdown());
        }
    };
    let mut maintenance = Maintenance::start(store, &scrub, setup.scrub, &tries);
    if let Err(error) = &maintenance {
        // The mount works without.
        tracing::warn!("{error}");
    }
    let outcome = fuse::mount(
        Arc::clone(&filesystem),
        Arc::clone(&handler) as Arc<dyn fuse::ControlFiles>,
        &setup.mountpoint,
        &setup.fuse,
    )
    .and_then(|session| {
        handler.mounted(session.unmounter());
        run_session(setup, session, &filesystem, signals, ready)
    });

    handler.close_soon();
    if let Ok(maintenance) = &mut maintenance {
        maintenance.stop();
    }
    let closing = server.map_or_else(control::Closing::default, control::Server::stop);
    collector.shutdown();
    let outcome = first_error(outcome, "ending the filesystem", filesystem.shutdown());
    back_up_at_close(store);
    Ok((closing, outcome))
}

/// Starts to answer commands. If the host has no inode for the socket, the inode of the reserve is used. A mount
/// without a socket still works, and lets users make room.
fn start_server(setup: &Setup, store: &Store, handler: &Arc<Handler>) -> Result<Option<control::Server>> {
    let start =
        || control::Server::start(&setup.store, Arc::clone(handler) as Arc<dyn control::ControlHandler>);
    let started = match start() {
        Err(error) if error.is_no_space() && store.space.give_up_reserve() => start(),
        started => started,
    };
    match started {
        Err(error) if error.is_no_space() || is_without_sockets(&error) => {
            tracing::warn!(
                "{error}; commands do not reach this mount through the store's directory: the host has no room for a \
                 socket there, or no sockets at all; they reach it by its mount point"
            );
            let handler = Arc::clone(handler) as Arc<dyn control::ControlHandler>;
            Ok(control::Server::start_without_path(&setup.store, handler).ok())
        }
        started => started.map(Some),
    }
}

/// The errors of FAT, sshfs and other network file systems.
fn is_without_sockets(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if matches!(
        source.raw_os_error(),
        Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
    ))
}

/// Answers the kernel until the mount is gone.
fn run_session(
    setup: &Setup,
    session: fuse::Session,
    filesystem: &Arc<Fs>,
    signals: Signals,
    ready: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let mountpoint = setup.mountpoint.as_path();
    thread::scope(|scope| {
        let handling = signals.unmount_on_signal(session.unmounter(), Arc::clone(filesystem));
        let unmounter = session.unmounter();
        let wait = move || wait_until_ready(mountpoint, &unmounter, ready);
        let greeting = match thread::Builder::new().name("greeting".into()).spawn_scoped(scope, wait) {
            Ok(greeting) => greeting,
            Err(error) => {
                // Dropping the session unmounts.
                drop(session);
                handling.finish();
                return Err(Error::io("starting a thread", error));
            }
        };
        let ended = session.run();
        handling.finish();
        let greeted = greeting
            .join()
            .unwrap_or_else(|_| Err(Error::Environment("the start-up thread panicked".into())));
        first_error(ended, "starting", greeted)
    })
}

/// Waits until the mount answers, and reports it. If nobody waits for it any more, it unmounts again, unless somebody
/// else already has: then whatever is at the mount point is not ours. A child process asks the mount, since no thread
/// of this process may ever wait for it.
fn wait_until_ready(
    mountpoint: &Path,
    unmounter: &fuse::Unmounter,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let answered = ChildTask::Prime.send(mountpoint).and_then(|()| ready());
    match &answered {
        Ok(()) => tracing::info!("mounted at {}", mountpoint.display()),
        Err(_) => unmounter.detach(),
    }
    answered
}

/// Keeps the first error as the result, and logs a later one, which would be lost otherwise.
fn first_error<T>(earlier: Result<T>, what: &str, later: Result<()>) -> Result<T> {
    match (earlier, later) {
        (Ok(value), Ok(())) => Ok(value),
        (Ok(_), Err(e)) => Err(e),
        (Err(first), Ok(())) => Err(first),
        (Err(first), Err(second)) => {
            tracing::error!("{what}: {second}");
            Err(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_sockets_is_told_from_one_that_fails() {
        let said =
            |errno| is_without_sockets(&Error::io("listening", std::io::Error::from_raw_os_error(errno)));
        assert!(said(libc::EPERM) && said(libc::EOPNOTSUPP));
        assert!(!said(libc::EACCES) && !said(libc::EIO) && !said(libc::EMFILE));
        assert!(!is_without_sockets(&Error::Posix(libc::EPERM)));
    }
}
