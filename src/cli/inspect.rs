//! `cairnfs status`, `gc`, `check` and `sync`: each asks the process that has the store open, or opens the store
//! itself and does the same.

use super::args::{CheckArgs, GcArgs, StatusArgs, SyncArgs};
use super::interrupt::Interrupt;
use super::progress::Display;
use super::target::{ResolvedPath, Target, ended_in_disorder, reach, resolve};
use super::{output, show};
use crate::check::{CheckReport, Scrub};
use crate::control::{CheckRequest, Problem, ProblemKind, Progress, StatusReport, closed_in_order};
use crate::daemon::{run_check, run_cycle};
use crate::error::{Error, Result};
use crate::fs::{Fs, FsOptions};
use crate::gc::{CycleRecord, Stage};
use crate::store::Store;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) fn status(args: &StatusArgs) -> Result<()> {
    let _interrupt = Interrupt::install(args.json, "nothing was changed")?;
    let report = match reach(&args.path, true, "status")? {
        Target::Live(mut client) => client.status()?,
        Target::Opened(store) => with_close(&store, closed_status)?,
    };
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&output::status(&report))?;
    }
    report.verdict()
}

fn closed_status(store: &Arc<Store>) -> Result<StatusReport> {
    // Before the figures, which include its findings.
    let looked = store.healing.look_for_packs(&mut || Ok(()));
    let problem = |kind, error: Error| Problem { kind, text: error.to_string() };
    let others = [
        closed_in_order(store.path()).err().map(|error| problem(ProblemKind::Killed, error)),
        looked.err().map(|error| problem(ProblemKind::Damage, error)),
    ];
    Ok(StatusReport {
        version: env!("CARGO_PKG_VERSION").into(),
        path: show(store.path()).to_string(),
        holder: None,
        stage: Stage::Idle,
        last_cycle: CycleRecord::last_of(store),
        scrub: Scrub::of(store).status(),
        dropped: Vec::new(),
        failing: Vec::new(),
        problems: Vec::new(),
        store: store.status()?,
    }
    .with_problems(others.into_iter().flatten().collect()))
}

pub(super) fn gc(args: &GcArgs) -> Result<()> {
    if args.background {
        return gc_in_background(args);
    }
    let interrupt = Interrupt::install(
        args.json,
        "a cycle that was begun goes on to its end in the process that has the store open",
    )?;
    let display = Display::new("collecting");
    let mut progress = |p: Progress| display.update(p);
    let record = match reach(&args.path, false, "gc")? {
        Target::Live(mut client) => client.gc(args.dry_run, &mut progress)?,
        Target::Opened(store) => {
            let record =
                with_close(&store, |store| closed_gc(store, args.dry_run, &mut progress, &interrupt));
            drop(display);
            interrupt.end_if_signalled();
            record?
        }
    };
    if args.json {
        output::print_json(&record)?;
    } else {
        output::print(&output::cycle(&record))?;
    }
    Ok(())
}

fn gc_in_background(args: &GcArgs) -> Result<()> {
    let mut client = resolve(&args.path)?.client()?;
    client.gc_soon()?;
    let stage = client.status()?.stage;
    output::print(&output::started(stage))
}

fn closed_gc(
    store: &Arc<Store>,
    dry_run: bool,
    progress: &mut dyn FnMut(Progress),
    interrupt: &Interrupt,
) -> Result<CycleRecord> {
    let filesystem = Fs::new(Arc::clone(store), FsOptions::default())?;
    let collector = crate::daemon::collector(store, &filesystem, false, None)?;
    let told = Arc::clone(&collector);
    interrupt.end_in_order("the cycle was ended early and nothing that is needed was freed", move || {
        told.end_soon();
    });
    let record = run_cycle(&collector, dry_run, progress);
    collector.shutdown();
    let ended = filesystem.shutdown();
    record.and_then(|record| ended.map(|()| record))
}

pub(super) fn check(args: &CheckArgs) -> Result<()> {
    // An error now, and not after hours of work, if the list cannot be written.
    let list = args.list_damaged.as_deref().map(DamagedList::begin).transpose()?;
    let report = checked(args)?;
    if let Some(list) = list {
        list.write(&report)?;
    }
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

/// The list of the damaged files: paths from the mount's root, each ended by a NUL, for `rsync --from0` and `xargs -0`.
struct DamagedList<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> DamagedList<'a> {
    fn begin(path: &'a Path) -> Result<Self> {
        let file =
            File::create(path).map_err(|error| Error::io(format!("making {}", path.display()), error))?;
        Ok(Self { path, file })
    }

    fn write(mut self, report: &CheckReport) -> Result<()> {
        let mut bytes = Vec::new();
        for file in report.damaged_files() {
            bytes.extend_from_slice(&file);
            bytes.push(0);
        }
        let written = self.file.write_all(&bytes);
        written.map_err(|error| Error::io(format!("writing {}", self.path.display()), error))
    }
}

fn checked(args: &CheckArgs) -> Result<CheckReport> {
    let sentence = if args.data {
        "`cairnfs check --data --resume` goes on from here"
    } else {
        "nothing was changed, and the findings so far are not reported"
    };
    let interrupt = Interrupt::install(args.json, sentence)?;
    let display = Display::with_lines("checking");
    let all_names = args.json || args.list_damaged.is_some();
    let request = CheckRequest { data: args.data, limit: args.limit, resume: args.resume, all_names };
    match reach(&args.path, true, "check")? {
        Target::Live(mut client) => client.check(request, &mut |p| display.update(p)),
        Target::Opened(store) => {
            // The check notes its position first.
            let stop = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&stop);
            interrupt.end_in_order(sentence, move || told.store(true, Ordering::SeqCst));
            let mut progress = |p| {
                display.update(p);
                true
            };
            let outcome = with_close(&store, |store| {
                run_check(store, request, &mut progress, &|| stop.load(Ordering::SeqCst))
            });
            drop(display);
            if outcome.is_err() {
                interrupt.end_if_signalled();
            }
            outcome
        }
    }
}

pub(super) fn sync(args: &SyncArgs) -> Result<()> {
    let _interrupt = Interrupt::install(false, "what was written may not be durable yet")?;
    let resolved = resolve(&args.path)?;
    if let ResolvedPath::Dead(entry) = &resolved {
        return Err(ended_in_disorder(&entry.source));
    }
    match resolved.reach(true, "sync")? {
        Target::Live(mut client) => client.sync(),
        // Nobody has it open. If it was closed, everything is durable.
        Target::Opened(store) => with_close(&store, |store| closed_in_order(store.path())),
    }
}

/// Closes the store after the work, also after an error. The error of the work is returned first.
pub(super) fn with_close<T>(store: &Arc<Store>, work: impl FnOnce(&Arc<Store>) -> Result<T>) -> Result<T> {
    let outcome = work(store);
    let closed = store.close();
    let value = outcome?;
    closed.map(|()| value)
}
