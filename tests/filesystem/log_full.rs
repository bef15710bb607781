//! The disk is full from any step on of a commit, of records that an entry carries, of a fold, of an opening that has a log
//! to replay, and of the end of a store. The store has its reserve: nothing is refused but what is new, and with room
//! again the same store goes on.

use cairnfs::fs::ROOT_INO;
use cairnfs::media::Media;
use cairnfs::media::sim::SimMedia;
use cairnfs::sabotage::Protection;
use cairnfs::store::StoreConfig;
use cairnfs::{Error, Result};

use crate::full::{full_from, with_room};
use crate::log::{FILES, content, killed, there};
use crate::world::{CALLER, World, config, new_disk, protected, without};

/// Power cuts, each of which loses other parts of what was not synced.
const SEEDS: u64 = 8;

/// Makes a file durable that others are like, with folds and a cycle between them; the names of which that was said.
fn work(world: &World, kept: &mut Vec<u64>) -> Result<()> {
    for number in 0..6 {
        let name = format!("new{number}");
        let made = world.fs.mknod(ROOT_INO, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0)?.ino;
        world.fs.write(made, 0, &content(20 + number), false)?;
        world.fs.fsync(made)?;
        kept.push(number);
        match number {
            2 => world.store.commits.fold()?,
            // Above what an entry may have: a fold within the commit.
            3 => (0..900).try_for_each(|other| {
                let name = format!("{other:0250}");
                world
                    .fs
                    .mknod(ROOT_INO, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0)
                    .map(|made| world.fs.forget(made.ino, 1))
            })?,
            _ => {}
        }
    }
    Ok(())
}

fn assert_kept(world: &World, kept: &[u64], what: &str) {
    assert_eq!(there(world).len() as u64, FILES, "{what}");
    for number in kept {
        let read = world.find(&format!("new{number}")).and_then(|ino| world.read(ino));
        assert!(read.is_ok_and(|read| read == content(20 + number)), "{what}: new{number}");
    }
}

#[derive(Debug, Default)]
struct Outcomes {
    done: u64,
    refused: u64,
    not_opened: u64,
    latched: u64,
}

/// A store that was killed is opened and worked with on a disk that is full from this operation on.
fn full_at(start: &SimMedia, config: &StoreConfig, op: u64, outcomes: &mut Outcomes) -> Result<()> {
    let disk = start.cut_at(start.op_count(), 1);
    full_from(&disk, op);
    let (what, mut kept) = (format!("full from operation {op} on"), Vec::new());
    let world = World::open(&disk, config).inspect_err(|_| outcomes.not_opened += 1)?;
    match work(&world, &mut kept) {
        Ok(()) => outcomes.done += 1,
        Err(error) => {
            assert_eq!(error.errno(), libc::ENOSPC, "{what}: {error}");
            outcomes.refused += 1;
        }
    }
    assert_kept(&world, &kept, &what);
    // A power cut now.
    let cut = disk.cut_at(disk.op_count(), op);
    cut.set_capacity(None);
    let after = World::open(&cut, config)?;
    assert_kept(&after, &kept, &what);
    after.close()?;
    // The store is pruned and cycled as it is, and closed.
    let pruned = [0, 3, 4].map(|number| format!("f{number}"));
    let goes_on = world.store.batches.writable().is_ok();
    outcomes.latched += u64::from(!goes_on);
    if goes_on {
        pruned.iter().for_each(|name| world.remove(ROOT_INO, name));
        world.fs.sync()?;
        world.fs.drain_orphans()?;
        world.collector.run_cycle(false)?;
        with_room(&disk);
        let ino = world.save("later", b"with room");
        world.fs.fsync(ino)?;
    }
    let closed = world.close();
    with_room(&disk);
    let again = World::open(&disk, config)?;
    assert!(again.check().is_clean(), "{what}");
    if goes_on {
        closed?;
        assert_eq!(again.read(again.find("later")?)?, b"with room");
        assert_eq!(there(&again).len() as u64, FILES - 3, "{what}");
    }
    again.close()
}

fn with_reserve() -> (SimMedia, StoreConfig) {
    let (disk, config) = killed();
    // As mkfs leaves it.
    World::open(&disk, &config).unwrap().store.space.restore_reserve();
    let file = disk.open("reserve", true).unwrap();
    file.sync().and_then(|()| disk.sync_dir("")).unwrap();
    (disk, config)
}

fn at_each_step() -> (Outcomes, Option<(u64, Error)>) {
    let (start, config) = with_reserve();
    let start = start.cut_at(start.op_count(), 1);
    let disk = start.cut_at(start.op_count(), 1);
    let world = World::open(&disk, &config).unwrap();
    work(&world, &mut Vec::new()).unwrap();
    let all = disk.op_count();
    world.close().unwrap();
    let (mut outcomes, mut first) = (Outcomes::default(), None);
    for op in (0..all).step_by((all as usize / 150).max(1)) {
        if let Err(error) = full_at(&start, &config, op, &mut outcomes) {
            first.get_or_insert((op, error));
        }
    }
    println!("{all} operations: {outcomes:?}, {first:?}");
    (outcomes, first)
}

#[test]
fn a_killed_store_on_a_full_disk_is_opened_pruned_and_cycled_and_goes_on() {
    let _all = protected();
    let (outcomes, failed) = at_each_step();
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(outcomes.latched + outcomes.not_opened, 0, "{outcomes:?}");
    assert!(outcomes.refused > 10 && outcomes.done > 0, "{outcomes:?}");
}

/// The power is cut after small commits, so that their packs have lost what the log carries, and others fill the disk
/// before the store is opened. How many of some such disks were opened, with everything that was synced.
fn opened_after_a_power_cut_on_a_full_disk() -> (u64, Option<Error>) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    world.store.space.restore_reserve();
    let file = disk.open("reserve", true).unwrap();
    file.sync().and_then(|()| disk.sync_dir("")).unwrap();
    let kept: Vec<u64> = (0..5).collect();
    for number in &kept {
        world.fs.fsync(world.save(&format!("new{number}"), &content(20 + number))).unwrap();
    }
    let (mut opened, mut refused) = (0, None);
    for seed in 0..SEEDS {
        let cut = disk.cut_at(disk.op_count(), seed);
        cut.set_capacity(Some(cut.used()));
        match World::open(&cut, &config) {
            Ok(again) => {
                for number in &kept {
                    let read = again.find(&format!("new{number}")).and_then(|ino| again.read(ino));
                    assert!(read.is_ok_and(|read| read == content(20 + number)), "new{number}");
                }
                opened += u64::from(again.close().is_ok());
            }
            Err(error) => refused = Some(error),
        }
    }
    world.close().unwrap();
    (opened, refused)
}

/// The log has its share of the reserve: without it, what entries carry finds no place.
#[test]
fn what_the_log_carries_finds_its_place_on_a_full_disk() {
    {
        let _all = protected();
        let (opened, refused) = opened_after_a_power_cut_on_a_full_disk();
        assert_eq!(opened, SEEDS, "{refused:?}");
    }
    let _out = without(&[Protection::ReserveForLog]);
    let (opened, refused) = opened_after_a_power_cut_on_a_full_disk();
    assert!(opened < SEEDS && refused.is_some_and(|error| error.is_no_space()), "{opened} were opened");
}

/// The end folds and gives the log's room back; it too is there on a full disk.
#[test]
fn a_store_is_closed_on_a_disk_that_gets_full_at_any_step_of_that() {
    let _all = protected();
    let (start, config) = with_reserve();
    let start = start.cut_at(start.op_count(), 1);
    let opened = |disk: &SimMedia| {
        let world = World::open(disk, &config).unwrap();
        world.fs.fsync(world.save("new0", &content(20))).unwrap();
        world
    };
    let disk = start.cut_at(start.op_count(), 1);
    let world = opened(&disk);
    let begin = disk.op_count();
    world.close().unwrap();
    for op in begin..disk.op_count() {
        let disk = start.cut_at(start.op_count(), 1);
        let world = opened(&disk);
        full_from(&disk, op);
        world.close().unwrap_or_else(|error| panic!("full from operation {op} on: {error}"));
        with_room(&disk);
        let log = disk.open(cairnfs::meta::log::LOG_FILE, false).unwrap();
        assert_eq!(log.len().unwrap(), 0, "full from operation {op} on");
        let world = World::open(&disk, &config).unwrap();
        assert_kept(&world, &[0], &format!("full from operation {op} on"));
        world.close().unwrap();
    }
}
