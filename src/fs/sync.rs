//! When things become durable: fsync, sync, the commit timer, and the threads of the background.
//!
//! Keeps true: after fsync, everything that was written to that file before is durable; after sync, everything is.
//! Without either, written data becomes durable after the commit interval. The thread that commits large batches takes
//! no lock of an inode, so a thread that waits for it may hold one. A failed commit is retried at every interval, since
//! nothing else makes the data durable; only its lines in the log become rarer.

pub(super) mod background;

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::retry::RecurringFailure;
use crate::sync::channel::{Receiver, RecvTimeoutError, bounded};
use crate::sync::thread::{Builder, caught};
use crate::sync::{Arc, Mutex};

use super::Fs;
use super::flush::Flush;
use super::inode::Inode;
use background::note;

/// A batch with this many bytes of rows is committed.
const BATCH_BYTES: u64 = 16 << 20;
/// With this many, a member that would add more waits for the commit.
const BATCH_LIMIT: u64 = 64 << 20;

impl Fs {
    /// Makes a file's bytes and attributes, or a directory's entries, durable, and everything that was changed before: an
    /// fsync has its place in the order of all changes.
    pub fn fsync(self: &Arc<Self>, ino: u64) -> Result<()> {
        let inode = self.inode(ino)?;
        self.flush(&inode, Flush::Synced)?;
        self.recut_if_many(&inode);
        self.store.commits.commit()
    }

    /// Makes a file's bytes durable, and what is needed to read them. Free if they are already: a commit that has the
    /// last row of a file has its name, too, and those of the directories above it.
    pub fn fdatasync(self: &Arc<Self>, ino: u64) -> Result<()> {
        let inode = self.inode(ino)?;
        self.flush(&inode, Flush::Synced)?;
        self.recut_if_many(&inode);
        // A row of it is in a batch that is not empty, so an empty open batch says nothing about it.
        if inode.lock().saved_in <= self.store.batches.last_durable_number() {
            return Ok(());
        }
        self.store.commits.commit()
    }

    /// Makes everything durable, and cuts again what was patched before the last call. A file that cannot be stored does
    /// not stop the others.
    pub fn sync(self: &Arc<Self>) -> Result<()> {
        // Before the rest, so that all of it is durable when this returns.
        self.recut_quiet();
        let flushed = self.flush_all();
        self.store.commits.commit().and(flushed)
    }

    /// A file was closed, so its content is complete.
    pub fn file_closed(self: &Arc<Self>, ino: u64) {
        if let Ok(inode) = self.inode(ino)
            && !inode.lock().staging.is_empty()
        {
            let fs = self.clone();
            self.store.workers.ordinary(move || {
                fs.flush_in_background(&inode, Flush::Aged);
            });
        }
    }

    /// Flushes all files, with the pool's help.
    fn flush_all(self: &Arc<Self>) -> Result<()> {
        let queue = Arc::new(Mutex::new(self.dirty.take_all()));
        let failure: Arc<Mutex<Option<Error>>> = Arc::default();
        let (done, finished) = bounded::<()>(0);
        let work = {
            let (fs, queue, failure) = (self.clone(), queue.clone(), failure.clone());
            move || {
                loop {
                    let next: Option<Arc<Inode>> = queue.lock().pop_front();
                    let Some(inode) = next else { break };
                    if let Err(error) = fs.flush(&inode, Flush::Wanted) {
                        let mut state = inode.lock();
                        fs.dirty.push(&inode, &mut state);
                        failure.lock().get_or_insert(error);
                    }
                    fs.dirty.flushed(&inode);
                }
            }
        };
        if queue.lock().len() > 1 {
            let (work, done) = (work.clone(), done.clone());
            self.store.workers.ordinary(move || {
                work();
                drop(done);
            });
        }
        work();
        drop(done);
        // Disconnected once the last worker has dropped its end.
        let _ = finished.recv();
        failure.lock().take().map_or(Ok(()), Err)
    }

    /// Called before joining a batch. Requests a commit of a large batch; if the batch is too large, commits it before
    /// it returns.
    pub(super) fn limit_batch(&self) -> Result<()> {
        let bytes = self.store.batches.open_bytes();
        if bytes < BATCH_BYTES {
            return Ok(());
        }
        // If there is none, the mount is ending and commits by itself.
        if let Some(commit) = self.background.commit.lock().as_ref() {
            // If the channel is full, a commit is already requested.
            let _ = commit.try_send(());
        }
        if bytes < BATCH_LIMIT { Ok(()) } else { self.store.commits.commit() }
    }

    pub(super) fn start_background(self: &Arc<Self>) -> Result<()> {
        let (commit, wanted) = bounded(1);
        let (stop, stopped) = bounded::<()>(0);
        *self.background.commit.lock() = Some(commit);
        *self.background.stop.lock() = Some(stop);
        let mut threads = self.background.threads.lock();
        let failed = |error| Error::io("starting a thread", error);
        let builder = |name: &str| Builder::new().name(name.to_owned());
        let fs = self.clone();
        threads.push(builder("cairn-commit").spawn(move || fs.commit_on_demand(&wanted)).map_err(failed)?);
        let (fs, also_stopped) = (self.clone(), stopped.clone());
        threads.push(builder("cairn-flush").spawn(move || fs.commit_on_time(&also_stopped)).map_err(failed)?);
        let fs = self.clone();
        threads.push(builder("cairn-reap").spawn(move || fs.reap_on_time(&stopped)).map_err(failed)?);
        Ok(())
    }

    /// Background tasks that fail.
    pub fn recurring_failures(&self) -> Vec<RecurringFailure> {
        let now = Instant::now();
        let all = [&self.background.committing, &self.background.reaping];
        all.into_iter().filter_map(|retry| retry.lock().recurring_failure(now)).collect()
    }

    /// Commits when asked to, until nobody can ask any more.
    fn commit_on_demand(self: &Arc<Self>, wanted: &Receiver<()>) {
        while wanted.recv().is_ok() {
            self.committed(Instant::now(), self.store.commits.commit());
        }
    }

    /// Commits every interval.
    fn commit_on_time(self: &Arc<Self>, stopped: &Receiver<()>) {
        let tick = self.tick();
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(tick) {
            self.commit_what_there_is(Instant::now());
        }
    }

    /// Commits at `now`, if there is anything to commit and the store accepts changes; true if the log has a line about
    /// its failure.
    fn commit_what_there_is(self: &Arc<Self>, now: Instant) -> bool {
        if self.store.batches.writable().is_err() {
            return false;
        }
        // A batch that could not be committed stays sealed, even if nothing was written since.
        let something = !self.dirty.is_empty()
            || !self.recuts.is_empty()
            || self.store.batches.last_durable_number() < self.store.batches.open_number();
        self.committed(now, if something { self.sync() } else { Ok(()) })
    }

    fn committed(&self, now: Instant, result: Result<()>) -> bool {
        let says_so = note(&self.background.committing, now, &result);
        if says_so && let Err(error) = result {
            tracing::error!("commit: {error}");
        }
        says_so
    }

    /// Processes the queue of inodes without a name.
    fn reap_on_time(&self, stopped: &Receiver<()>) {
        let mut tick = self.tick();
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(tick) {
            // There is more: continue at once, but check first whether to stop.
            tick = if self.reap_what_is_due(Instant::now()) { Duration::ZERO } else { self.tick() };
        }
    }

    /// Does a step of the queue at `now`, unless the last one failed a moment ago; true if there is more to do at once.
    fn reap_what_is_due(&self, now: Instant) -> bool {
        if self.store.batches.writable().is_err() || !self.background.reaping.lock().may_try(now) {
            return false;
        }
        let reaped = caught(|| {
            let more = if self.store.has_orphans() { self.reap()?.1 } else { false };
            Ok(self.reap_subvolumes()? || more)
        });
        let outcome = reaped.unwrap_or_else(|| Err(Error::panicked("removing deleted files")));
        let more = matches!(outcome, Ok(true));
        let result = outcome.map(drop);
        if note(&self.background.reaping, now, &result)
            && let Err(error) = result
        {
            tracing::error!("deletion queue: {error}");
        }
        more
    }

    /// Often enough that deleted files are removed soon, rarely enough that an idle mount costs nothing.
    fn tick(&self) -> Duration {
        self.options.commit_interval.clamp(Duration::from_millis(50), Duration::from_secs(3600))
    }

    /// Ends the background threads and makes everything durable. If something cannot be stored, it is reported and
    /// lost.
    pub fn shutdown(self: &Arc<Self>) -> Result<()> {
        drop(self.background.commit.lock().take());
        drop(self.background.stop.lock().take());
        for thread in self.background.threads.lock().drain(..) {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
        if self.store.batches.writable().is_err() && self.dirty.bytes() == 0 {
            return Ok(());
        }
        self.recut_all();
        self.sync()
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::super::simulated::{close, config, new_disk, new_file, open};
    use super::*;

    /// On a full disk each interval has its commit, and the log a few lines; the status shows it until there is room.
    #[test]
    fn a_commit_that_fails_is_tried_at_every_interval_and_said_rarely() {
        let (disk, config, begin) = (new_disk(), config(), Instant::now());
        let fs = open(&disk, &config);
        let ino = new_file(&fs, "file");
        fs.write(ino, 0, &[7; 100_000], false).unwrap();
        // Giving up the reserve does not help.
        disk.set_capacity(Some(0));
        let lines = (0..100).filter(|n| fs.commit_what_there_is(begin + Duration::from_secs(5 * n))).count();
        assert_eq!(lines, 7, "the first time, and each time it has failed twice as often");
        let recurring_failures = fs.recurring_failures();
        assert_eq!(
            (recurring_failures.len(), recurring_failures[0].failures),
            (1, 100),
            "{recurring_failures:?}"
        );
        disk.set_capacity(None);
        assert!(!fs.commit_what_there_is(begin));
        assert!(fs.recurring_failures().is_empty());
        close(&fs);
    }
}
