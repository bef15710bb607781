//! What the daemon does for commands, through the control socket and through the control directory in the mount.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::maintenance::TaskRetries;
use super::{Setup, pace};
use serde::Serialize;

use crate::check::{self, CheckReport, Scrub};
use crate::control::{
    CheckRequest, ControlHandler, DroppedSubvolume, HeldBack, Holder, Presence, Progress, StatusReport,
};
use crate::error::{Error, Result};
use crate::fs::{DroppedInfo, Fs, HeldBy};
use crate::fuse::{self, ControlFiles, Unmounter};
use crate::gc::{Collector, CycleRecord, Stage};
use crate::retry::RecurringFailure;
use crate::snapshots::{self, Answer, Place, Task};
use crate::store::Store;

/// How often to read the stage of a running cycle for a command that shows it.
const STAGE_POLL: Duration = Duration::from_millis(50);

pub(super) struct Handler {
    store_path: PathBuf,
    mountpoint: PathBuf,
    read_only: bool,
    presence: Presence,
    /// Where the mount is; empty until there is one.
    mounted: OnceLock<Unmounter>,
    /// Set once, when the mount has ended; checks end early then.
    closing: AtomicBool,
    store: Arc<Store>,
    filesystem: Arc<Fs>,
    collector: Arc<Collector>,
    scrub: Arc<Scrub>,
    tries: Arc<TaskRetries>,
}

impl Handler {
    pub(super) fn new(
        setup: &Setup,
        (store, filesystem, collector, scrub): (Arc<Store>, Arc<Fs>, Arc<Collector>, Arc<Scrub>),
        tries: Arc<TaskRetries>,
    ) -> Self {
        Self {
            store_path: setup.store.clone(),
            mountpoint: setup.mountpoint.clone(),
            read_only: setup.open.read_only,
            presence: Presence::of_this_process(&store.config().uuid.to_string(), &setup.store),
            mounted: OnceLock::new(),
            closing: AtomicBool::new(false),
            store,
            filesystem,
            collector,
            scrub,
            tries,
        }
    }

    /// Ends the checks that run, so that they do not read from a store that is being closed.
    pub(super) fn close_soon(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Background tasks that fail.
    fn failing(&self) -> Vec<RecurringFailure> {
        let mut all: Vec<RecurringFailure> = self.collector.recurring_failure().into_iter().collect();
        all.extend(self.tries.recurring_failures());
        all.extend(self.filesystem.recurring_failures());
        all
    }

    /// Removed subvolumes that are still there.
    fn dropped(&self) -> Vec<DroppedSubvolume> {
        let told = |info: DroppedInfo| {
            let (held_by, remembered) = match info.held_by {
                HeldBy::Kernel(inodes) => (HeldBack::Kernel, inodes),
                HeldBy::Batch => (HeldBack::Commit, 0),
                HeldBy::Nothing => (HeldBack::Reap, 0),
            };
            let held_by = if self.read_only { HeldBack::ReadOnly } else { held_by };
            let name = info.name.as_deref().map(check::shown_name);
            DroppedSubvolume { number: info.number, name, held_by, remembered }
        };
        self.filesystem.dropped_subvolumes().into_iter().map(told).collect()
    }

    /// Notes the mount, once there is one.
    pub(super) fn mounted(&self, unmounter: Unmounter) {
        // It was empty: one handler has one mount.
        let _ = self.mounted.set(unmounter);
    }

    /// Where the mount is now, and whether it is detached.
    fn place(&self) -> (PathBuf, bool) {
        let made = || self.mountpoint.clone();
        let Some(entry) = self.mounted.get().and_then(Unmounter::entry) else { return (made(), false) };
        match self.mounted.get().map(Unmounter::places).unwrap_or_default().into_iter().next() {
            Some(place) => (place.mountpoint, false),
            None => (made(), fuse::is_alive(entry) == Some(true)),
        }
    }

    fn refuse_if_read_only(&self, what: &str) -> Result<()> {
        if self.read_only {
            return Err(Error::Usage(format!(
                "{} is mounted read-only at {}; unmount it or mount it with rw to {what}",
                self.store_path.display(),
                self.mountpoint.display()
            )));
        }
        Ok(())
    }
}

impl ControlHandler for Handler {
    fn presence(&self) -> Presence {
        let entry = self.mounted.get().and_then(Unmounter::entry);
        Presence {
            mount: entry.map(|entry| (entry.major, entry.minor)),
            serving: !self.closing.load(Ordering::SeqCst),
            ..self.presence.clone()
        }
    }

    fn status(&self) -> Result<StatusReport> {
        let (mountpoint, detached) = self.place();
        Ok(StatusReport {
            version: env!("CARGO_PKG_VERSION").into(),
            path: self.store_path.display().to_string(),
            holder: Some(Holder {
                pid: std::process::id(),
                mountpoint: mountpoint.display().to_string(),
                read_only: self.read_only,
                detached,
            }),
            stage: self.collector.stage(),
            last_cycle: self.collector.last(),
            scrub: self.scrub.status(),
            dropped: self.dropped(),
            failing: self.failing(),
            problems: Vec::new(),
            store: self.store.status()?,
        }
        .with_problems(Vec::new()))
    }

    fn gc(&self, dry_run: bool, progress: &mut dyn FnMut(Progress)) -> Result<CycleRecord> {
        if !dry_run {
            self.refuse_if_read_only("run a cycle")?;
        }
        // Data that was just written counts as in use. On a full disk it stays in memory, and a cycle makes room.
        if let Err(error) = self.filesystem.sync() {
            tracing::warn!("what could not be stored before the cycle is not in its figures: {error}");
        }
        run_cycle(&self.collector, dry_run, progress)
    }

    fn gc_soon(&self) -> Result<()> {
        self.refuse_if_read_only("run a cycle")?;
        self.collector.request();
        Ok(())
    }

    fn check(
        &self,
        request: CheckRequest,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<CheckReport> {
        let closing = || self.closing.load(Ordering::SeqCst);
        // The client may have gone when it ends; the log keeps the result.
        run_check(&self.store, request, progress, &closing).inspect(CheckReport::log)
    }

    fn sync(&self) -> Result<()> {
        self.filesystem.sync()
    }

    fn snapshots(&self, place: &Place, task: &Task) -> Result<Answer> {
        if matches!(task, Task::Set(_) | Task::Seal) {
            self.refuse_if_read_only("change it")?;
        }
        snapshots::perform(&self.filesystem, place, task)
    }
}

impl ControlFiles for Handler {
    fn presence(&self) -> String {
        json_line(Ok(ControlHandler::presence(self)))
    }

    fn generation(&self) -> String {
        format!("{}\n", self.store.generation())
    }

    fn status(&self) -> String {
        json_line(ControlHandler::status(self))
    }

    fn gc_status(&self) -> String {
        #[derive(Serialize)]
        struct State {
            stage: Stage,
            last_cycle: Option<CycleRecord>,
        }
        json_line(Ok(State { stage: self.collector.stage(), last_cycle: self.collector.last() }))
    }

    /// Any text starts a cycle, as with the kernel's own files of this kind.
    fn start_gc(&self, _word: &[u8]) -> Result<()> {
        self.gc_soon()
    }
}

/// If the value is not known, the line has the error as a sentence.
fn json_line(value: Result<impl Serialize>) -> String {
    let line = value.and_then(|value| {
        serde_json::to_string(&value).map_err(|e| Error::io("encoding the status", e.into()))
    });
    line.unwrap_or_else(|e| e.to_string()) + "\n"
}

/// Runs a cycle and reports each stage that it sees.
pub(crate) fn run_cycle(
    collector: &Collector,
    dry_run: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<CycleRecord> {
    thread::scope(|scope| {
        let cycle = scope.spawn(|| collector.run_cycle(dry_run));
        let mut told = Stage::Idle;
        while !cycle.is_finished() {
            let stage = collector.stage();
            if stage != told {
                told = stage;
                progress(Progress::Stage(stage));
            }
            thread::sleep(STAGE_POLL);
        }
        cycle.join().unwrap_or_else(|_| Err(Error::CycleEnded("it panicked; please report this".into())))
    })
}

/// Runs a check and reports its progress, until `progress` or `closing` ends it.
pub(crate) fn run_check(
    store: &Arc<Store>,
    CheckRequest { data, limit, resume, all_names }: CheckRequest,
    progress: &mut dyn FnMut(Progress) -> bool,
    closing: &dyn Fn() -> bool,
) -> Result<CheckReport> {
    let (progress, in_vain, begin) = (RefCell::new(progress), Cell::new(false), Instant::now());
    let tell = |p: check::Progress| {
        let check::Progress { done, total, reads_data, bytes } = p;
        let listens = || (progress.borrow_mut())(Progress::Check { done, total, bytes, reads_data });
        let is_ahead = || limit.is_some_and(|limit| pace::is_ahead(p.bytes, limit, begin.elapsed()));
        in_vain.set(!listens());
        // The readers wait for this thread to give them more.
        while is_ahead() && !in_vain.get() && !closing() {
            thread::sleep(STAGE_POLL);
            in_vain.set(!listens());
        }
    };
    let cancelled = || in_vain.get() || closing();
    check::check(store, &check::Options { data, resume, all_names, progress: &tell, cancelled: &cancelled })
}
