//! When things become durable: fsync, sync, the commit timer, and the threads of the background.
//!
//! Keeps true: after fsync everything written to that file before is durable; after sync everything is; without either,
//! what was written is durable after the commit interval. The thread that commits large batches takes no lock of an
//! inode, so whoever waits for it may hold one.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Arc, Mutex};

use super::Fs;
use super::flush::Flush;
use super::inode::Inode;

/// A batch with this many bytes of rows is committed.
const BATCH_BYTES: u64 = 16 << 20;
/// With this many, whoever would add more waits for the commit.
const BATCH_LIMIT: u64 = 64 << 20;

/// The threads of the background, and how they are woken.
#[derive(Debug, Default)]
pub(super) struct Background {
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Gone once the background is to end, as is `stop`.
    commit: Mutex<Option<Sender<()>>>,
    stop: Mutex<Option<Sender<()>>>,
}

impl Fs {
    /// Makes a file's bytes and attributes, or a directory's entries, durable.
    pub fn fsync(self: &Arc<Self>, ino: u64) -> Result<()> {
        let inode = self.inode(ino)?;
        self.flush(&inode, Flush::Wanted)?;
        self.store.commit()
    }

    /// Makes everything durable. A file that cannot be stored does not keep the others from it.
    pub fn sync(self: &Arc<Self>) -> Result<()> {
        let flushed = self.flush_all();
        self.store.commit().and(flushed)
    }

    /// A file was closed: what was written to it is complete.
    pub fn file_closed(self: &Arc<Self>, ino: u64) {
        if let Ok(inode) = self.inode(ino)
            && !inode.lock().staging.is_empty()
        {
            let fs = self.clone();
            self.store.spawn(move || {
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
            self.store.spawn(move || {
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

    /// Called before joining a batch: has a large one committed, and while it is too large, refuses what cannot be.
    pub(super) fn limit_batch(&self) -> Result<()> {
        let bytes = self.store.batch_bytes();
        if bytes < BATCH_BYTES {
            return Ok(());
        }
        // None: the mount is ending and commits itself.
        if let Some(commit) = self.background.commit.lock().as_ref() {
            // Full means that one is asked for already.
            let _ = commit.try_send(());
        }
        if bytes < BATCH_LIMIT { Ok(()) } else { self.store.commit() }
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

    /// Commits when asked to, until nobody can ask any more.
    fn commit_on_demand(self: &Arc<Self>, wanted: &Receiver<()>) {
        while wanted.recv().is_ok() {
            report("commit", self.store.commit());
        }
    }

    /// Commits every interval.
    fn commit_on_time(self: &Arc<Self>, stopped: &Receiver<()>) {
        let tick = self.tick();
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(tick) {
            if self.store.writable().is_err() {
                continue;
            }
            if !self.dirty.is_empty() || self.store.batch_bytes() > 0 {
                report("commit", self.sync());
            }
        }
    }

    /// Works off the queue of inodes without a name.
    fn reap_on_time(&self, stopped: &Receiver<()>) {
        let mut tick = self.tick();
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(tick) {
            tick = self.tick();
            if self.store.writable().is_err() || !self.store.has_orphans() {
                continue;
            }
            match self.reap() {
                // More at once, but not without a look at whether to stop.
                Ok((_, true)) => tick = Duration::ZERO,
                Ok(_) => {}
                Err(error) => tracing::error!("deletion queue: {error}"),
            }
        }
    }

    /// Often enough that what is deleted goes soon, seldom enough that an idle mount costs nothing.
    fn tick(&self) -> Duration {
        self.options.commit_interval.clamp(Duration::from_millis(50), Duration::from_secs(3600))
    }

    /// Ends the background and makes everything durable. What could not be stored is said, and lost.
    pub fn shutdown(self: &Arc<Self>) -> Result<()> {
        drop(self.background.commit.lock().take());
        drop(self.background.stop.lock().take());
        for thread in self.background.threads.lock().drain(..) {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
        if self.store.writable().is_err() && self.dirty.bytes() == 0 {
            return Ok(());
        }
        self.sync()
    }
}

fn report(what: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!("{what}: {error}");
    }
}
