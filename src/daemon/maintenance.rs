//! Regular work for a mounted store: backups of its metadata, and a scrub of its data.
//!
//! The store knows how much has changed, and the scrub knows its position; this thread decides when to run them. Clocks
//! decide only how often something is done (I10). Work that fails is retried at growing intervals, and the status shows
//! it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use parking_lot::Mutex;

use super::pace;
use crate::check::Scrub;
use crate::error::{Error, Result};
use crate::fs::Timestamp;
use crate::retry::{RecurringFailure, Retry};
use crate::store::Store;

/// The shortest time between two backups while the store is mounted.
const BACKUP_INTERVAL: Duration = Duration::from_secs(300);
/// The lowest priority. The kernel derives the priority of the thread's reads from it, too.
const NICE: i32 = 19;

/// The longest wait before failed work is retried.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);
/// The first wait after a scrub failed.
const SCRUB_WAIT: Duration = Duration::from_secs(60);

/// The failures of the maintenance work, shared with the status.
pub(super) struct TaskRetries {
    backup: Mutex<Retry>,
    scrub: Mutex<Retry>,
}

impl TaskRetries {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            backup: Mutex::new(Retry::new("metadata backup", BACKUP_INTERVAL, MAX_WAIT)),
            scrub: Mutex::new(Retry::new("scrub", SCRUB_WAIT, MAX_WAIT)),
        })
    }

    /// What fails at present.
    pub(super) fn recurring_failures(&self) -> Vec<RecurringFailure> {
        let now = Instant::now();
        [&self.backup, &self.scrub]
            .into_iter()
            .filter_map(|retry| retry.lock().recurring_failure(now))
            .collect()
    }
}

/// The thread. It ends when this is dropped or stopped.
pub(super) struct Maintenance {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Maintenance {
    /// Starts to look after `store`.
    pub fn start(
        store: &Arc<Store>,
        scrub: &Arc<Scrub>,
        period: Option<Duration>,
        tries: &Arc<TaskRetries>,
    ) -> Result<Self> {
        let (end, ended) = bounded::<()>(0);
        let (store, scrub, tries) = (Arc::clone(store), Arc::clone(scrub), Arc::clone(tries));
        let thread = std::thread::Builder::new()
            .name("cairn-keep".into())
            .spawn(move || {
                // If that is not allowed, everything still works.
                let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
                MaintenanceTask { store, scrub, period, ended, tries, backed_up: Instant::now() }.run();
            })
            .map_err(|error| Error::io("starting the keeper", error))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }

    /// Ends the thread and interrupts its work.
    pub fn stop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so on stderr.
            let _ = thread.join();
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

struct MaintenanceTask {
    store: Arc<Store>,
    scrub: Arc<Scrub>,
    /// All data is read once in this time; none: only on command.
    period: Option<Duration>,
    /// Disconnected once the keeper is to end.
    ended: Receiver<()>,
    tries: Arc<TaskRetries>,
    backed_up: Instant,
}

impl MaintenanceTask {
    fn run(&mut self) {
        if let Err(error) = self.store.healing.look_for_packs(&mut || self.go_on())
            && !matches!(error, Error::Posix(libc::EINTR))
        {
            tracing::warn!("it could not be checked whether all packs exist: {error}");
        }
        while self.ended.recv_timeout(pace::POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            self.run_due(Instant::now());
        }
        if self.scrub.status().running {
            self.scrub.note();
        }
    }

    /// Does the work that is due at `now`. If the store refuses changes, there is none.
    fn run_due(&mut self, now: Instant) {
        if self.store.batches.writable().is_err() {
            return;
        }
        let waited = now.saturating_duration_since(self.backed_up) >= BACKUP_INTERVAL;
        if waited && self.store.backups.are_due(false) && self.tries.backup.lock().may_try(now) {
            self.backed_up = now;
            self.back_up(now);
        }
        if let Some(period) = self.period
            && self.tries.scrub.lock().may_try(now)
        {
            self.scrub_some(period, now);
        }
    }

    /// A failed backup does not harm the store.
    fn back_up(&self, now: Instant) {
        let outcome = back_up(&self.store, &mut || self.go_on());
        let mut retry = self.tries.backup.lock();
        match outcome {
            Ok(()) => retry.succeeded(),
            Err(Error::Posix(libc::EINTR)) => {}
            Err(error) => {
                if retry.failed(now, Timestamp::now().sec, &error.to_string()) {
                    log_backup_failure(&error);
                }
            }
        }
    }

    /// Reads as much as is due since the last time.
    fn scrub_some(&self, period: Duration, at: Instant) {
        let (now, status) = (Timestamp::now().sec, self.scrub.status());
        if status.began == 0 {
            self.scrub.expect_from(now);
            return;
        }
        if !status.running && pace::pass_is_due(now, status.began, period) {
            self.scrub.begin(now);
        }
        let bytes = self.store.status().map_or(0, |status| status.plain_bytes);
        let outcome = self.scrub.step(pace::budget(bytes, period), now, &|| self.go_on().is_ok());
        let mut retry = self.tries.scrub.lock();
        match outcome {
            Ok(_) => retry.succeeded(),
            Err(error) => {
                if retry.failed(at, now, &error.to_string()) {
                    tracing::warn!("scrub: {error}");
                }
            }
        }
    }

    fn go_on(&self) -> Result<()> {
        match self.ended.try_recv() {
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(Error::Posix(libc::EINTR)),
            _ => Ok(()),
        }
    }
}

/// The last backup of a mount, if one is due.
pub(super) fn back_up_at_close(store: &Arc<Store>) {
    if store.batches.writable().is_ok() && store.commits.commit().is_ok() && store.backups.are_due(true) {
        let _ = back_up(store, &mut || Ok(())).inspect_err(log_backup_failure);
    }
}

fn back_up(store: &Arc<Store>, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let Some(size) = store.backups.write(go_on)? else {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        return Err(Error::io("the disk has too little room for a metadata backup", full));
    };
    tracing::info!("metadata backup: {} rows, {} bytes, {} stored", size.rows, size.plain, size.stored);
    Ok(())
}

fn log_backup_failure(error: &Error) {
    tracing::warn!("the metadata backup failed, the one before stays: {error}");
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::media::Media;
    use crate::media::sim::SimMedia;
    use crate::meta::Table;
    use crate::store::{MkfsOptions, OpenOptions, StoreConfig, make_database};

    const DAY: Duration = Duration::from_secs(86_400);

    /// A keeper whose thread does not run, of a store with something to back up; the backup finds no room.
    fn task() -> (SimMedia, MaintenanceTask, Sender<()>) {
        let disk = SimMedia::new();
        make_database(&disk).unwrap();
        disk.sync_dir("").unwrap();
        let options = OpenOptions { cache_bytes: 12 << 20, workers: 1, ..OpenOptions::default() };
        let config = StoreConfig::new(&MkfsOptions::default()).unwrap();
        let store =
            Store::on_media(Arc::new(disk.clone()), config, "/simulated".into(), None, &options).unwrap();
        store.batches.join().unwrap().rows.put(Table::Xattrs, b"a row that is large", &vec![7; 200 << 10]);
        store.commits.commit().unwrap();
        let (end, ended) = bounded(0);
        let (scrub, tries, backed_up) = (Arc::new(Scrub::of(&store)), TaskRetries::new(), Instant::now());
        (disk, MaintenanceTask { store, scrub, period: None, ended, tries, backed_up }, end)
    }

    /// Looks as the thread does for `time`; how often anything was tried.
    fn look(task: &mut MaintenanceTask, begin: Instant, time: Duration) -> u64 {
        let (mut at, mut tries) = (Duration::ZERO, 0);
        while at < time {
            let before = task.backed_up;
            task.run_due(begin + at);
            tries += u64::from(task.backed_up != before);
            at += pace::POLL_INTERVAL;
        }
        tries
    }

    #[test]
    fn a_backup_that_fails_is_tried_ever_more_rarely_and_shown() {
        let (disk, mut task, _end) = task();
        let begin = task.backed_up;
        disk.set_capacity(Some(disk.used() + (1 << 20)));
        assert_eq!(look(&mut task, begin, DAY), 9, "after 5 minutes, and then 5, 10, 20, 40 ... later");
        let recurring_failures = task.tries.recurring_failures();
        assert_eq!(recurring_failures.len(), 1);
        assert_eq!(
            (recurring_failures[0].what.as_str(), recurring_failures[0].failures),
            ("metadata backup", 9)
        );
        assert!(recurring_failures[0].error.contains("too little room"), "{recurring_failures:?}");
        disk.set_capacity(None);
        assert_eq!(look(&mut task, begin + DAY, DAY), 1, "and then nothing has changed");
        assert!(task.tries.recurring_failures().is_empty());
        task.store.close().unwrap();
    }

    #[test]
    fn of_a_store_that_takes_no_changes_nothing_is_kept() {
        let (_disk, mut task, _end) = task();
        let begin = task.backed_up;
        task.store.batches.latch().set(&Error::damaged("the disk"));
        assert_eq!(look(&mut task, begin, DAY), 0);
        assert!(task.tries.recurring_failures().is_empty());
        let _ = task.store.close();
    }
}
