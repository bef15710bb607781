//! What a mounted store has done for it now and then: backups of its metadata, and a scrub of its data.
//!
//! The store knows what has changed, and the scrub where it is; this thread knows when to look. Time decides here how often something is done, and
//! nothing else (I10).

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::check::Scrub;
use crate::error::{Error, Result};
use crate::fs::Timestamp;
use crate::store::Store;

/// How often the keeper looks whether there is anything to do.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// There is at least this long between two backups while the store is mounted.
const BETWEEN_BACKUPS: Duration = Duration::from_secs(300);
/// A scrub reads at least so many bytes a second while a pass is under way: a small store is read within minutes, and
/// then left alone until the next pass is due.
const LEAST_RATE: u64 = 1 << 20;
/// And at most so many, however short the time for a pass is.
const MOST_RATE: u64 = 64 << 20;
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
        while self.ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
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
        let since = now.saturating_sub(status.began);
        if status.began == 0 {
            self.scrub.expect_from(now);
            return;
        }
        // A clock that went back makes a pass come early, not late.
        if !status.running && (since < 0 || since as u64 >= period.as_secs()) {
            self.scrub.begin(now);
        }
        let bytes = self.store.status().map_or(0, |status| status.plain_bytes);
        let rate = bytes / period.as_secs().max(1);
        let budget = rate.clamp(LEAST_RATE, MOST_RATE) * LOOK_EVERY.as_secs();
        if let Err(error) = self.scrub.step(budget, now, &|| self.go_on().is_ok()) {
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
