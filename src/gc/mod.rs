//! The collector: one cycle is flip, mark, sweep, reclaim.
//!
//! Keeps true: the order of the stages, and that an error at any point ends the cycle before it frees anything more
//! (I7). What each stage keeps true stands in its file; why the whole is safe, with the table of races, in
//! `docs/collection.md`.

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
use crate::sabotage::{Protection, out};
use crate::store::cells::Cells;
use crate::store::{FlipInfo, Store};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

pub use pause::Point;
pub use record::{CycleRecord, Stage};

use start::{Last, Look, Starter};

/// What a cycle begins with: working off the queue of deleted files, which is not the collector's to know.
pub type Drain = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// How the collector works.
#[derive(Clone)]
pub struct Options {
    /// Cycles start by themselves, soon after enough was deleted.
    pub auto: bool,
    /// A cycle starts by itself when the last one is this long ago and there may be garbage.
    pub interval: Option<Duration>,
    /// What to do before a flip.
    pub drain: Drain,
    /// Extents marked between two looks at whether to go on, and chunks whose rows one transaction of the sweep
    /// removes: bounds how long it holds up a commit.
    pub step: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { auto: false, interval: None, drain: Arc::new(|| Ok(())), step: 4096 }
    }
}

/// How often the automatic start looks at the store.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The collector of one store.
pub struct Collector {
    store: Arc<Store>,
    options: Options,
    /// One cycle at a time.
    running: Mutex<()>,
    stage: Mutex<Stage>,
    last: Mutex<Option<CycleRecord>>,
    tried: Mutex<Last>,
    stopping: AtomicBool,
    wake: Sender<()>,
    hook: Mutex<Option<pause::Hook>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Collector {
    /// The collector of `store`, with the thread that starts cycles.
    pub fn new(store: Arc<Store>, options: Options) -> Result<Arc<Self>> {
        let (wake, wanted) = bounded(1);
        let collector = Arc::new(Self {
            store,
            options,
            running: Mutex::new(()),
            stage: Mutex::new(Stage::Idle),
            last: Mutex::new(None),
            tried: Mutex::new(Last { at: Instant::now(), whole: false }),
            stopping: AtomicBool::new(false),
            wake,
            hook: Mutex::new(None),
            thread: Mutex::new(None),
        });
        let this = collector.clone();
        let thread = Builder::new()
            .name("cairn-collect".to_owned())
            .spawn(move || this.start_cycles(&wanted))
            .map_err(|error| Error::io("starting the collector", error))?;
        *collector.thread.lock() = Some(thread);
        Ok(collector)
    }

    /// Where the running cycle is.
    pub fn stage(&self) -> Stage {
        *self.stage.lock()
    }

    /// The record of the last cycle since the store was opened.
    pub fn last(&self) -> Option<CycleRecord> {
        self.last.lock().clone()
    }

    /// Has a cycle started soon.
    pub fn request(&self) {
        // Full means that one is asked for already.
        let _ = self.wake.try_send(());
    }

    /// Ends a running cycle at its next step, and the thread.
    pub fn shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
        self.request();
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
        let mut starter = Starter::new(self.options.auto, self.options.interval);
        while !self.stopping.load(Ordering::Acquire) {
            let asked = wanted.recv_timeout(LOOK_EVERY).is_ok();
            let deleted = self.store.counter(Counter::Deleted);
            let short =
                deleted > 0 && self.store.host_space().is_ok_and(|space| space.available < space.total / 50);
            let look = Look { deleted, short };
            let due = starter.is_due(Instant::now(), *self.tried.lock(), look);
            if self.stopping.load(Ordering::Acquire) || !(asked || due) {
                continue;
            }
            if let Err(error) = self.run_cycle(false) {
                tracing::error!("{error}");
            }
        }
    }

    /// Runs one cycle; waits for one that is running already. With `dry_run` no chunk is touched, and the record says
    /// what would have been condemned; the queue of deleted files is worked off all the same.
    pub fn run_cycle(&self, dry_run: bool) -> Result<CycleRecord> {
        let _running = self.running.lock();
        let mut record = CycleRecord { dry_run, started: Timestamp::now().sec, ..CycleRecord::default() };
        let result = if dry_run { self.look(&mut record) } else { self.collect(&mut record) };
        *self.stage.lock() = Stage::Idle;
        if let Err(error) = &result {
            record.ended_early = Some(error.to_string());
        }
        if !dry_run {
            // The log keeps the record of each cycle, the status that of the last.
            let text = serde_json::to_string(&record).unwrap_or_default();
            tracing::info!("cycle {text}");
            *self.last.lock() = Some(record.clone());
            *self.tried.lock() = Last { at: Instant::now(), whole: result.is_ok() };
        }
        result.map(|()| record)
    }

    fn look(&self, record: &mut CycleRecord) -> Result<()> {
        (self.options.drain)()?;
        let view = self.store.now().view.clone();
        let cells = Cells::new(self.store.next_chunk());
        record.generation = self.store.generation();
        record.watermark = cells.watermark().0;
        mark::mark(&view, &cells, self.options.step, record, || self.go_on())?;
        sweep::sweep(&self.store, &cells, (self.options.step, true), record, |_| self.go_on())?;
        Ok(())
    }

    fn collect(&self, record: &mut CycleRecord) -> Result<()> {
        self.pass(Point::Begin)?;
        let mut clock = self.enter(Stage::Drain);
        (self.options.drain)()?;
        let deleted = self.store.counter(Counter::Deleted);
        record.drain_ms = elapsed(&mut clock);

        self.pass(Point::BeforeFlip)?;
        self.enter(Stage::Flip);
        self.store.make_room();
        let (flip, view) = self.store.flip()?;
        record.generation = flip.generation;
        record.watermark = flip.cells.watermark().0;
        record.longest_hold_us = flip.held.as_micros() as u64;
        record.flip_ms = elapsed(&mut clock);

        let result = self
            .after_flip(&flip, view, record, &mut clock)
            .and_then(|()| self.store.forget_deleted(deleted));
        self.pass_always(Point::Reclaimed);
        // The barrier has to come down however the cycle ended; cells that were condemned stay refused until it does.
        let ended = self.store.end_cycle();
        result.and(ended)
    }

    fn after_flip(
        &self,
        flip: &FlipInfo,
        view: ReadView,
        record: &mut CycleRecord,
        clock: &mut Instant,
    ) -> Result<()> {
        self.pass(Point::Flipped)?;
        self.enter(Stage::Mark);
        self.mark(flip, &view, record)?;
        drop(view);
        record.mark_ms = elapsed(clock);
        self.pass(Point::Marked)?;

        self.enter(Stage::Sweep);
        let usage = sweep::sweep(&self.store, &flip.cells, (self.options.step, false), record, |removed| {
            self.pass(if removed { Point::MidSweep } else { Point::Condemned })
        })?;
        record.sweep_ms = elapsed(clock);
        self.pass(Point::Swept)?;

        self.enter(Stage::Reclaim);
        if !out(Protection::DurableBeforeFree) {
            // I3: no byte is freed before the removal of its last name is durable.
            self.store.rewrite(true, |_, _| Ok(()))?;
        }
        reclaim::reclaim(&self.store, &usage, flip.packs_below, record, || self.pass(Point::Moved))?;
        record.reclaim_ms = elapsed(clock);
        Ok(())
    }

    fn mark(&self, flip: &FlipInfo, view: &ReadView, record: &mut CycleRecord) -> Result<()> {
        let go_on = || self.pass(Point::MidMark);
        #[cfg(feature = "sim")]
        if out(Protection::OneSnapshot) {
            return mark::late::mark(&self.store, view, &flip.cells, record, go_on);
        }
        mark::mark(view, &flip.cells, self.options.step, record, go_on)
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

    /// A point between two steps: tests hold the cycle here, and a store that is being closed ends it.
    fn pass(&self, point: Point) -> Result<()> {
        self.pass_always(point);
        self.go_on()
    }

    fn pass_always(&self, point: Point) {
        #[cfg(feature = "sim")]
        pause::hold_by_file(point);
        let hook = self.hook.lock().clone();
        if let Some(hook) = hook {
            hook(point);
        }
    }
}

/// Milliseconds since `clock`, which starts anew.
fn elapsed(clock: &mut Instant) -> u64 {
    let now = Instant::now();
    let passed = now.duration_since(*clock).as_millis() as u64;
    *clock = now;
    passed
}
