//! `cairnfs status`, `gc`, `check` and `sync`: each asks the process that has the store open, or opens the store
//! itself and does the same.

use super::args::{CheckArgs, GcArgs, StatusArgs, SyncArgs};
use super::progress::Display;
use super::target::{Target, reach, store_of};
use super::{output, show};
use crate::check::{CheckReport, Scrub};
use crate::control::{CheckRequest, Client, Progress, StatusReport, closed_in_order};
use crate::daemon::{run_check, run_cycle};
use crate::error::{Error, Result};
use crate::fs::{Fs, FsOptions};
use crate::gc::{CycleRecord, Stage};
use crate::store::Store;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(super) fn status(args: &StatusArgs) -> Result<()> {
    let report = match reach(&args.path, true, "status")? {
        Target::Live(client) => client.greeting()?,
        Target::Opened(store) => with_close(&store, closed_status)?,
    };
    if args.json { output::print_json(&report) } else { output::print(&output::status(&report)) }
}

fn closed_status(store: &Arc<Store>) -> Result<StatusReport> {
    Ok(StatusReport {
        version: env!("CARGO_PKG_VERSION").into(),
        path: show(store.path()).to_string(),
        holder: None,
        stage: Stage::Idle,
        last_cycle: None,
        scrub: Scrub::of(store).status(),
        store: store.status()?,
    })
}

pub(super) fn gc(args: &GcArgs) -> Result<()> {
    if args.background {
        return gc_in_background(args);
    }
    let display = Display::new("collecting");
    let mut progress = |p: Progress| display.update(p);
    let record = match reach(&args.path, false, "gc")? {
        Target::Live(mut client) => client.gc(args.dry_run, &mut progress)?,
        Target::Opened(store) => with_close(&store, |store| closed_gc(store, args.dry_run, &mut progress))?,
    };
    drop(display);
    if args.json {
        output::print_json(&record)?;
    } else {
        output::print(&output::cycle(&record))?;
    }
    Ok(())
}

fn gc_in_background(args: &GcArgs) -> Result<()> {
    let store = store_of(&args.path)?;
    let Some(mut client) = Client::connect(&store)? else {
        return Err(Error::Usage(format!(
            "{} is not mounted, so nobody could collect in the background; leave --background out",
            show(&store)
        )));
    };
    client.gc_soon()?;
    let stage = client.status()?.stage;
    output::print(&output::started(stage))
}

fn closed_gc(store: &Arc<Store>, dry_run: bool, progress: &mut dyn FnMut(Progress)) -> Result<CycleRecord> {
    let filesystem = Fs::new(Arc::clone(store), FsOptions::default())?;
    let collector = crate::daemon::collector(store, &filesystem, false, None)?;
    let record = run_cycle(&collector, dry_run, progress);
    collector.shutdown();
    let ended = filesystem.shutdown();
    record.and_then(|record| ended.map(|()| record))
}

pub(super) fn check(args: &CheckArgs) -> Result<()> {
    let outcome = checked(args);
    let report = match outcome {
        Ok(report) => report,
        Err(e) => return super::reported(args.json, Err(e)),
    };
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&output::check(&report))?;
    }
    if report.is_clean() {
        return Ok(());
    }
    Err(Error::CheckFailed(format!("{}: {}", show(&args.path), output::summary(&report))))
}

fn checked(args: &CheckArgs) -> Result<CheckReport> {
    let display = Display::with_lines("checking");
    let request = CheckRequest { data: args.data, limit: args.limit, resume: args.resume };
    match reach(&args.path, true, "check")? {
        Target::Live(mut client) => client.check(request, &mut |p| display.update(p)),
        Target::Opened(store) => {
            let stop = Stop::at_signals()?;
            let mut progress = |p| {
                display.update(p);
                true
            };
            let outcome =
                with_close(&store, |store| run_check(store, request, &mut progress, &|| stop.signal() != 0));
            drop(display);
            if outcome.is_err() && stop.signal() != 0 {
                if args.data {
                    eprintln!("cairnfs: interrupted; `cairnfs check --data --resume` goes on from here");
                }
                stop.end_as_told();
            }
            outcome
        }
    }
}

/// Signals that end a check, which notes first how far it is; the second one ends it at once.
struct Stop(Arc<AtomicUsize>);

impl Stop {
    fn at_signals() -> Result<Self> {
        let caught = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order, so that the first signal does not meet what it sets itself.
            flag::register_conditional_default(signal, Arc::clone(&again))
                .and_then(|_| flag::register(signal, Arc::clone(&again)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&caught), signal as usize))
                .map_err(|error| Error::io("catching signals", error))?;
        }
        Ok(Self(caught))
    }

    /// The signal that came; 0 while there was none.
    fn signal(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Ends the process the way the signal would have.
    fn end_as_told(&self) {
        // It only fails for signals that do not exist; then the check's own error is told.
        let _ = signal_hook::low_level::emulate_default_handler(self.signal() as i32);
    }
}

pub(super) fn sync(args: &SyncArgs) -> Result<()> {
    match reach(&args.path, true, "sync")? {
        Target::Live(mut client) => client.sync(),
        // Nobody has it open: everything was made durable when it was closed, if it was.
        Target::Opened(store) => with_close(&store, |store| closed_in_order(store.path())),
    }
}

/// Closes the store after the work, whatever came of it; the work's error is the one that counts.
fn with_close<T>(store: &Arc<Store>, work: impl FnOnce(&Arc<Store>) -> Result<T>) -> Result<T> {
    let outcome = work(store);
    let closed = store.close();
    let value = outcome?;
    closed.map(|()| value)
}
