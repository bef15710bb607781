//! Group commit.
//!
//! Keeps true: a batch is committed whole, as one entry of the log or one transaction of the database ([`queue`]),
//! after the last of its members has left (I5), with its regions synced or in the entry (I1), and after the batch
//! before it. A sync or a transaction that fails is final: the store is latched (I8). A disk that is full when a region
//! is appended is not a failure of that kind: nothing is lost that is not still in memory, so the batch waits, sealed,
//! and the next commit goes on with it.

mod figures;
mod queue;
mod replay;
mod rewrite;

use std::time::Duration;

use crate::error::{Error, Result};
use crate::meta::log::{Log, Position};
use crate::meta::rows::{STATE_KEY, State, digest};
use crate::meta::{Counter, Meta, Sums, Table, Txn, View};
use crate::sync::thread::caught;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering};

use super::batches::{Batch, Batches, Numbers, PendingRegion};
use super::chunks::Chunks;
use super::healing::Healing;
use super::packs::Packs;
use super::space::SpaceManager;
use super::workers::Pool;
use queue::{Changed, Queue};

pub use figures::LogStatus;
pub use replay::Replay;

/// The commits of one store.
pub struct Commits {
    meta: Arc<Meta>,
    batches: Arc<Batches>,
    packs: Arc<Packs>,
    healing: Arc<Healing>,
    chunks: Arc<Chunks>,
    numbers: Arc<Numbers>,
    space: Arc<SpaceManager>,
    workers: Arc<Pool>,
    /// One commit at a time.
    committing: Mutex<CommitState>,
    /// Lock order: after `committing`.
    queue: Queue,
    /// Bytes of rows committed since the last metadata backup.
    changed: AtomicU64,
}

/// The parts of a store that its commits need.
pub struct Parts {
    /// The rows.
    pub meta: Arc<Meta>,
    /// What is committed.
    pub batches: Arc<Batches>,
    /// Synced before rows point to them.
    pub packs: Arc<Packs>,
    /// The bytes that batches supply for bad chunks.
    pub healing: Arc<Healing>,
    /// Write the regions of a batch.
    pub chunks: Arc<Chunks>,
    /// Recorded with each commit.
    pub numbers: Arc<Numbers>,
    /// Gives up its reserve on a full disk.
    pub space: Arc<SpaceManager>,
    /// Their urgent jobs are done while waiting for regions.
    pub workers: Arc<Pool>,
}

/// Guarded by the lock of commits.
#[derive(Debug, Default)]
struct CommitState {
    /// A sealed batch whose commit did not finish, because the disk was full.
    unfinished: Option<Arc<Batch>>,
    /// ChunkIds below this belong to the sealed batch or to earlier ones.
    sealed_below: u64,
}

impl Commits {
    /// Goes on behind the last entry of `log`, with the sums of everything up to there.
    pub fn new(log: (Log, Position), sums: Sums, parts: Parts) -> Self {
        let Parts { meta, batches, packs, healing, chunks, numbers, space, workers } = parts;
        let queue = Queue::new(log, sums, (meta.clone(), packs.clone(), space.clone()));
        Self {
            meta,
            batches,
            packs,
            healing,
            chunks,
            numbers,
            space,
            workers,
            committing: Mutex::new(CommitState::default()),
            queue,
            changed: AtomicU64::new(0),
        }
    }

    /// Makes everything durable that is in a batch when this is called. Concurrent callers share a commit.
    pub fn commit(&self) -> Result<()> {
        let wanted = self.batches.open();
        if wanted.rows.is_empty() && self.batches.committed() + 1 == wanted.number {
            return Ok(());
        }
        let mut state = self.committing.lock();
        if self.batches.committed() >= wanted.number {
            return Ok(());
        }
        self.batches.writable()?;
        self.finish(&mut state)?;
        if self.batches.committed() >= wanted.number {
            return Ok(());
        }
        self.swap_batch(&mut state, |_| {});
        self.finish(&mut state)
    }

    /// Seals the open batch. `at_swap` gets the next one in the moment in which nobody can join. Returns how long joining was
    /// blocked.
    fn swap_batch(&self, state: &mut CommitState, at_swap: impl FnOnce(&Batch)) -> Duration {
        let (old, held) = self.batches.seal(|_, next| {
            at_swap(next);
            state.sealed_below = self.numbers.next_chunk().0;
            self.meta.seal(next.rows.clone(), next.subvolumes());
        });
        state.unfinished = Some(old);
        held
    }

    /// Swaps batches, with `at_swap` in the moment between them, which gets the new one, and commits everything before
    /// it; for the flip, and for the end of a cycle.
    pub fn commit_with(&self, at_swap: impl FnOnce(&Batch)) -> Result<Duration> {
        let (mut state, held) = self.swap_with(at_swap)?;
        self.finish(&mut state)?;
        Ok(held)
    }

    fn swap_with(&self, at_swap: impl FnOnce(&Batch)) -> Result<(MutexGuard<'_, CommitState>, Duration)> {
        let mut state = self.committing.lock();
        self.batches.writable()?;
        self.finish(&mut state)?;
        let held = self.swap_batch(&mut state, at_swap);
        Ok((state, held))
    }

    /// The same for a cut that is made durable by the next commit: a batch in which nothing was changed is not written.
    pub fn cut_with(&self, at_swap: impl FnOnce(&Batch)) -> Result<()> {
        let (mut state, _) = self.swap_with(at_swap)?;
        let Some(batch) = state.unfinished.clone() else { return Ok(()) };
        batch.wait_until_empty().inspect_err(|error| self.batches.latch().set(error))?;
        let counts = Counter::ALL.iter().any(|counter| batch.rows.counted(*counter) != 0);
        if counts || !batch.rows.is_empty() || !batch.heals.lock().is_empty() {
            return self.finish(&mut state);
        }
        let (head, view) = self.queue.lock();
        self.meta.publish(View::clone(&view), head.sums, true);
        self.done(&mut state, &batch);
        Ok(())
    }

    /// Everything of a sealed batch is durable.
    fn done(&self, state: &mut CommitState, batch: &Batch) {
        self.batches.mark_durable(batch, state.sealed_below);
        self.changed.fetch_add(batch.rows.bytes(), Ordering::Relaxed);
        self.batches.drop_sealed();
        state.unfinished = None;
        self.space.committed();
    }

    /// Finishes the commit of the sealed batch, if there is one.
    fn finish(&self, state: &mut CommitState) -> Result<()> {
        let Some(batch) = state.unfinished.clone() else {
            return Ok(());
        };
        caught(|| self.finish_batch(state, &batch)).unwrap_or_else(|| {
            let error = Error::panicked("a commit");
            self.batches.latch().set(&error);
            Err(error)
        })
    }

    fn finish_batch(&self, state: &mut CommitState, batch: &Arc<Batch>) -> Result<()> {
        batch.wait_until_empty().inspect_err(|error| self.batches.latch().set(error))?;
        for (region, _) in batch.regions.take_failed() {
            // The disk was full the last time; it may have space now.
            self.chunks.write_region(batch, region);
        }
        self.write_open_regions(batch)?;
        self.healing.append(batch).inspect_err(|error| {
            if !error.is_no_space() {
                self.batches.latch().set(error);
            }
        })?;
        match self.apply(batch) {
            Ok(()) => {
                self.done(state, batch);
                Ok(())
            }
            Err(error) => {
                self.batches.latch().set(&error);
                Err(error)
            }
        }
    }

    /// Closes the batch's last region and waits until all of them are in packs.
    fn write_open_regions(&self, batch: &Arc<Batch>) -> Result<()> {
        if let Some(region) = batch.regions.close() {
            self.chunks.write_region(batch, region);
        }
        loop {
            while batch.regions.is_writing() && self.workers.help() {}
            let failed = batch.regions.wait();
            let Some((_, error)) = failed.first() else {
                return Ok(());
            };
            let retry = error.is_no_space() && self.space.give_up_reserve();
            if !retry {
                return Err(self.keep_failed(batch, failed));
            }
            for (region, _) in failed {
                self.chunks.write_region(batch, region);
            }
        }
    }

    /// Puts regions that could not be written back to where the next commit finds them.
    fn keep_failed(&self, batch: &Batch, failed: Vec<(Arc<PendingRegion>, Error)>) -> Error {
        let errno = failed.first().map_or(libc::EIO, |(_, error)| error.errno());
        for (region, error) in failed {
            if !error.is_no_space() {
                self.batches.latch().set(&error);
            }
            batch.regions.failed(region, Error::Posix(errno));
        }
        Error::Posix(errno)
    }

    /// Computes the final rows of the batch and makes them durable.
    fn apply(&self, batch: &Batch) -> Result<()> {
        let (mut head, view) = self.queue.lock();
        // Again: the store may have been closed while this waited.
        self.batches.writable()?;
        let mut txn = Txn::new(&view, Some(&batch.rows));
        let mut sums = head.sums;
        for counter in Counter::ALL {
            sums[counter as usize] += batch.rows.counted(counter);
        }
        name_all(batch, &view, &mut txn)?;
        batch.usage.write(&mut txn)?;
        let healed = self.healing.redirect_rows(batch, &mut txn, &mut sums)?;
        txn.put(Table::State, STATE_KEY, &self.state(sums).encode());
        let own = txn.into_own();
        self.queue.enter(&mut head, &view, &Changed { batch: Some(&batch.rows), own: &own, sums })?;
        self.healing.mark_healed(&healed);
        Ok(())
    }

    /// Brings everything that is committed into the database: for those who read it alone, and before anything is
    /// freed.
    pub fn fold(&self) -> Result<()> {
        if let Some(why) = self.batches.latch().failure() {
            return Err(Error::Latched(why.to_owned()));
        }
        self.final_unless_done("a fold", || self.queue.fold())
    }

    /// The same before the store is closed: the log gives its room back.
    pub fn end(&self) -> Result<()> {
        self.final_unless_done("a fold", || self.queue.end())
    }

    /// Waits for whoever is changing something. Whoever comes later is refused, if the latch refuses by then.
    pub fn wait(&self) {
        drop(self.queue.lock());
    }

    /// A step that failed, or panicked half-way, is the last one (I8).
    fn final_unless_done<R>(&self, what: &str, step: impl FnOnce() -> Result<R>) -> Result<R> {
        caught(step)
            .unwrap_or_else(|| Err(Error::panicked(what)))
            .inspect_err(|error| self.batches.latch().set(error))
    }

    /// The state row with these sums. Numbers may be ahead of the batch that is committed, never behind it.
    fn state(&self, counters: Sums) -> State {
        State {
            generation: self.numbers.generation(),
            next_chunk: self.numbers.next_chunk().0,
            next_ino: self.numbers.next_ino(),
            next_pack: self.packs.next().0,
            next_version: self.numbers.next_version(),
            next_subvolume: self.numbers.next_subvolume(),
            counters,
        }
    }

    /// A sum over the whole store, the open batches included. Waits for no commit.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.meta.layers().counter(counter)
    }

    /// The log in numbers; it takes so many bytes on the host. Waits for no commit.
    pub fn log_status(&self, bytes_on_disk: u64) -> LogStatus {
        self.queue.status(bytes_on_disk)
    }

    /// Bytes of rows committed since the last [`Self::take_changed_bytes`].
    pub fn changed_bytes(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }

    /// Resets the changed bytes to 0; returns how many there were.
    pub fn take_changed_bytes(&self) -> u64 {
        self.changed.swap(0, Ordering::Relaxed)
    }

    /// Adds `bytes` back to the changed bytes, after a failed backup.
    pub fn add_changed_bytes(&self, bytes: u64) {
        self.changed.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Batches name chunks and take none away; the batch before may have stored the same bytes. So a digest that has a row
/// names what both say.
fn name_all(batch: &Batch, view: &View, txn: &mut Txn<'_>) -> Result<()> {
    let named = batch.rows.with_changes(Table::Digests, |changes| {
        let named = changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        named.collect::<Vec<_>>()
    });
    for (key, newer) in named {
        if let Some(older) = view.get(Table::Digests, &key)?
            && *older != *newer
        {
            txn.put(Table::Digests, &key, &digest::merge(&newer, &older)?);
        }
    }
    Ok(())
}
