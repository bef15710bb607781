//! `cairnfs demo`: everything a user does with cairnfs, on real files, in a place of its own.
//!
//! Each step runs the command that a user would run (this program, cp, rm). At the end, this process compares all files
//! byte by byte. The demo changes nothing outside its own directory, and removes that directory however it ends.

mod compare;
mod place;
mod run;
mod source;

use std::path::Path;
use std::time::{Duration, Instant};

use super::args::DemoArgs;
use super::output::{count, factor, print};
use super::progress::Display;
use super::size::show_size;
use super::{environment, show};
use crate::control::Client;
use crate::error::{Error, Result};
use crate::gc::CycleRecord;
use crate::store::StoreStatus;
use place::Place;
use run::Runner;
use source::Tree;

/// The store may grow to the size of the source if nothing can be compressed. Beside it there are a copy to change and
/// a restored copy, and the reserve needs a little.
const COPIES: u64 = 3;
const BESIDE: u64 = 256 << 20;

pub(super) fn run(args: &DemoArgs) -> Result<()> {
    environment::can_mount()?;
    for program in ["cp", "rm"] {
        if environment::find_program(program).is_none() {
            return Err(Error::Environment(format!(
                "the demo copies and deletes as a user does, with {program}, which is not in PATH"
            )));
        }
    }
    let runner = Runner::new()?;
    let tree = source::choose(&args.source)?;
    let place = Place::make(args.dir.as_deref())?;
    place.must_have_room(tree.bytes * COPIES + BESIDE)?;
    print(&format!(
        "cairnfs demo with {} files, {}, {}\n",
        count(tree.files),
        show_size(tree.bytes),
        tree.title()
    ))?;
    let outcome = Demo { runner: &runner, place: &place, tree: &tree }.play();
    place.leave(&runner, args.keep && outcome.is_ok())?;
    outcome?;
    if args.keep {
        let store = place.store();
        print(&format!(
            "\nThe store is left at {0}; `cairnfs mount {0} MOUNTPOINT` shows what is in it.\n",
            show(&store)
        ))?;
    }
    Ok(())
}

struct Demo<'a> {
    runner: &'a Runner,
    place: &'a Place,
    tree: &'a Tree,
}

/// The time of a step, and the status of the store after it.
struct Step {
    took: Duration,
    after: StoreStatus,
}

impl Demo<'_> {
    fn play(&self) -> Result<()> {
        let (place, runner) = (self.place, self.runner);
        let (work, store, mount) = (place.work(), place.store(), place.mount());
        runner.quietly("copying the files to a place where they can be changed", |r| {
            self.tree.copy_to(r, &work)
        })?;

        runner.cairnfs(&["mkfs".as_ref(), store.as_ref()])?;
        runner.cairnfs(&["mount".as_ref(), store.as_ref(), mount.as_ref()])?;
        let group = mount.join("demo");
        std::fs::create_dir(&group).map_err(|e| Error::io(format!("making {}", show(&group)), e))?;
        let empty = self.status()?;

        let first = self.back_up(&work, &group.join("first"), &empty)?;
        say(
            "1st backup",
            &format!(
                "{} stored as {} in {}",
                show_size(first.after.referenced_bytes),
                show_size(first.after.stored_bytes),
                seconds(first.took)
            ),
        )?;
        let changes = source::change_some(&work)?;
        let second = self.back_up(&work, &group.join("second"), &first.after)?;
        say(
            "2nd backup",
            &format!(
                "{} files changed and {} deleted meanwhile; {} more stored, in {}",
                count(changes.changed),
                count(changes.removed),
                show_size(grown(&first.after, &second.after)),
                seconds(second.took)
            ),
        )?;
        say(
            "saved",
            &format!(
                "{} of files take {}: deduplication {}, compression {}, together {}",
                show_size(second.after.referenced_bytes),
                show_size(second.after.stored_bytes),
                factor(second.after.referenced_bytes, second.after.plain_bytes),
                factor(second.after.plain_bytes, second.after.stored_bytes),
                factor(second.after.referenced_bytes, second.after.stored_bytes)
            ),
        )?;
        self.prune(&group.join("first"))?;
        self.restore(&group.join("second"), &work)?;

        runner.cairnfs(&["check".as_ref(), "--data".as_ref(), store.as_ref()])?;
        say("check", "all data read, clean")?;
        runner.cairnfs(&["umount".as_ref(), mount.as_ref()])
    }

    fn back_up(&self, from: &Path, to: &Path, before: &StoreStatus) -> Result<Step> {
        let begin = Instant::now();
        let display = Display::of_bytes("backing up", self.tree.bytes);
        let mut client = self.client()?;
        self.runner.copy(from, to, &mut || {
            if let Ok(report) = client.status() {
                let now = report.store.referenced_bytes;
                display.at(now.saturating_sub(before.referenced_bytes));
            }
        })?;
        self.runner.cairnfs(&["sync".as_ref(), self.place.mount().as_ref()])?;
        let took = begin.elapsed();
        Ok(Step { took, after: self.status()? })
    }

    /// Deletes the snapshot while cycles run, then lets one more finish the work.
    fn prune(&self, snapshot: &Path) -> Result<()> {
        let before = self.status()?;
        let (took, beside) = self.runner.quietly("pruning while a cycle runs", |runner| {
            let collecting = run::Cycles::start(self.client()?);
            let begin = Instant::now();
            let removed = runner.remove(snapshot);
            let took = begin.elapsed();
            let beside = collecting.stop();
            removed?;
            Ok((took, beside?))
        })?;
        let last = self.runner.quietly("collecting", |_| self.client()?.gc(false, &mut |_| {}))?;
        let after = self.status()?;
        say(
            "prune",
            &format!("rm -rf of the 1st snapshot in {} while {} ran", seconds(took), cycles(beside.len())),
        )?;
        let freed: u64 = beside.iter().chain([&last]).map(freed).sum();
        say(
            "freed",
            &format!(
                "{} given back to the disk; {} are stored now",
                show_size(freed),
                show_size(after.stored_bytes)
            ),
        )?;
        if after.stored_bytes > before.stored_bytes {
            return Err(Error::CheckFailed("the store has grown by deleting; please report this".into()));
        }
        Ok(())
    }

    fn restore(&self, snapshot: &Path, expected: &Path) -> Result<()> {
        let restored = self.place.restored();
        let begin = Instant::now();
        self.runner
            .quietly("restoring the 2nd snapshot", |runner| runner.copy(snapshot, &restored, &mut || {}))?;
        let took = begin.elapsed();
        let display = Display::of_bytes("comparing", self.tree.bytes);
        let same = compare::trees(expected, &restored, &|bytes| {
            display.at(bytes);
            self.runner.go_on()
        })?;
        drop(display);
        say(
            "restore",
            &format!(
                "{} files in {}, each equal to its source byte by byte ({})",
                count(same.files),
                seconds(took),
                show_size(same.bytes)
            ),
        )
    }

    fn client(&self) -> Result<Client> {
        Client::connect(&self.place.store())?.ok_or_else(|| {
            Error::Environment(format!(
                "the daemon has ended; see {}",
                show(&self.place.store().join("cairnfs.log"))
            ))
        })
    }

    fn status(&self) -> Result<StoreStatus> {
        Ok(self.client()?.status()?.store)
    }
}

fn say(name: &str, text: &str) -> Result<()> {
    print(&format!("  {name:<11} {text}\n"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn cycles(number: usize) -> String {
    if number == 1 { "a cycle".into() } else { format!("{number} cycles") }
}

fn freed(record: &CycleRecord) -> u64 {
    record.freed_bytes
}

fn grown(before: &StoreStatus, after: &StoreStatus) -> u64 {
    after.stored_bytes.saturating_sub(before.stored_bytes)
}
