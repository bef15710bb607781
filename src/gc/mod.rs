//! The collector: one cycle is flip, mark, sweep, reclaim.
//!
//! Keeps true: the order of the stages, and that an error at any point ends the cycle before it frees anything more
//! (I7). The file of each stage says what that stage keeps true. `docs/collection.md` explains why the whole is safe,
//! with the table of races.

mod mark;
pub mod pause;
mod plan;
mod reclaim;
mod record;
mod start;
mod sweep;

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::meta::rows::Timestamp;
use crate::meta::{Counter, ReadView};
use crate::retry::{RecurringFailure, Retry};
use crate::sabotage::{Protection, out};
use crate::store::barrier::cells::Cells;
use crate::store::{FlipInfo, Store};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

pub use pause::Point;
pub use record::{CycleRecord, Stage};

use start::{LastCycle, Sample, StartPolicy};

/// The first step of a cycle: draining the deletion queue, which belongs to the filesystem.
pub type Drain = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// How the collector works.
#[derive(Clone)]
pub struct Options {
    /// Cycles start by themselves, soon after enough was deleted.
    pub auto: bool,
    /// A cycle also starts this long after the last one, if there may be garbage.
    pub interval: Option<Duration>,
    /// What to do before a flip.
    pub drain: Drain,
    /// Extents marked between two checks for cancellation, and chunks whose rows one transaction of the sweep removes.
    /// This bounds how long a commit waits for the sweep.
    pub step: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { auto: false, interval: None, drain: Arc::new(|| Ok(())), step: 4096 }
    }
}

/// How often the automatic start checks the store.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// A failed automatic cycle is retried after the first time, then after twice as long each time, up to the second time.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// The collector of one store.
pub struct Collector {
    store: Arc<Store>,
    options: Options,
    /// One cycle at a time.
    running: Mutex<()>,
    stage: Mutex<Stage>,
    last: Mutex<Option<CycleRecord>>,
    tried: Mutex<LastCycle>,
    retry: Mutex<Retry>,
    stopping: AtomicBool,
    wake: Sender<()>,
    hook: Mutex<Option<pause::Hook>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Collector {
    /// The collector of `store`, with the thread that starts cycles.
    pub fn new(store: Arc<Store>, options: Options) -> Result<Arc<Self>> {
        let (collector, wanted) = Self::without_thread(store, options);
        let this = collector.clone();
        let thread = Builder::new()
            .name("cairn-collect".to_owned())
            .spawn(move || this.start_cycles(&wanted))
            .map_err(|error| Error::io("starting the collector", error))?;
        *collector.thread.lock() = Some(thread);
        Ok(collector)
    }

    /// The collector, and the receiver of requests for a cycle.
    fn without_thread(store: Arc<Store>, options: Options) -> (Arc<Self>, Receiver<()>) {
        let (wake, wanted) = bounded(1);
        let collector = Arc::new(Self {
            last: Mutex::new(CycleRecord::last_of(&store)),
            store,
            options,
            running: Mutex::new(()),
            stage: Mutex::new(Stage::Idle),
            tried: Mutex::new(LastCycle { at: Instant::now(), whole: false }),
            retry: Mutex::new(Retry::new("cycle", RETRY.0, RETRY.1)),
            stopping: AtomicBool::new(false),
            wake,
            hook: Mutex::new(None),
            thread: Mutex::new(None),
        });
        (collector, wanted)
    }

    /// Where the running cycle is.
    pub fn stage(&self) -> Stage {
        *self.stage.lock()
    }

    /// The record of the store's last cycle, dry runs left out.
    pub fn last(&self) -> Option<CycleRecord> {
        self.last.lock().clone()
    }

    /// The failure, if cycles fail.
    pub fn recurring_failure(&self) -> Option<RecurringFailure> {
        self.retry.lock().recurring_failure(Instant::now())
    }

    /// Has a cycle started soon.
    pub fn request(&self) {
        // If the channel is full, a cycle is already requested.
        let _ = self.wake.try_send(());
    }

    /// Ends a running cycle at its next step, and lets no other begin. Does not wait.
    pub fn end_soon(&self) {
        self.stopping.store(true, Ordering::Release);
        self.request();
    }

    /// Ends a running cycle at its next step, and the thread.
    pub fn shutdown(&self) {
        self.end_soon();
        if let Some(thread) = self.thread.lock().take() {
            // If it panicked, it has said so on stderr.
            let _ = thread.join();
        }
        drop(self.running.lock());
    }

    /// Calls `hook` at every point of every cycle from now on. For tests.
    pub fn set_hook(&self, hook: Option<pause::Hook>) {
        *self.hook.lock() = hook;
    }

    fn start_cycles(&self, wanted: &Receiver<()>) {
        let mut policy = StartPolicy::new(self.options.auto, self.options.interval);
        while !self.stopping.load(Ordering::Acquire) {
            let asked = wanted.recv_timeout(POLL_INTERVAL).is_ok();
            let due = self.is_due(&mut policy, Instant::now());
            if self.stopping.load(Ordering::Acquire) || !(asked || due) {
                continue;
            }
            self.run_unattended(Instant::now());
        }
    }

    /// Whether a cycle should start by itself at `now`. While a store refuses changes, none does: it could only fail.
    fn is_due(&self, policy: &mut StartPolicy, now: Instant) -> bool {
        if self.store.batches.writable().is_err() {
            return false;
        }
        let deleted = self.store.commits.counter(Counter::Deleted);
        let short =
            deleted > 0 && self.store.host_space().is_ok_and(|space| space.available < space.total / 50);
        let due = policy.is_due(now, *self.tried.lock(), Sample { deleted, short });
        due && self.retry.lock().may_try(now)
    }

    /// Runs an automatic cycle. After a failure it begins with a dry run: that most likely meets the same error,
    /// without a flip, so that no generation and no pack is begun in vain.
    fn run_unattended(&self, now: Instant) {
        let failing = self.retry.lock().is_failing();
        // Failures are noted and reported where they happen.
        if !failing || self.run_cycle_at(true, now).is_ok() {
            let _ = self.run_cycle_at(false, now);
        }
    }

    /// Runs one cycle, after a running one has ended. With `dry_run` no chunk is touched, and the record says what
    /// would have been condemned; the deletion queue is drained all the same.
    pub fn run_cycle(&self, dry_run: bool) -> Result<CycleRecord> {
        self.run_cycle_at(dry_run, Instant::now())
    }

    /// The same, with the time at which it begins.
    fn run_cycle_at(&self, dry_run: bool, now: Instant) -> Result<CycleRecord> {
        let (_running, begun) = (self.running.lock(), Instant::now());
        if !dry_run {
            // A latched store must not begin a generation that no commit will record.
            self.store.batches.writable()?;
        }
        let mut record = CycleRecord { dry_run, started: Timestamp::now().sec, ..CycleRecord::default() };
        let result = if dry_run { self.count_garbage(&mut record) } else { self.collect(&mut record) };
        *self.stage.lock() = Stage::Idle;
        record.ended = Timestamp::now().sec;
        if let Err(error) = &result {
            record.ended_early = Some(error.to_string());
        }
        let ended = now + begun.elapsed();
        let says_so = self.note_outcome(&result, dry_run, (ended, record.ended));
        if !dry_run {
            // The log keeps the record of each cycle, except of repeated failures; the store keeps the last record.
            if says_so {
                tracing::info!("cycle {}", serde_json::to_string(&record).unwrap_or_default());
            }
            if result.is_ok()
                && let Err(error) = self.store.healing.note_packs()
            {
                tracing::debug!("the list of packs could not be noted: {error}");
            }
            record.keep(&self.store);
            *self.last.lock() = Some(record.clone());
            *self.tried.lock() = LastCycle { at: ended, whole: result.is_ok() };
        }
        result.map(|()| record)
    }

    /// Notes the result of a cycle, with its end by both clocks; true if the log should have a line about it.
    fn note_outcome(&self, result: &Result<()>, dry_run: bool, (now, wall): (Instant, i64)) -> bool {
        let mut retry = self.retry.lock();
        let error = match result {
            // A dry run does not show that a real cycle works.
            Ok(()) if dry_run => return true,
            Ok(()) => {
                retry.succeeded();
                return true;
            }
            // It was asked to end and did not fail.
            Err(_) if self.stopping.load(Ordering::Acquire) => return true,
            Err(error) => error,
        };
        let says_so = retry.failed(now, wall, &error.to_string());
        if says_so {
            tracing::error!(
                "a cycle failed; automatic cycles are retried ever more rarely until one succeeds: {error}"
            );
        }
        says_so
    }

    fn count_garbage(&self, record: &mut CycleRecord) -> Result<()> {
        (self.options.drain)()?;
        self.store.commits.fold()?;
        let view = self.store.layers().view.base().clone();
        let cells = Cells::new(self.store.next_chunk());
        record.generation = self.store.generation();
        record.watermark = cells.watermark().0;
        mark::mark(&view, &cells, self.options.step, record, || self.go_on())?;
        sweep::sweep(&self.store, &cells, (self.options.step, true), record, |_| self.go_on())?;
        Ok(())
    }

    fn collect(&self, record: &mut CycleRecord) -> Result<()> {
        self.pause_at(Point::Begin)?;
        let mut clock = self.enter(Stage::Drain);
        (self.options.drain)()?;
        let deleted = self.store.commits.counter(Counter::Deleted);
        record.drain_ms = elapsed(&mut clock);

        self.pause_at(Point::BeforeFlip)?;
        self.enter(Stage::Flip);
        self.store.space.make_room();
        let (flip, view) = self.store.collection.flip()?;
        record.generation = flip.generation;
        record.watermark = flip.cells.watermark().0;
        record.longest_hold_us = flip.held.as_micros() as u64;
        record.flip_ms = elapsed(&mut clock);

        let result = self
            .after_flip(&flip, view, record, &mut clock)
            .and_then(|()| self.store.collection.forget_deleted(deleted));
        self.pause_at_always(Point::Reclaimed);
        // The barrier has to be disarmed however the cycle ended; until then, condemned chunks are refused.
        let ended = self.store.collection.end_cycle();
        result.and(ended)
    }

    fn after_flip(
        &self,
        flip: &FlipInfo,
        view: ReadView,
        record: &mut CycleRecord,
        clock: &mut Instant,
    ) -> Result<()> {
        self.pause_at(Point::Flipped)?;
        self.enter(Stage::Mark);
        self.mark(flip, &view, record)?;
        drop(view);
        record.mark_ms = elapsed(clock);
        self.pause_at(Point::Marked)?;

        self.enter(Stage::Sweep);
        let usage = sweep::sweep(&self.store, &flip.cells, (self.options.step, false), record, |removed| {
            self.pause_at(if removed { Point::MidSweep } else { Point::Condemned })
        })?;
        record.sweep_ms = elapsed(clock);
        self.pause_at(Point::Swept)?;

        self.enter(Stage::Reclaim);
        self.make_removal_durable()?;
        reclaim::reclaim(&self.store, &usage, flip.packs_below, record, || self.pause_at(Point::Moved))?;
        record.reclaim_ms = elapsed(clock);
        Ok(())
    }

    fn mark(&self, flip: &FlipInfo, view: &ReadView, record: &mut CycleRecord) -> Result<()> {
        let go_on = || self.pause_at(Point::MidMark);
        #[cfg(feature = "sim")]
        if out(Protection::OneSnapshot) {
            return mark::late::mark(&self.store, view, &flip.cells, record, go_on);
        }
        mark::mark(view, &flip.cells, self.options.step, record, go_on)
    }

    /// I3: no byte is freed before the removal of its last name is durable, and in the database: damage of the log must
    /// not bring the name back.
    fn make_removal_durable(&self) -> Result<()> {
        if out(Protection::DurableBeforeFree) { Ok(()) } else { self.store.commits.fold() }
    }

    fn enter(&self, stage: Stage) -> Instant {
        *self.stage.lock() = stage;
        Instant::now()
    }

    fn go_on(&self) -> Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::CycleEnded("the store is being closed".to_owned()));
        }
        Ok(())
    }

    /// A point between two steps: tests can stop the cycle here, and closing the store ends it here.
    fn pause_at(&self, point: Point) -> Result<()> {
        self.pause_at_always(point);
        self.go_on()
    }

    fn pause_at_always(&self, point: Point) {
        #[cfg(feature = "sim")]
        pause::hold_by_file(point);
        let hook = self.hook.lock().clone();
        if let Some(hook) = hook {
            hook(point);
        }
    }
}

/// Milliseconds since `clock`; sets `clock` to now.
fn elapsed(clock: &mut Instant) -> u64 {
    let now = Instant::now();
    let passed = now.duration_since(*clock).as_millis() as u64;
    *clock = now;
    passed
}

#[cfg(all(test, feature = "sim"))]
mod tests;
