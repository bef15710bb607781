//! The power is cut before every operation on the disk of a scripted run: backup, fsync, clone, rename, prune, and
//! cycles that remove a pack and move what is live out of another. Each seed chooses anew what is kept, lost, torn or
//! reordered of what was not synced; `CAIRNFS_POWER` is the number of seeds.
//!
//! After each cut the store must open, hold everything that was synced before, show no bytes that were never written,
//! check clean, and work on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairnfs::fs::{ROOT_INO, RenameFlags};
use cairnfs::media::sim::{Op, OpKind, SimMedia};
use cairnfs::sabotage::Protection;

use crate::random::{self, seed, seeds};
use crate::world::{Setting, WAYS_TO_GO, World, config, new_disk, protected, without};

/// What is promised after a step: files and their content, as of the operation number at which the step had ended.
struct Promise {
    from_op: u64,
    files: BTreeMap<String, Vec<u8>>,
}

/// Files of the first snapshot. Two of them live on in the second: less than a quarter, so that they are moved.
const FILES: u64 = 28;
/// The content of the file whose whole pack goes.
const TRASH: u64 = FILES;
/// What is written again after each cut.
const AGAIN: std::ops::RangeInclusive<u64> = 0..=TRASH;

/// Files that are synced one by one.
const SMALL: u64 = 6;

fn small(number: u64) -> Vec<u8> {
    random::content(1000 + number, 3_000 + 1_500 * number as usize)
}

fn content(kind: u64) -> Vec<u8> {
    random::content(kind, 32_000 + kind as usize * 100)
}

/// Changes of the database's file by what they change: a cut comes before each.
#[derive(Debug, Default)]
struct Places {
    head: AtomicU64,
    sums: AtomicU64,
    pages: AtomicU64,
    lengths: AtomicU64,
    syncs: AtomicU64,
}

/// Counts from here on what changes in the database's file. It is smaller than a group, so its second page has all
/// sums.
fn count_places(disk: &SimMedia) -> Arc<Places> {
    let places = Arc::new(Places::default());
    let counted = places.clone();
    disk.set_fault(Box::new(move |op: &Op| {
        let place = match op.kind {
            _ if !op.path.starts_with("meta/") => return None,
            OpKind::Write if op.offset < 4096 => &counted.head,
            OpKind::Write if op.offset < 8192 => &counted.sums,
            OpKind::Write => &counted.pages,
            OpKind::SetLen | OpKind::Allocate => &counted.lengths,
            OpKind::Sync => &counted.syncs,
            _ => return None,
        };
        place.fetch_add(1, Ordering::Relaxed);
        None
    }));
    places
}

/// Runs the script on `disk`; returns what was promised when.
fn script(disk: &SimMedia, seed: u64) -> Vec<Promise> {
    // In one transaction, so that nothing of a sweep becomes durable by the way.
    let setting =
        Setting { step: 4096, immediate_removal_limit: WAYS_TO_GO[seed as usize % 2], ..Setting::default() };
    let world = World::with(disk, &config(), setting).unwrap();
    let mut files = BTreeMap::new();
    let mut promises = Vec::new();
    let mut promise = |files: &BTreeMap<String, Vec<u8>>| {
        promises.push(Promise { from_op: disk.op_count(), files: files.clone() });
    };
    promise(&files);
    // A cycle seals the pack, so that the pack of this file has nothing else in it and can go as a whole later.
    let trash = world.create(ROOT_INO, "trash");
    world.fs.write(trash, 0, &content(TRASH), false).unwrap();
    world.fs.sync().unwrap();
    world.collector.run_cycle(false).unwrap();
    let s0 = world.mkdir(ROOT_INO, "s0");
    for number in 0..FILES {
        let ino = world.create(s0, &format!("f{number}"));
        world.fs.write(ino, 0, &content(number), false).unwrap();
        files.insert(format!("s0/f{number}"), content(number));
    }
    world.fs.sync().unwrap();
    promise(&files);

    // The second snapshot reuses what the first has, by content and by clone; one file is synced on its own.
    let s1 = world.mkdir(ROOT_INO, "s1");
    let copied = world.create(s1, "copied");
    world.fs.write(copied, 0, &content(1), false).unwrap();
    let cloned = world.create(s1, "cloned");
    let source = world.find("s0/f2").unwrap();
    world.fs.copy_file_range(source, 0, cloned, 0, 1 << 20).unwrap();
    world.fs.fsync(copied).unwrap();
    files.insert("s1/copied".to_owned(), content(1));
    files.insert("s1/cloned".to_owned(), content(2));
    promise(&files);

    // Small commits: entries of the log that carry what they refer to, before and after a fold.
    for number in 0..SMALL {
        if number == SMALL / 2 {
            world.store.commits.fold().unwrap();
        }
        let name = format!("small{number}");
        let ino = world.create(ROOT_INO, &name);
        world.fs.write(ino, 0, &small(number), false).unwrap();
        world.fs.fsync(ino).unwrap();
        files.insert(name, small(number));
        promise(&files);
    }

    // Small changes that are waited for, and cut again after them.
    let patched = world.save("patched", &content(5));
    world.fs.sync().unwrap();
    files.insert("patched".to_owned(), content(5));
    promise(&files);
    for number in 0..4 {
        let mut bytes = files.remove("patched").unwrap();
        promise(&files);
        let (at, new) = (9_000 * number, small(10 + number as u64));
        world.fs.write(patched, at as u64, &new[..700], false).unwrap();
        bytes[at..at + 700].copy_from_slice(&new[..700]);
        world.fs.fsync(patched).unwrap();
        files.insert("patched".to_owned(), bytes);
        promise(&files);
    }
    for _ in 0..2 {
        world.fs.sync().unwrap();
    }

    // A subvolume: copied, cloned, written to for the first time; then it goes, and the clone stays.
    let sub = world.clone_dir(s1, "sub").unwrap();
    files.insert("sub/copied".to_owned(), content(1));
    promise(&files);
    world.clone_dir(sub, "twin").unwrap();
    files.insert("twin/copied".to_owned(), content(1));
    files.insert("twin/cloned".to_owned(), content(2));
    promise(&files);
    let written = world.find("twin/copied").unwrap();
    files.remove("twin/copied");
    promise(&files);
    world.fs.write(written, 0, &content(4), false).unwrap();
    world.fs.fsync(written).unwrap();
    files.insert("twin/copied".to_owned(), content(4));
    files.retain(|name, _| !name.starts_with("sub/"));
    promise(&files);
    world.drop_subvolume(sub, "sub").unwrap();
    world.reap_subvolumes();

    world.fs.rename(ROOT_INO, b"s1", ROOT_INO, b"kept", RenameFlags::default()).unwrap();
    world.fs.sync().unwrap();
    files.insert("kept/copied".to_owned(), content(1));
    files.insert("kept/cloned".to_owned(), content(2));
    files.retain(|name, _| !name.starts_with("s1/"));
    promise(&files);

    // From here on the first snapshot may be there or not.
    files.retain(|name, _| !name.starts_with("s0/"));
    promise(&files);
    for number in 0..FILES {
        world.remove(s0, &format!("f{number}"));
    }
    world.fs.rmdir(ROOT_INO, b"s0").unwrap();
    world.fs.forget(s0, u64::MAX);
    world.remove(ROOT_INO, "trash");
    let record = world.collector.run_cycle(false).unwrap();
    assert!(record.packs_removed > 0 && record.packs_compacted > 0, "{record:?}");
    let again = world.create(ROOT_INO, "again");
    world.fs.write(again, 0, &content(3), false).unwrap();
    world.fs.sync().unwrap();
    files.insert("again".to_owned(), content(3));
    promise(&files);
    world.collector.run_cycle(false).unwrap();
    world.close().unwrap();
    promises
}

/// Opens the disk after a cut; an error says which promise was broken.
fn look(disk: &SimMedia, promised: &Promise) -> Result<(), String> {
    let world = World::open(disk, &config()).map_err(|error| format!("does not open: {error}"))?;
    let result = compare(&world, promised);
    world.close().map_err(|error| format!("does not close: {error}"))?;
    result
}

fn compare(world: &World, promised: &Promise) -> Result<(), String> {
    for (name, bytes) in &promised.files {
        // A directory that is being renamed is under its old name or under its new one.
        let other = name.replace("s1/", "kept/");
        let ino =
            world.find(name).or_else(|_| world.find(&other)).map_err(|error| format!("{name}: {error}"))?;
        let got = world.read(ino).map_err(|error| format!("{name}: {error}"))?;
        if got != *bytes {
            return Err(format!("{name} has other bytes"));
        }
    }
    let report = world.check();
    if !report.is_clean() {
        return Err(format!("check: {:?}", report.findings));
    }
    // The same content once more, and a cycle.
    for kind in AGAIN {
        let ino = world.create(ROOT_INO, &format!("after{kind}"));
        world
            .fs
            .write(ino, 0, &content(kind), false)
            .map_err(|error| format!("a write after the cut: {error}"))?;
    }
    world.fs.sync().map_err(|error| format!("a sync after the cut: {error}"))?;
    world.collector.run_cycle(false).map_err(|error| format!("a cycle after the cut: {error}"))?;
    for kind in AGAIN {
        let ino = world.find(&format!("after{kind}")).map_err(|error| error.to_string())?;
        if world.read(ino).map_err(|error| format!("after{kind}: {error}"))? != content(kind) {
            return Err(format!("after{kind} has other bytes"));
        }
    }
    Ok(())
}

/// Cuts before every `stride`th operation; returns how many cuts were tried and the first that broke a promise.
fn cut_everywhere(seed: u64, stride: u64) -> (u64, Option<String>) {
    let disk = new_disk();
    let begin = disk.op_count();
    let places = count_places(&disk);
    let promises = script(&disk, seed);
    disk.clear_faults();
    println!("seed {seed}, changes of the database's file: {places:?}");
    let mut cuts = 0;
    for op in (begin..=disk.op_count()).step_by(stride as usize) {
        let promised = promises.iter().rev().find(|promise| promise.from_op <= op);
        let Some(promised) = promised else { continue };
        cuts += 1;
        if let Err(broken) = look(&disk.cut_at(op, seed ^ op), promised) {
            return (cuts, Some(format!("cut before operation {op}: {broken}")));
        }
    }
    (cuts, None)
}

#[test]
fn class_11_a_power_cut_at_any_operation_breaks_no_promise() {
    let _all = protected();
    let count = std::env::var("CAIRNFS_POWER").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let mut cuts = 0;
    for seed in seeds("power", 100, count) {
        let (tried, broken) = cut_everywhere(seed, 1);
        cuts += tried;
        assert_eq!(broken, None, "seed {seed}");
    }
    println!("{cuts} power cuts, no promise broken");
    assert!(cuts > 100 * count, "the script is long enough to mean something");
}

/// Takes `protection` out and looks for a cut that breaks a promise.
fn must_be_noticed(protection: Protection) {
    let first = seed("power without a protection", 200);
    let _out = without(&[protection]);
    let noticed = (first..first + 8).find_map(|seed| cut_everywhere(seed, 1).1);
    println!("without {protection:?}: {noticed:?}");
    assert!(noticed.is_some(), "{protection:?} was taken out and no cut broke a promise");
}

/// What happens between a cut and the next: the store is opened, used a little, and closed.
fn recover(disk: &SimMedia) {
    let world = World::open(disk, &config()).unwrap();
    let ino = world.create(ROOT_INO, "between");
    world.fs.write(ino, 0, &content(TRASH), false).unwrap();
    world.fs.fsync(ino).unwrap();
    world.close().unwrap();
}

#[test]
fn a_power_cut_while_another_is_recovered_from_breaks_no_promise() {
    let _all = protected();
    let cuts: u64 = seeds("power cut twice", 300, 1).into_iter().map(cut_twice).sum();
    println!("{cuts} second power cuts, no promise broken");
    assert!(cuts > 100, "the recovery is long enough to mean something");
}

/// Every eleventh operation, and every third one of what recovers from that.
fn cut_twice(seed: u64) -> u64 {
    let disk = new_disk();
    let begin = disk.op_count();
    let promises = script(&disk, seed);
    let mut cuts = 0;
    for op in (begin + seed % 11..=disk.op_count()).step_by(11) {
        let promised = promises.iter().rev().find(|promise| promise.from_op <= op);
        let Some(promised) = promised else { continue };
        let first = disk.cut_at(op, seed ^ op);
        let begin = first.op_count();
        recover(&first);
        for second in (begin..=first.op_count()).step_by(3) {
            cuts += 1;
            let looked = look(&first.cut_at(second, seed ^ op ^ second << 20), promised);
            assert_eq!(looked, Ok(()), "seed {seed}, cuts before operation {op} and then {second}");
        }
    }
    cuts
}

#[test]
fn without_sums_before_the_sync_a_power_cut_breaks_a_promise() {
    must_be_noticed(Protection::SumsBeforeSync);
}

#[test]
fn without_marking_the_database_open_a_power_cut_breaks_a_promise() {
    must_be_noticed(Protection::OpenIsMarked);
}

#[test]
fn without_bytes_before_names_a_power_cut_breaks_a_promise() {
    must_be_noticed(Protection::BytesBeforeNames);
}

#[test]
fn without_syncing_the_log_a_power_cut_breaks_a_promise() {
    must_be_noticed(Protection::LogIsSynced);
}

#[test]
fn without_syncing_packs_before_a_fold_a_power_cut_breaks_a_promise() {
    must_be_noticed(Protection::PacksBeforeFold);
}

#[test]
fn without_a_durable_fold_before_the_log_is_begun_anew_a_power_cut_breaks_a_promise() {
    must_be_noticed(Protection::FoldBeforeCut);
}

#[test]
fn without_durable_before_free_a_power_cut_breaks_a_promise() {
    must_be_noticed(Protection::DurableBeforeFree);
}
