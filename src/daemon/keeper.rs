//! What a mounted store has done for it now and then: backups of its metadata, and a scrub of its data.
//!
//! The store knows what has changed, and the scrub where it is; this thread knows when to look. Time decides here how
//! often something is done, and nothing else (I10).

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::pace;
use crate::check::Scrub;
use crate::error::{Error, Result};
use crate::fs::Timestamp;
use crate::store::Store;

/// There is at least this long between two backups while the store is mounted.
const BETWEEN_BACKUPS: Duration = Duration::from_secs(300);
/// The keeper stands back as far as it can; from this the kernel derives the priority of its reads, too.
const NICE: i32 = 19;

/// The thread. Ends when it is dropped or told to.
pub(super) struct Keeper {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts to look after `store`.
    pub fn start(store: &Arc<Store>, scrub: &Arc<Scrub>, period: Option<Duration>) -> Result<Self> {
        let (end, ended) = bounded::<()>(0);
        let (store, scrub) = (Arc::clone(store), Arc::clone(scrub));
        let thread = std::thread::Builder::new()
            .name("cairn-keep".into())
            .spawn(move || {
                // Where that is not allowed, everything works all the same.
                let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
                Keeping { store, scrub, period, ended, backed_up: Instant::now() }.run();
            })
            .map_err(|error| Error::io("starting the keeper", error))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }

    /// Ends the thread, in the middle of whatever it does.
    pub fn stop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so on stderr.
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Keeping {
    store: Arc<Store>,
    scrub: Arc<Scrub>,
    /// All data is read once in this time; none: not by itself.
    period: Option<Duration>,
    /// Disconnected once the keeper is to end.
    ended: Receiver<()>,
    backed_up: Instant,
}

impl Keeping {
    fn run(&mut self) {
        while self.ended.recv_timeout(pace::LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            if self.store.writable().is_ok()
                && self.backed_up.elapsed() >= BETWEEN_BACKUPS
                && self.store.backup_due(false)
            {
                self.backed_up = Instant::now();
                back_up(&self.store, &mut || self.go_on());
            }
            if let Some(period) = self.period.filter(|_| self.store.writable().is_ok()) {
                self.scrub_some(period);
            }
        }
        if self.scrub.status().running {
            self.scrub.note();
        }
    }

    /// Reads as much as is due since the last look.
    fn scrub_some(&self, period: Duration) {
        let (now, status) = (Timestamp::now().sec, self.scrub.status());
        if status.began == 0 {
            self.scrub.expect_from(now);
            return;
        }
        if !status.running && pace::pass_is_due(now, status.began, period) {
            self.scrub.begin(now);
        }
        let bytes = self.store.status().map_or(0, |status| status.plain_bytes);
        if let Err(error) = self.scrub.step(pace::budget(bytes, period), now, &|| self.go_on().is_ok()) {
            tracing::warn!("scrub: {error}");
        }
    }

    fn go_on(&self) -> Result<()> {
        match self.ended.try_recv() {
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(Error::Posix(libc::EINTR)),
            _ => Ok(()),
        }
    }
}

/// The last backup of a mount, where one is worth its while.
pub(super) fn back_up_at_close(store: &Arc<Store>) {
    if store.writable().is_ok() && store.commit().is_ok() && store.backup_due(true) {
        back_up(store, &mut || Ok(()));
    }
}

/// A backup that fails is no harm to what it is a backup of.
fn back_up(store: &Arc<Store>, go_on: &mut dyn FnMut() -> Result<()>) {
    match store.back_up_metadata(go_on) {
        Ok(Some(size)) => {
            tracing::info!(
                "metadata backup: {} rows, {} bytes, {} stored",
                size.rows,
                size.plain,
                size.stored
            );
        }
        Ok(None) | Err(Error::Posix(libc::EINTR)) => {}
        Err(error) => tracing::warn!("the metadata backup failed, the one before stays: {error}"),
    }
}
