//! The advisory on the real mount (class 1): a snapshot is made from a base that is pruned while a cycle runs.
//!
//! Each row is a way of making, moving and pruning snapshots, each column a point at which the cycle stands still
//! meanwhile: every way of making one, begun and ended at every time, with every way of getting rid of the base. In
//! each cell the base is in the store and durable, the cycle is held, what the row says is done, and the deletion
//! queue is worked off before the cycle goes on. After the last cell of a row, and so after up to nine more cycles, the
//! store is mounted anew, everything that was not pruned is compared byte by byte, and all of the store is checked.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::data::{Tree, noise};
use crate::pause::POINTS;
use crate::skip::need_fuse;
use crate::world::{Setup, World, cairnfs, tool};

/// How the new snapshot is made.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// From the source, by plain copy: the store finds the chunks by their digests.
    Copy,
    /// From the base, by `cp --reflink=auto`: the chunks are referred to without a look at the bytes.
    Clone,
    /// From the source, by `rsync --link-dest` of the base.
    Link,
    /// From the base, a subvolume, by `cairnfs clone`; then its files are written to, which copies what they share.
    Subvolume,
}

/// When it is made, with respect to the cycle.
#[derive(Clone, Copy, PartialEq)]
enum Time {
    Before,
    BeforeToIn,
    In,
    BeforeToAfter,
}

impl Time {
    fn name(self) -> &'static str {
        match self {
            Time::Before => "before",
            Time::BeforeToIn => "begun before, ends in it",
            Time::In => "in it",
            Time::BeforeToAfter => "begun before, ends after",
        }
    }
}

/// What else happens while the cycle is held.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    /// The base is pruned by rm -rf.
    Remove,
    /// The base, a subvolume, is pruned at once by `cairnfs rm`.
    AtOnce,
    /// The same as with the first once the cycle has ended.
    RemoveAfter,
    /// The base was pruned before the cycle: its chunks are garbage.
    RemovedBefore,
    /// The group is renamed, then the base pruned.
    RenameGroup,
    /// The base is renamed into another group and removed there.
    RenameAway,
    /// The base is pruned, another snapshot made, the new one pruned.
    TwoPrunes,
    /// The base is truncated and overwritten; where the new snapshot's files are its own, replaced by such files.
    Overwrite,
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Act::Remove => "rm -rf",
            Act::AtOnce => "at once",
            Act::RemoveAfter => "rm -rf after it",
            Act::RemovedBefore => "rm -rf before it",
            Act::RenameGroup => "group renamed, rm -rf",
            Act::RenameAway => "renamed away, rm -rf",
            Act::TwoPrunes => "prunes in a row",
            Act::Overwrite => "overwritten",
        }
    }
}

#[derive(Clone, Copy)]
struct Row {
    way: Way,
    time: Time,
    act: Act,
}

impl Row {
    /// The base is one.
    fn has_subvolume(&self) -> bool {
        self.way == Way::Subvolume || self.act == Act::AtOnce
    }

    fn name(&self) -> String {
        format!("{:<18} {:<25} {}", self.way.name(), self.time.name(), self.act.name())
    }
}

/// Every way at every time with every act; and what has a sense for some of them only.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for way in [Way::Copy, Way::Clone, Way::Link] {
        for time in [Time::Before, Time::BeforeToIn, Time::In] {
            for act in [Act::Remove, Act::RenameAway, Act::TwoPrunes, Act::RenameGroup, Act::Overwrite] {
                rows.push(Row { way, time, act });
            }
        }
        rows.push(Row { way, time: Time::BeforeToIn, act: Act::RemoveAfter });
    }
    // The base is a subvolume.
    for time in [Time::Before, Time::BeforeToIn, Time::In, Time::BeforeToAfter] {
        rows.push(Row { way: Way::Copy, time, act: Act::AtOnce });
        rows.push(Row { way: Way::Subvolume, time, act: Act::AtOnce });
    }
    for time in [Time::Before, Time::BeforeToIn, Time::In] {
        rows.push(Row { way: Way::Clone, time, act: Act::AtOnce });
        for act in [Act::Remove, Act::RenameAway, Act::TwoPrunes, Act::RenameGroup, Act::Overwrite] {
            rows.push(Row { way: Way::Subvolume, time, act });
        }
    }
    // Without the base there is nothing to clone or to link.
    rows.push(Row { way: Way::Copy, time: Time::In, act: Act::RemovedBefore });
    rows.push(Row { way: Way::Copy, time: Time::BeforeToAfter, act: Act::Remove });
    rows
}

/// One cell at work.
struct Cell<'a> {
    world: &'a World,
    row: Row,
    tree: Tree,
    garbage: Tree,
    source: PathBuf,
    group: PathBuf,
    /// A file of a copy under way: half of its bytes are written.
    half: Option<(PathBuf, File)>,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Copy => "copy",
            Way::Clone => "cp --reflink",
            Way::Link => "rsync --link-dest",
            Way::Subvolume => "cairnfs clone",
        }
    }
}

impl Cell<'_> {
    fn base(&self) -> PathBuf {
        self.group.join("s0")
    }

    fn new_snapshot(&self) -> PathBuf {
        self.group.join("s1")
    }

    /// All up to the comparison; returns how many chunks the cycle condemned.
    fn run(&mut self, point: &str) -> u64 {
        self.tree.write(&self.source);
        // Something for the cycle to condemn besides.
        let garbage = self.world.mnt.join("garbage");
        self.garbage.write(&garbage);
        fs::create_dir_all(&self.group).unwrap();
        if self.row.has_subvolume() {
            let plain = self.group.join("plain");
            tool!("cp", "-a", self.source, plain);
            self.cairnfs("clone", &[&plain, &self.base()]);
            // What refers to the chunks is in the subvolume alone.
            tool!("rm", "-rf", plain);
        } else {
            tool!("cp", "-a", self.source, self.base());
        }
        self.world.sync();
        fs::remove_dir_all(&garbage).unwrap();
        self.world.sync();
        self.before();
        let cycle = self.world.hold_cycle(point);
        self.inside();
        self.world.deletions_done();
        let record = cycle.finish();
        if self.row.time == Time::BeforeToAfter {
            self.second_half();
        }
        match self.row.act {
            Act::RemoveAfter => drop(tool!("rm", "-rf", self.base())),
            Act::AtOnce if self.row.time == Time::BeforeToAfter => self.cairnfs("rm", &[&self.base()]),
            _ => {}
        }
        record["condemned"].as_u64().unwrap()
    }

    fn before(&mut self) {
        match self.row.time {
            Time::Before => self.make(&self.base(), &self.new_snapshot()),
            Time::BeforeToIn | Time::BeforeToAfter => self.first_half(),
            Time::In => {}
        }
        if self.row.act == Act::RemovedBefore {
            tool!("rm", "-rf", self.base());
            self.world.deletions_done();
        }
    }

    fn inside(&mut self) {
        match self.row.time {
            Time::BeforeToIn => self.second_half(),
            Time::In if self.row.act == Act::RemovedBefore => {
                drop(tool!("cp", "-a", self.source, self.new_snapshot()))
            }
            Time::In => self.make(&self.base(), &self.new_snapshot()),
            Time::Before | Time::BeforeToAfter => {}
        }
        match self.row.act {
            Act::Remove => drop(tool!("rm", "-rf", self.base())),
            Act::AtOnce if self.row.time == Time::BeforeToAfter => {}
            Act::AtOnce => self.cairnfs("rm", &[&self.base()]),
            Act::RemovedBefore | Act::RemoveAfter => {}
            Act::RenameGroup => {
                let other = self.group.with_extension("renamed");
                fs::rename(&self.group, &other).unwrap();
                self.group = other;
                tool!("rm", "-rf", self.base());
            }
            Act::RenameAway => {
                let trash = self.group.with_extension("trash");
                fs::create_dir(&trash).unwrap();
                fs::rename(self.base(), trash.join("old")).unwrap();
                tool!("rm", "-rf", trash);
            }
            Act::TwoPrunes => {
                tool!("rm", "-rf", self.base());
                let third = self.group.join("s2");
                self.make(&self.new_snapshot(), &third);
                tool!("rm", "-rf", self.new_snapshot());
                fs::rename(&third, self.new_snapshot()).unwrap();
            }
            Act::Overwrite => self.overwrite_base(),
        }
    }

    /// All of a snapshot, in the row's way, from `base` where it takes one.
    fn make(&self, base: &Path, to: &Path) {
        match self.row.way {
            Way::Copy => drop(tool!("cp", "-a", self.source, to)),
            Way::Clone => drop(tool!("cp", "-a", "--reflink=auto", base, to)),
            Way::Link => {
                let dest = format!("--link-dest={}", base.display());
                drop(tool!("rsync", "-a", dest, self.source_with_slash(), to));
            }
            Way::Subvolume => {
                self.cairnfs("clone", &[base, to]);
                self.tree.names().iter().for_each(|name| self.write_half(&to.join(name)));
            }
        }
    }

    fn cairnfs(&self, word: &str, paths: &[&Path]) {
        let words = [word.as_ref()].into_iter().chain(paths.iter().map(|path| path.as_os_str()));
        let said = cairnfs(&words.collect::<Vec<_>>());
        assert_eq!(said.code, 0, "{word} {paths:?}: {}", said.said());
    }

    /// The first half of a file of the tree once more, with the bytes that it has.
    fn write_half(&self, path: &Path) {
        let bytes = fs::read(path).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(&bytes[..bytes.len() / 2], 0).unwrap();
    }

    /// With the slash that has rsync copy what is in it.
    fn source_with_slash(&self) -> String {
        format!("{}/", self.source.display())
    }

    /// Half of the files; of a plain copy one more is begun and stays open.
    fn first_half(&mut self) {
        let names = self.tree.names();
        let (first, rest) = names.split_at(names.len() / 2);
        if self.row.way == Way::Subvolume {
            self.cairnfs("clone", &[&self.base(), &self.new_snapshot()]);
        }
        for name in first {
            self.make_file(name);
        }
        if self.row.way == Way::Copy {
            let (name, bytes) = (&rest[0], &self.tree.0[&rest[0]]);
            let path = self.new_snapshot().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut file = File::create(path).unwrap();
            file.write_all(&bytes[..bytes.len() / 2]).unwrap();
            self.half = Some((name.clone(), file));
        }
    }

    fn second_half(&mut self) {
        if let Some((name, mut file)) = self.half.take() {
            let bytes = &self.tree.0[&name];
            file.write_all(&bytes[bytes.len() / 2..]).unwrap();
        }
        let names = self.tree.names();
        for name in &names[names.len() / 2..] {
            if self.row.way == Way::Subvolume || !self.new_snapshot().join(name).exists() {
                self.make_file(name);
            }
        }
    }

    fn make_file(&self, name: &Path) {
        let to = self.new_snapshot().join(name);
        if self.row.way == Way::Subvolume {
            return self.write_half(&to);
        }
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        match self.row.way {
            Way::Copy => fs::write(to, fs::read(self.source.join(name)).unwrap()).unwrap(),
            // Inside the mount this is copy_file_range(2).
            Way::Clone => drop(fs::copy(self.base().join(name), to).unwrap()),
            Way::Link => fs::hard_link(self.base().join(name), to).unwrap(),
            Way::Subvolume => unreachable!("its files are there with the clone"),
        }
    }

    fn overwrite_base(&self) {
        for (name, bytes) in &self.overwritten().0 {
            let (path, new) = (self.base().join(name), self.base().join("new"));
            if self.row.way == Way::Link {
                // The new snapshot's file is this one; as rsync does, another takes its place.
                fs::copy(&path, &new).unwrap();
                fs::rename(&new, &path).unwrap();
            }
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            file.write_all_at(&bytes[..bytes.len() / 3], 0).unwrap();
        }
    }

    /// The base as it stands after [`Self::overwrite_base`].
    fn overwritten(&self) -> Tree {
        let mut tree = self.tree.clone();
        for (n, bytes) in tree.0.values_mut().enumerate() {
            bytes.truncate(bytes.len() / 2);
            let third = bytes.len() / 3;
            bytes[..third].copy_from_slice(&noise(n as u64 ^ 0xbeef_0000, third));
        }
        tree
    }

    fn compare(&self) {
        self.tree.assert_at(&self.new_snapshot());
        if self.row.act == Act::Overwrite {
            self.overwritten().assert_at(&self.base());
        } else {
            assert!(!self.base().exists(), "the base is gone");
        }
    }
}

/// Runs `act`; what it panicked with, or `ok`.
fn outcome(act: impl FnOnce()) -> String {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(()) => "ok".to_owned(),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".to_owned()),
    }
}

/// One row with some columns, in a store of its own; for each cell `ok` or what went wrong.
fn try_row(row: Row, number: usize, points: &[&str], sabotage: &'static str) -> Vec<String> {
    let world = World::new(Setup { sabotage, ..Setup::default() }).expect("it was looked at before");
    // Something that lives, so that every mark has something to do.
    let other = Tree::of(number as u64 ^ 0xcafe, 12);
    other.write(&world.mnt.join("other"));
    let (mut results, mut cells, mut condemned) = (Vec::new(), Vec::new(), 0);
    for (column, point) in points.iter().enumerate() {
        let name = format!("{number}-{column}");
        let seed = (number * points.len() + column + 1) as u64;
        let mut cell = Cell {
            world: &world,
            row,
            tree: Tree::of(seed, 12),
            garbage: Tree::of(seed ^ 0xdead_0000, 4),
            source: world.host().join(&name),
            group: world.mnt.join(name),
            half: None,
        };
        let ran = outcome(|| condemned += cell.run(point));
        let failed = ran != "ok";
        results.push(ran);
        cells.push(cell);
        if failed {
            // What the rest of the row would find in this store says nothing any more.
            return results;
        }
    }
    world.remount();
    for (cell, result) in cells.iter().zip(&mut results) {
        *result = outcome(|| cell.compare());
    }
    let last = results.last_mut().expect("a row has columns");
    if last == "ok" {
        *last = outcome(|| {
            other.assert_at(&world.mnt.join("other"));
            world.assert_clean();
            assert!(points.len() == 1 || condemned > 0, "no cycle of this row had anything to condemn");
        });
    }
    results
}

fn table(rows: &[Row], results: &[Vec<String>]) -> String {
    let mut table = format!("\n{:<67}", "the new snapshot: how, when; the base");
    for point in POINTS {
        let _ = write!(table, " {point:>11}");
    }
    for (row, cells) in rows.iter().zip(results) {
        let _ = write!(table, "\n{:<67}", row.name());
        for cell in cells {
            let _ = write!(table, " {:>11}", if cell == "ok" { "ok" } else { "LOST" });
        }
    }
    table + "\n"
}

/// Rows that are tried at the same time: most of a cell is waiting for the commit timer.
const AT_A_TIME: usize = 12;

#[test]
fn class_01_the_advisory_at_every_point_of_the_cycle() {
    if !need_fuse() {
        return;
    }
    let rows = rows();
    let (next, results) = (AtomicUsize::new(0), Mutex::new(vec![vec!["no mount".to_owned()]; rows.len()]));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&row) = rows.get(number) else { break };
                    let found = try_row(row, number, &POINTS, "");
                    results.lock().unwrap()[number] = found;
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    println!("{}", table(&rows, &results));
    println!("{} cells", results.iter().map(Vec::len).sum::<usize>());
    for (row, cells) in rows.iter().zip(&results) {
        for (point, cell) in POINTS.iter().zip(cells) {
            assert_eq!(cell, "ok", "{} at {point}", row.name());
        }
        assert_eq!(cells.len(), POINTS.len(), "{}", row.name());
    }
}

/// The table can have another word than `ok` in it.
#[test]
fn without_both_halves_the_table_has_losses() {
    if !need_fuse() {
        return;
    }
    for time in [Time::In, Time::BeforeToIn] {
        let row = Row { way: Way::Copy, time, act: Act::Remove };
        let cells = try_row(row, 0, &["flipped"], "mark-on-hit,one-snapshot");
        println!("caught: {} at flipped: {:.200}", row.name(), cells[0]);
        assert_ne!(cells, ["ok"], "{}", row.name());
    }
}
