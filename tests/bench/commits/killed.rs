//! Opening after the daemon was killed in the worst moment: the log has as much as it ever has.
//!
//! When that is shows in the database, which changes with a fold: one lap tells how many commits there are between two
//! folds, and the daemon is killed a few commits before the end of the next.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::measure::{Outcome, median, peak_memory};
use crate::options::Run;
use crate::place::Place;
use crate::random::Random;
use crate::rates::durable_file;
use crate::table::Table;

/// Names that one commit makes, where rows are to fill the log.
const NAMES: u64 = 100;
/// Commits before the fold at which the daemon is killed.
const EARLY: u64 = 3;
/// A lap has no more commits than this; a program that has no log folds with each.
const MOST: u64 = 20_000;

/// Makes the commit with this number durable in a directory.
type Step<'a> = &'a mut dyn FnMut(&Path, u64) -> Outcome<()>;

pub fn measure(run: &Run, below: &Path, programs: &[(&'static str, PathBuf)]) -> Outcome<()> {
    let mut table = Table::new(["opened after a kill", "commits since the fold", "ms", "peak, MiB"]);
    for (name, program) in programs {
        let mut random = Random::new(9);
        let steps: [(&str, Step<'_>); 2] = [
            ("files of 4 KiB", &mut |dir, number| durable_file(&dir.join(number.to_string()), &mut random)),
            ("names, 100 with each commit", &mut names),
        ];
        for (what, step) in steps {
            let (mut commits, mut seconds, mut peaks) = (0, Vec::new(), Vec::new());
            for _ in 0..run.rounds.min(3) {
                let mut place = Place::mounted(below, &format!("{name}, killed"), program)?;
                commits = fill(&place, step)?;
                seconds.push(place.kill_and_mount()?);
                let peak = place.daemon().and_then(peak_memory).unwrap_or(0);
                peaks.push(peak as f64 / f64::from(1 << 20));
            }
            table.row([
                format!("{name}: {what}"),
                commits.to_string(),
                format!("{:.0}", median(&seconds).unwrap_or(0.0) * 1e3),
                format!("{:.0}", median(&peaks).unwrap_or(0.0)),
            ]);
        }
    }
    println!("\n{table}");
    Ok(())
}

/// Makes empty files and waits until they are durable.
fn names(dir: &Path, number: u64) -> Outcome<()> {
    let path =
        |name: u64| dir.join(format!("a name that is as long as names of photographs are {number} {name}"));
    let made = (0..NAMES).try_for_each(|name| File::create(path(name)).map(drop));
    made.and_then(|()| File::open(dir)?.sync_all()).map_err(|e| format!("{}: {e}", dir.display()))
}

/// Commits until just before a fold; how many there were since the last.
fn fill(place: &Place, step: Step<'_>) -> Outcome<u64> {
    let database = place.database().ok_or("the host has no log")?;
    let changed = || std::fs::metadata(&database).map(|file| (file.mtime(), file.mtime_nsec()));
    let changed = || changed().map_err(|e| format!("{}: {e}", database.display()));
    let (mut number, mut lap) = (0, 0);
    // The first lap began with whatever mounting had committed.
    for _ in 0..2 {
        let (before, begin) = (changed()?, number);
        while changed()? == before && number - begin < MOST {
            step(&place.dir, number)?;
            number += 1;
        }
        lap = number - begin;
    }
    let left = lap.saturating_sub(EARLY);
    (number..number + left).try_for_each(|number| step(&place.dir, number))?;
    Ok(left)
}
