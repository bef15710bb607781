//! The disk fails at each operation of a run, once or for ever, with EIO or full; or a read is cut short.
//!
//! Wherever it fails: the one who asked is told, with the errno that fits; nothing panics; what is healthy can still be
//! read; after a failed write or sync of what a commit needs, the store takes no more changes (I8); a cycle that meets
//! an error frees nothing that is needed (I7); and once the disk is healthy again and the store was opened anew,
//! everything that was acknowledged as durable is there and the check is clean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairnfs::fs::{ROOT_INO, RenameFlags};
use cairnfs::media::sim::{Op, OpKind, SHORT, SimMedia};
use cairnfs::sabotage::Protection;
use cairnfs::store::StoreConfig;
use cairnfs::{Error, Result};

use crate::random::{self, seeds};
use crate::world::{CALLER, SMALL_CACHE, World, config, new_disk, protected, without};

type Files = BTreeMap<String, Vec<u8>>;

fn content(kind: u64) -> Vec<u8> {
    random::content(500 + kind, 40_000 + kind as usize * 3_000)
}

/// What the run did before it was told of an error, or to its end.
#[derive(Default)]
struct Told {
    /// Files that were acknowledged as durable, and not changed since.
    durable: Files,
    errors: Vec<(&'static str, Error)>,
}

/// A store with two snapshots and garbage enough for a cycle to remove, to move and to punch.
fn prepared() -> (SimMedia, StoreConfig, Files) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let mut files = Files::new();
    let old = world.mkdir(ROOT_INO, "old");
    for number in 0..8 {
        let ino = world.create(old, &format!("f{number}"));
        world.fs.write(ino, 0, &content(number), false).unwrap();
        if number % 4 == 0 {
            files.insert(format!("old/f{number}"), content(number));
        }
    }
    // Names enough for a tree with branches and many leaves.
    let many = world.mkdir(ROOT_INO, "many");
    for number in 0..400 {
        let ino = world.create(many, &format!("name number {number}"));
        world.fs.forget(ino, 1);
    }
    world.fs.sync().unwrap();
    world.collector.run_cycle(false).unwrap();
    let trash = world.create(ROOT_INO, "trash");
    world.fs.write(trash, 0, &content(20), false).unwrap();
    world.fs.sync().unwrap();
    world.remove(ROOT_INO, "trash");
    for number in (0..8).filter(|number| number % 4 != 0) {
        world.remove(old, &format!("f{number}"));
    }
    world.fs.forget(old, u64::MAX);
    world.close().unwrap();
    (disk, config, files)
}

/// Backup, fsync, clone, rename, prune, cycle, reads. Goes on after an error, as programs do.
fn run(disk: &SimMedia, config: &StoreConfig, files: &Files) -> Told {
    let mut told = Told { durable: files.clone(), ..Told::default() };
    let world = match World::open(disk, config) {
        Ok(world) => world,
        Err(error) => {
            told.errors.push(("open", error));
            return told;
        }
    };
    let mut steps = Steps { world: &world, told: &mut told };
    steps.work();
    if let Err(error) = world.close() {
        told.errors.push(("close", error));
    }
    told
}

struct Steps<'a> {
    world: &'a World,
    told: &'a mut Told,
}

impl Steps<'_> {
    fn note<T>(&mut self, what: &'static str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.told.errors.push((what, error))).ok()
    }

    fn write(&mut self, parent: u64, name: &str, bytes: &[u8]) -> Option<u64> {
        let made = self.world.fs.mknod(parent, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0);
        let ino = self.note("create", made)?.ino;
        self.note("write", self.world.fs.write(ino, 0, bytes, false))?;
        Some(ino)
    }

    fn work(&mut self) {
        let fs = &self.world.fs;
        // A cold read comes first: it meets the disk.
        self.read_old();
        let made = fs.mkdir(ROOT_INO, b"new", CALLER, 0o755, 0);
        let dir = self.note("mkdir", made).map(|attr| attr.ino);
        if let Some(dir) = dir {
            let copied = self.write(dir, "copied", &content(0));
            if let Some(ino) = copied
                && self.note("fsync", fs.fsync(ino)).is_some()
            {
                self.told.durable.insert("new/copied".to_owned(), content(0));
            }
            let fresh = self.write(dir, "fresh", &content(30));
            let cloned = self.write(dir, "cloned", b"");
            if let (Some(from), Some(to)) = (fresh, cloned) {
                let done = self.note("clone", fs.copy_file_range(from, 0, to, 0, 1 << 20));
                if done.is_some() && self.note("fsync", fs.fsync(to)).is_some() {
                    self.told.durable.insert("new/fresh".to_owned(), content(30));
                    self.told.durable.insert("new/cloned".to_owned(), content(30));
                }
            }
            let renamed = fs.rename(ROOT_INO, b"new", ROOT_INO, b"kept", RenameFlags::default());
            if self.note("rename", renamed).is_some() {
                // Under either name until the next sync.
                self.note("sync", fs.sync());
            }
        }
        self.note("cycle", self.world.collector.run_cycle(false));
        let again = self.write(ROOT_INO, "again", &content(20));
        if again.is_some() && self.note("sync", fs.sync()).is_some() {
            self.told.durable.insert("again".to_owned(), content(20));
        }
        self.read_old();
    }

    /// A read gives the right bytes or an error.
    fn read_old(&mut self) {
        let old: Vec<_> = self.told.durable.iter().filter(|(path, _)| path.starts_with("old/")).collect();
        let mut errors = Vec::new();
        for (path, bytes) in old {
            match self.world.find(path).and_then(|ino| self.world.read(ino)) {
                Ok(got) => assert!(got == *bytes, "{path} has other bytes"),
                Err(error) => errors.push(("read", error)),
            }
        }
        self.told.errors.extend(errors);
    }
}

/// Opens on the healthy disk: all that was durable is there, the check is clean, a cycle and a backup work.
fn recovers(disk: &SimMedia, config: &StoreConfig, durable: &Files) -> Result<(), String> {
    disk.clear_faults();
    let world = World::open(disk, config).map_err(|error| format!("does not open: {error}"))?;
    let compare = |when: &str| {
        for (path, bytes) in durable {
            let other = path.replace("new/", "kept/");
            let ino = world.find(path).or_else(|_| world.find(&other));
            let got =
                ino.and_then(|ino| world.read(ino)).map_err(|error| format!("{when}{path}: {error}"))?;
            if got != *bytes {
                return Err(format!("{when}{path} has other bytes"));
            }
        }
        let report = world.check();
        if report.is_clean() { Ok(()) } else { Err(format!("{when}check: {:?}", report.findings)) }
    };
    compare("")?;
    world.collector.run_cycle(false).map_err(|error| format!("a cycle afterwards: {error}"))?;
    for kind in [0, 20, 30] {
        let ino = world.create(ROOT_INO, &format!("after{kind}"));
        world.fs.write(ino, 0, &content(kind), false).map_err(|error| error.to_string())?;
        world.fs.fsync(ino).map_err(|error| error.to_string())?;
        let got = world.read(ino).map_err(|error| format!("after{kind}: {error}"))?;
        if got != content(kind) {
            return Err(format!("after{kind} has other bytes"));
        }
    }
    compare("after a cycle ")?;
    world.close().map_err(|error| format!("does not close: {error}"))
}

/// How the disk fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Failing {
    Once(i32),
    From(i32),
}

/// Lets the `n`th operation of those that `chosen` names fail. Counts here, not by the disk's numbers: those of changes
/// and queries are separate, and threads make them come in another order each time.
fn fail(disk: &SimMedia, chosen: fn(&Op) -> bool, n: u64, failing: Failing) -> Arc<AtomicU64> {
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    disk.set_fault(Box::new(move |op: &Op| {
        if !chosen(op) {
            return None;
        }
        let number = counter.fetch_add(1, Ordering::Relaxed);
        match failing {
            Failing::Once(errno) => (number == n).then_some(errno),
            Failing::From(errno) => (number >= n).then_some(errno),
        }
    }));
    seen
}

/// A copy of a disk at rest.
fn copy_of(disk: &SimMedia) -> SimMedia {
    disk.cut_at(disk.op_count(), 0)
}

#[derive(Default)]
struct Sum {
    runs: u64,
    silent: u64,
    errors: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, told: &Told) {
        self.runs += 1;
        self.silent += u64::from(told.errors.is_empty());
        for (what, _) in &told.errors {
            *self.errors.entry(what).or_default() += 1;
        }
    }
}

/// Every `stride`th operation of those `chosen`; returns what was seen, and the first promise that was broken.
fn everywhere(chosen: fn(&Op) -> bool, failing: Failing, stride: u64) -> (Sum, Option<String>) {
    let (disk, config, files) = prepared();
    let healthy = copy_of(&disk);
    let counted = fail(&healthy, chosen, u64::MAX, failing);
    let told = run(&healthy, &config, &files);
    assert!(told.errors.is_empty(), "{:?}", told.errors);
    let operations = counted.load(Ordering::Relaxed);
    let mut sum = Sum::default();
    let firsts: BTreeSet<u64> = seeds("faults", 0, 1).iter().map(|seed| seed % stride).collect();
    for n in firsts.iter().flat_map(|first| (*first..operations).step_by(stride as usize)) {
        let disk = copy_of(&disk);
        fail(&disk, chosen, n, failing);
        let told = run(&disk, &config, &files);
        sum.add(&told);
        let wrong = told
            .errors
            .iter()
            .find(|(_, error)| !matches!(error.errno(), libc::EIO | libc::EROFS | libc::ENOSPC));
        let broken = match wrong {
            Some((what, error)) => Some(format!("{what} says {error}")),
            // With the power cut, too: what a failed sync dropped does not come back.
            None => recovers(&disk.cut_at(disk.op_count(), n), &config, &told.durable).err(),
        };
        if let Some(broken) = broken {
            let told: Vec<String> =
                told.errors.iter().map(|(what, error)| format!("{what}: {error}")).collect();
            return (sum, Some(format!("operation {n}, {failing:?}: {broken}; told before: {told:#?}")));
        }
    }
    (sum, None)
}

fn stride(otherwise: u64) -> u64 {
    std::env::var("CAIRNFS_FAULTS").map_or(otherwise, |_| 1)
}

fn no_promise_is_broken(what: &str, chosen: fn(&Op) -> bool, failing: Failing, otherwise: u64) {
    let _all = protected();
    let (sum, broken) = everywhere(chosen, failing, stride(otherwise));
    println!(
        "{what}, {failing:?}: {} runs, {} of them without an error; told: {:?}",
        sum.runs, sum.silent, sum.errors
    );
    assert_eq!(broken, None);
    assert!(sum.runs > 10, "the run is long enough to mean something");
}

fn is_sync(op: &Op) -> bool {
    matches!(op.kind, OpKind::Sync | OpKind::SyncDir)
}

fn is_change(op: &Op) -> bool {
    op.kind.is_change()
}

fn is_query(op: &Op) -> bool {
    !is_change(op)
}

#[test]
fn a_change_that_fails_once_is_told_and_nothing_durable_is_lost() {
    no_promise_is_broken("changes", is_change, Failing::Once(libc::EIO), 3);
}

#[test]
fn changes_that_fail_from_some_moment_on_are_told_and_nothing_durable_is_lost() {
    no_promise_is_broken("changes", is_change, Failing::From(libc::EIO), 5);
}

#[test]
fn a_sync_that_fails_once_is_final_and_nothing_durable_is_lost() {
    no_promise_is_broken("syncs", is_sync, Failing::Once(libc::EIO), 1);
}

#[test]
fn a_read_that_fails_once_is_told_or_done_again() {
    no_promise_is_broken("queries", is_query, Failing::Once(libc::EIO), 2);
}

#[test]
fn a_short_read_or_write_is_told_or_done_again() {
    no_promise_is_broken("short reads", |op| op.kind == OpKind::Read, Failing::Once(SHORT), 2);
    no_promise_is_broken("short writes", |op| op.kind == OpKind::Write, Failing::Once(SHORT), 2);
    no_promise_is_broken("short writes", |op| op.kind == OpKind::Write, Failing::From(SHORT), 4);
}

#[test]
fn reads_that_fail_from_some_moment_on_are_told() {
    no_promise_is_broken("queries", is_query, Failing::From(libc::EIO), 5);
}

#[test]
fn a_disk_that_is_full_from_some_moment_on_is_told() {
    fn takes_room(op: &Op) -> bool {
        matches!(op.kind, OpKind::Create | OpKind::Mkdir | OpKind::Write | OpKind::Allocate)
    }
    no_promise_is_broken("room", takes_room, Failing::From(libc::ENOSPC), 5);
    no_promise_is_broken("room", takes_room, Failing::Once(libc::ENOSPC), 3);
}

/// I8: one sync that fails while a commit needs it, and the store takes no change until it is opened again, though
/// every later sync of the disk would succeed; what is there can be read.
#[test]
fn after_a_failed_sync_the_store_is_read_only_and_reads_go_on() {
    let _all = protected();
    let (disk, config, files) = prepared();
    for path in ["packs/", "meta/"] {
        let disk = copy_of(&disk);
        let world = World::open(&disk, &config).unwrap();
        let ino = world.create(ROOT_INO, "victim");
        // More than the log carries: the pack itself is synced.
        world.fs.write(ino, 0, &random::content(40, 1 << 20), false).unwrap();
        let failed = AtomicU64::new(0);
        disk.set_fault(Box::new(move |op: &Op| {
            let meant = op.kind == OpKind::Sync && op.path.starts_with(path);
            (meant && failed.fetch_add(1, Ordering::Relaxed) == 0).then_some(libc::EIO)
        }));
        assert_eq!(world.fs.fsync(ino).unwrap_err().errno(), libc::EIO);
        // The next one must not succeed: the kernel may have dropped what the first should have written.
        assert!(world.fs.fsync(ino).is_err() && world.fs.sync().is_err());
        let refused = world.fs.mknod(ROOT_INO, b"more", CALLER, libc::S_IFREG | 0o644, 0, 0);
        assert_eq!(refused.unwrap_err().errno(), libc::EROFS);
        assert!(world.collector.run_cycle(false).is_err());
        assert!(world.store.status().unwrap().read_only_because.is_some());
        for (path, bytes) in &files {
            assert!(world.read(world.find(path).unwrap()).unwrap() == *bytes, "{path}");
        }
        assert!(world.close().is_err(), "what is lost is said");
        recovers(&disk, &config, &files).unwrap();
    }
}

/// One page of the database cannot be read: what needs it fails, and everything else goes on; once the disk gives the
/// page again, everything does.
#[test]
fn a_page_of_the_database_that_cannot_be_read_fails_alone() {
    let _all = protected();
    let (disk, config, _) = prepared();
    let names: Vec<String> = (0..400).map(|number| format!("many/name number {number}")).collect();
    let missed = |world: &World| names.iter().filter(|name| world.find(name).is_err()).count();
    let mut partly = Vec::new();
    for page in 2..70u64 {
        let disk = copy_of(&disk);
        let world = World::with(&disk, &config, SMALL_CACHE).unwrap();
        disk.set_fault(Box::new(move |op: &Op| {
            let meant = op.kind == OpKind::Read && op.path.starts_with("meta/") && op.offset == page * 4096;
            meant.then_some(libc::EIO)
        }));
        let failed = missed(&world);
        disk.clear_faults();
        assert_eq!(missed(&world), 0, "page {page}: an error stays though the disk gives the page");
        world.close().unwrap();
        if failed > 0 && failed < names.len() {
            partly.push(failed);
        }
    }
    println!(
        "pages without which some of {} names could not be looked up, and all others: {partly:?}",
        names.len()
    );
    assert!(!partly.is_empty());
}

/// The negative control: if a failed change of the database is not told, what was called durable is lost.
#[test]
fn without_telling_of_a_failed_change_durable_data_is_lost() {
    let _out = without(&[Protection::FailureIsReported]);
    // The log is written all the same, anew from its beginning once a fold seems to be durable.
    let of_database = |op: &Op| is_change(op) && op.path.starts_with("meta/cairnfs");
    let (_, broken) = everywhere(of_database, Failing::From(libc::EIO), 1);
    println!("without telling: {broken:?}");
    assert!(broken.is_some());
}
