//! The advisory on the real mount (class 1): a snapshot is made from a base that is pruned while a cycle runs.
//!
//! Each row is a way of making, moving and pruning snapshots, each column a point at which the cycle stands still
//! meanwhile. In each cell the base is in the store and durable, the cycle is held, what the row says is done, and
//! the deletion queue is worked off before the cycle goes on. Then the store is mounted anew and everything that was
//! not pruned is compared byte by byte, and all of the store is checked.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use crate::data::{Tree, noise};
use crate::pause::POINTS;
use crate::world::{World, has_fuse, tool};

/// How the new snapshot is made.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// From the source, by plain copy: the store finds the chunks by their digests.
    Copy,
    /// From the base, by `cp --reflink=auto`: the chunks are referred to without a look at the bytes.
    Clone,
    /// From the source, by `rsync --link-dest` of the base.
    Link,
}

/// When it is made, with respect to the cycle.
#[derive(Clone, Copy, PartialEq)]
enum Time {
    Before,
    BeforeToIn,
    In,
    BeforeToAfter,
}

/// What else happens while the cycle is held.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    /// The base is pruned by rm -rf.
    Remove,
    /// The base was pruned before the cycle: its chunks are garbage.
    RemovedBefore,
    /// The group is renamed, then the base pruned.
    RenameGroup,
    /// The base is renamed into another group and removed there.
    RenameAway,
    /// The base is pruned, another snapshot made, the new one pruned.
    TwoPrunes,
    /// The base is truncated and overwritten.
    Overwrite,
}

struct Row {
    name: &'static str,
    way: Way,
    time: Time,
    act: Act,
}

const fn row(name: &'static str, way: Way, time: Time, act: Act) -> Row {
    Row { name, way, time, act }
}

const ROWS: [Row; 18] = [
    row("copy before, rm -rf", Way::Copy, Time::Before, Act::Remove),
    row("copy begun before, rm -rf", Way::Copy, Time::BeforeToIn, Act::Remove),
    row("copy in it, rm -rf", Way::Copy, Time::In, Act::Remove),
    row("copy begun before, ends after", Way::Copy, Time::BeforeToAfter, Act::Remove),
    row("clone before, rm -rf", Way::Clone, Time::Before, Act::Remove),
    row("clone begun before, rm -rf", Way::Clone, Time::BeforeToIn, Act::Remove),
    row("clone in it, rm -rf", Way::Clone, Time::In, Act::Remove),
    row("link-dest before, rm -rf", Way::Link, Time::Before, Act::Remove),
    row("link-dest begun before, rm -rf", Way::Link, Time::BeforeToIn, Act::Remove),
    row("link-dest in it, rm -rf", Way::Link, Time::In, Act::Remove),
    row("copy in it of garbage", Way::Copy, Time::In, Act::RemovedBefore),
    row("copy in it, group renamed", Way::Copy, Time::In, Act::RenameGroup),
    row("clone in it, group renamed", Way::Clone, Time::In, Act::RenameGroup),
    row("copy in it, base renamed away", Way::Copy, Time::In, Act::RenameAway),
    row("copy in it, two prunes", Way::Copy, Time::In, Act::TwoPrunes),
    row("clone in it, two prunes", Way::Clone, Time::In, Act::TwoPrunes),
    row("copy in it, base overwritten", Way::Copy, Time::In, Act::Overwrite),
    row("clone in it, base overwritten", Way::Clone, Time::In, Act::Overwrite),
];

/// One cell at work.
struct Cell<'a> {
    world: &'a World,
    row: &'a Row,
    tree: Tree,
    source: PathBuf,
    group: PathBuf,
    /// A file of a copy under way: half of its bytes are written.
    half: Option<(PathBuf, File)>,
}

impl Cell<'_> {
    fn base(&self) -> PathBuf {
        self.group.join("s0")
    }

    fn new_snapshot(&self) -> PathBuf {
        self.group.join("s1")
    }

    fn run(&mut self, point: &str) {
        self.tree.write(&self.source);
        // Something for the cycle to condemn besides.
        let garbage = self.world.mnt.join("garbage");
        Tree::small(0xdead).write(&garbage);
        fs::create_dir_all(&self.group).unwrap();
        tool!("cp", "-a", self.source, self.base());
        fs::remove_dir_all(&garbage).unwrap();
        self.world.sync();
        self.before();
        let cycle = self.world.hold_cycle(point);
        self.inside();
        self.world.deletions_done();
        cycle.finish();
        if self.row.time == Time::BeforeToAfter {
            self.second_half();
        }
        self.world.remount();
        self.compare();
        self.world.assert_clean();
        fs::remove_dir_all(&self.group).unwrap();
        fs::remove_dir_all(&self.source).unwrap();
    }

    fn before(&mut self) {
        match self.row.time {
            Time::Before => self.make(&self.new_snapshot()),
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
            Time::In => self.make(&self.new_snapshot()),
            Time::Before | Time::BeforeToAfter => {}
        }
        match self.row.act {
            Act::Remove => drop(tool!("rm", "-rf", self.base())),
            Act::RemovedBefore => {}
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
                match self.row.way {
                    Way::Clone => drop(tool!("cp", "-a", "--reflink=auto", self.new_snapshot(), third)),
                    _ => self.make(&third),
                }
                tool!("rm", "-rf", self.new_snapshot());
                fs::rename(&third, self.new_snapshot()).unwrap();
            }
            Act::Overwrite => self.overwrite_base(),
        }
    }

    /// All of a snapshot, in the row's way.
    fn make(&self, to: &Path) {
        match self.row.way {
            Way::Copy => tool!("cp", "-a", self.source, to),
            Way::Clone => tool!("cp", "-a", "--reflink=auto", self.base(), to),
            Way::Link => {
                tool!(
                    "rsync",
                    "-a",
                    format!("--link-dest={}", self.base().display()),
                    self.source_with_slash(),
                    to
                )
            }
        };
    }

    /// With the slash that has rsync copy what is in it.
    fn source_with_slash(&self) -> String {
        format!("{}/", self.source.display())
    }

    /// Half of the files; of a plain copy one more is begun and stays open.
    fn first_half(&mut self) {
        let names = self.tree.names();
        let (first, rest) = names.split_at(names.len() / 2);
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
            if !self.new_snapshot().join(name).exists() {
                self.make_file(name);
            }
        }
    }

    fn make_file(&self, name: &Path) {
        let to = self.new_snapshot().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        match self.row.way {
            Way::Copy => fs::write(to, fs::read(self.source.join(name)).unwrap()).unwrap(),
            // Inside the mount this is copy_file_range(2).
            Way::Clone => drop(fs::copy(self.base().join(name), to).unwrap()),
            Way::Link => fs::hard_link(self.base().join(name), to).unwrap(),
        }
    }

    fn overwrite_base(&self) {
        for (name, bytes) in &self.overwritten().0 {
            let file = File::options().write(true).open(self.base().join(name)).unwrap();
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

/// One row with each column, in a store of its own; for each cell `ok` or what went wrong.
fn try_row(number: usize) -> Vec<String> {
    let world = World::usual().expect("it was looked at before");
    // Something that lives, so that every mark has something to do.
    Tree::small(number as u64 ^ 0xcafe).write(&world.mnt.join("other"));
    let mut results = Vec::new();
    for (column, point) in POINTS.iter().enumerate() {
        let name = format!("{number}-{column}");
        let mut cell = Cell {
            world: &world,
            row: &ROWS[number],
            tree: Tree::small((number * POINTS.len() + column + 1) as u64),
            source: world.host().join(&name),
            group: world.mnt.join(name),
            half: None,
        };
        let result = catch_unwind(AssertUnwindSafe(|| cell.run(point)));
        results.push(match &result {
            Ok(()) => "ok".to_owned(),
            Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".to_owned()),
        });
        if result.is_err() {
            // What the rest of the row would find in this store says nothing any more.
            break;
        }
    }
    results
}

fn table(results: &[Vec<String>]) -> String {
    let mut table = format!("\n{:<32}", "the base's prune and the new snapshot");
    for point in POINTS {
        let _ = write!(table, " {point:>11}");
    }
    for (row, cells) in ROWS.iter().zip(results) {
        let _ = write!(table, "\n{:<37}", row.name);
        for cell in cells {
            let _ = write!(table, " {:>11}", if cell == "ok" { "ok" } else { "LOST" });
        }
    }
    table + "\n"
}

#[test]
fn class_01_the_advisory_at_every_point_of_the_cycle() {
    if !has_fuse() {
        return;
    }
    // A few rows at a time: most of a cell is waiting for the commit timer.
    let results: Vec<Vec<String>> = thread::scope(|scope| {
        let rows: Vec<_> = (0..ROWS.len()).map(|number| scope.spawn(move || try_row(number))).collect();
        rows.into_iter().map(|row| row.join().unwrap_or_else(|_| vec!["no mount".to_owned()])).collect()
    });
    println!("{}", table(&results));
    for (row, cells) in ROWS.iter().zip(&results) {
        for (point, cell) in POINTS.iter().zip(cells) {
            assert_eq!(cell, "ok", "{} at {point}", row.name);
        }
        assert_eq!(cells.len(), POINTS.len(), "{}", row.name);
    }
}
