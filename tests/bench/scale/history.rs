//! Many snapshots of one tree, a clone a day, of which some files change each day.
//!
//! What it shows: rows for what changed and not for what is there; the newest snapshot is read as fast as the first;
//! a cycle, a check and an opening do not take as many times longer as there are snapshots; pruning costs nothing in the
//! foreground, and what is left for the background goes by rows that changed.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairnfs::check::{self, Options};
use cairnfs::fs::{Fs, FsOptions};
use cairnfs::gc::{self, Collector};
use cairnfs::meta::Table;
use cairnfs::store::Store;
use serde::{Deserialize, Serialize};

use super::cycle::{CALLER, new_store, open, told};
use super::probe::{Took, Watch, quantile};
use crate::measure::Outcome;
use crate::random::Random;

const ROOT: u64 = 1;
/// Files of one directory.
const FILES_OF_DIR: u64 = 500;
/// Bytes of a file, none like another.
const FILE: usize = 100;
/// Names looked up.
const LOOKS: u64 = 20_000;
/// Snapshots that a prune leaves.
pub const KEPT: u64 = 10;

/// How much.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct History {
    /// Files of the tree.
    pub files: u64,
    /// Snapshots.
    pub days: u64,
    /// Files that change each day.
    pub changed: u64,
}

/// What was seen.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Milliseconds that a clone took with the sync of what was staged before it, and without: median and worst.
    pub clone_ms: (f64, f64),
    pub bare_clone_ms: (f64, f64),
    /// Bytes of rows of subvolumes after the first snapshot, and after all.
    pub rows: (u64, u64),
    /// Bytes of the database after the first snapshot, and after all, and after the prune.
    pub database: (u64, u64, u64),
    /// Reading the directories and attributes of the first snapshot, and of the newest.
    pub walk: (Took, Took),
    /// Microseconds to look up a name that never changed, and one of a file that changed every day.
    pub lookup_us: (f64, f64),
    pub cycle: (Took, Took),
    pub check: Took,
    pub open: Took,
    /// Milliseconds that a removal at once took: median and worst.
    pub prune_ms: (f64, f64),
    /// Rows that were reaped, and what that took.
    pub reaped: (u64, Took),
}

struct Place {
    store: Arc<Store>,
    fs: Arc<Fs>,
}

impl Place {
    /// Nothing happens by time in it.
    fn open(store: Arc<Store>) -> Outcome<Self> {
        let options = FsOptions { commit_interval: Duration::from_secs(3600), ..FsOptions::default() };
        let fs = told("the filesystem", Fs::new(store.clone(), options))?;
        Ok(Self { store, fs })
    }

    fn close(self) -> Outcome<()> {
        told("ending the filesystem", self.fs.shutdown())?;
        told("closing", self.store.close())
    }

    fn clone_dir(&self, source: u64, name: &str) -> Outcome<u64> {
        told("the wish", self.fs.wish_clone(ROOT, name.as_bytes(), source, CALLER))?;
        let attr = told("a clone", self.fs.mkdir(ROOT, name.as_bytes(), CALLER, 0o755, 0))?;
        self.fs.forget(attr.ino, 1);
        Ok(attr.ino)
    }

    fn look_up(&self, dir: u64, name: &str) -> Outcome<u64> {
        let attr = told("lookup", self.fs.lookup(dir, name.as_bytes()))?;
        self.fs.forget(attr.ino, 1);
        Ok(attr.ino)
    }

    fn write(&self, ino: u64, random: &mut Random) -> Outcome<()> {
        let mut data = [0; FILE];
        random.fill(&mut data);
        told("write", self.fs.write(ino, 0, &data, false))
    }

    fn file(&self, root: u64, number: u64) -> Outcome<u64> {
        let dir = self.look_up(root, &format!("d{}", number / FILES_OF_DIR))?;
        self.look_up(dir, &format!("file-{number}"))
    }

    /// The first snapshot: a clone of an empty directory, and everything made in it.
    fn first(&self, files: u64, random: &mut Random) -> Outcome<u64> {
        let nothing = told("a directory", self.fs.mkdir(ROOT, b"nothing", CALLER, 0o755, 0))?;
        let root = self.clone_dir(nothing.ino, &day(0))?;
        self.fs.forget(nothing.ino, 1);
        let mut dir = 0;
        for number in 0..files {
            if number % FILES_OF_DIR == 0 {
                let name = format!("d{}", number / FILES_OF_DIR);
                dir = told("a directory", self.fs.mkdir(root, name.as_bytes(), CALLER, 0o755, 0))?.ino;
                self.fs.forget(dir, 1);
            }
            let name = format!("file-{number}");
            let attr = told("a file", self.fs.mknod(dir, name.as_bytes(), CALLER, 0o644, 0, 0))?;
            self.write(attr.ino, random)?;
            self.fs.forget(attr.ino, 1);
        }
        told("sync", self.fs.sync())?;
        Ok(root)
    }

    /// Directories and attributes of a whole snapshot, as `find -ls` asks for them.
    fn walk(&self, root: u64, files: u64) -> Outcome<Took> {
        let mut watch = Watch::start();
        let (mut todo, mut seen) = (vec![root], 0);
        while let Some(dir) = todo.pop() {
            let mut told_of = Vec::new();
            let read = self.fs.readdirplus(dir, 0, &mut |entry, attr| {
                if let Some(attr) = attr {
                    told_of.push((entry.ino, attr.mode & libc::S_IFMT == libc::S_IFDIR));
                }
                true
            });
            told("readdirplus", read)?;
            for (ino, is_dir) in told_of {
                self.fs.forget(ino, 1);
                if is_dir {
                    todo.push(ino);
                } else {
                    seen += 1;
                }
            }
        }
        if seen == files { Ok(watch.lap()) } else { Err(format!("{seen} files of {files}")) }
    }

    fn cycle(&self) -> Outcome<Took> {
        let collector = told("the collector", Collector::new(self.store.clone(), gc::Options::default()))?;
        let mut watch = Watch::start();
        told("the cycle", collector.run_cycle(false))?;
        let took = watch.lap();
        collector.shutdown();
        Ok(took)
    }

    /// Number and bytes of rows in the tables of subvolumes.
    fn rows(&self) -> Outcome<(u64, u64)> {
        told("sync", self.fs.sync())?;
        let (mut count, mut bytes) = (0, 0);
        let layers = self.store.layers();
        for table in [Table::SubInodes, Table::SubDirents, Table::SubXattrs, Table::SubExtents, Table::Owned]
        {
            let read = layers.scan(table, Bound::Unbounded, Bound::Unbounded, |key, row| {
                count += 1;
                bytes += (key.len() + row.len()) as u64;
                Ok(true)
            });
            told("rows", read)?;
        }
        Ok((count, bytes))
    }
}

fn day(number: u64) -> String {
    format!("day-{number}")
}

fn database(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("meta/cairnfs.redb")).map_or(0, |meta| meta.len())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn middle_and_worst(values: &mut [f64]) -> (f64, f64) {
    (quantile(values, 0.5), quantile(values, 1.0))
}

/// All of it, in a new store in `dir`.
pub fn measure(dir: &Path, history: History) -> Outcome<Seen> {
    let History { files, days, changed } = history;
    let mut random = Random::new(11);
    let place = Place::open(new_store(dir)?)?;
    let first = place.first(files, &mut random)?;
    let rows_of_one = place.rows()?.1;
    told("fold", place.store.commits.fold())?;
    let (database_of_one, cycle_of_one) = (database(dir), place.cycle()?);
    let (mut newest, mut staged, mut bare) = (first, Vec::new(), Vec::new());
    for number in 1..days {
        let begin = Instant::now();
        newest = place.clone_dir(newest, &day(number))?;
        staged.push(ms(begin));
        for _ in 1..changed {
            let file = place.file(newest, random.next() % files)?;
            place.write(file, &mut random)?;
        }
        let always = place.file(newest, 0)?;
        place.write(always, &mut random)?;
        if number % 10 == 0 {
            told("sync", place.fs.sync())?;
            let begin = Instant::now();
            let extra = place.clone_dir(newest, "extra")?;
            bare.push(ms(begin));
            remove(&place, extra, "extra")?;
        }
    }
    let rows = (rows_of_one, place.rows()?.1);
    let walk = (place.walk(first, files)?, place.walk(newest, files)?);
    let lookup_us = (lookups(&place, newest, |at| 1 + at % (files - 1))?, lookups(&place, newest, |_| 0)?);
    let cycle = (cycle_of_one, place.cycle()?);
    let check = checked(&place)?;
    place.close()?;
    let grown = database(dir);
    let mut watch = Watch::start();
    let place = Place::open(open(dir)?)?;
    let opened = watch.lap();
    let before = place.rows()?.0;
    let (mut times, mut removed) = (Vec::new(), 0);
    while removed + KEPT < days {
        let root = place.look_up(ROOT, &day(removed))?;
        let begin = Instant::now();
        remove(&place, root, &day(removed))?;
        times.push(ms(begin));
        removed += 1;
    }
    told("sync", place.fs.sync())?;
    let mut watch = Watch::start();
    told("reaping", place.fs.drain_orphans())?;
    let took = watch.lap();
    let reaped = (before - place.rows()?.0, took);
    // Whoever is left has everything.
    place.walk(place.look_up(ROOT, &day(days - 1))?, files)?;
    checked(&place)?;
    place.close()?;
    Ok(Seen {
        clone_ms: middle_and_worst(&mut staged),
        bare_clone_ms: middle_and_worst(&mut bare),
        rows,
        database: (database_of_one, grown, database(dir)),
        walk,
        lookup_us,
        cycle,
        check,
        open: opened,
        prune_ms: middle_and_worst(&mut times),
        reaped,
    })
}

fn remove(place: &Place, root: u64, name: &str) -> Outcome<()> {
    told("allowing", place.fs.allow_drop(root, CALLER))?;
    told("removing", place.fs.rmdir_as(ROOT, name.as_bytes(), CALLER)).map(drop)
}

fn lookups(place: &Place, root: u64, which: impl Fn(u64) -> u64) -> Outcome<f64> {
    let mut random = Random::new(12);
    let mut times = Vec::new();
    for _ in 0..LOOKS {
        let number = which(random.next());
        let dir = place.look_up(root, &format!("d{}", number / FILES_OF_DIR))?;
        let begin = Instant::now();
        let name = format!("file-{number}");
        let attr = told("lookup", place.fs.lookup(dir, name.as_bytes()))?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        place.fs.forget(attr.ino, 1);
    }
    Ok(quantile(&mut times, 0.5))
}

fn checked(place: &Place) -> Outcome<Took> {
    let mut watch = Watch::start();
    let report = told("the check", check::check(&place.store, &Options::default()))?;
    let took = watch.lap();
    if report.is_clean() { Ok(took) } else { Err(format!("{report:?}")) }
}
