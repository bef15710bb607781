//! The advisory and its relatives, with the cycle held at every one of its points.
//!
//! The collector's hook runs the racing operation in the collector's own thread at the chosen point, so each cell of
//! the table is one schedule, and always the same.

use std::sync::{Arc, Mutex};

use cairnfs::fs::{IMMEDIATE_REMOVAL_LIMIT, ROOT_INO, RenameFlags, SetAttr};
use cairnfs::gc::Point;
use cairnfs::media::sim::SimMedia;
use cairnfs::sabotage::Protection;

use crate::random;
use crate::world::{CALLER, Setting, WAYS_TO_GO, World, config, new_disk, protected, without};

pub const FILES: u64 = 6;

pub fn content(number: u64) -> Vec<u8> {
    random::content(1000 + number, 30_000 + number as usize * 777)
}

/// What happens while the cycle is held.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Race {
    /// S1 is written with the bytes of S0, then S0 is pruned: the advisory.
    CopyThenPrune,
    /// S1 is cloned from S0, then S0 is pruned.
    CloneThenPrune,
    /// Half of S1 was written before the cycle, half in it; then S0 is pruned.
    CopyAcrossThenPrune,
    /// S1's files are other names of S0's.
    LinkThenPrune,
    /// The group is renamed.
    RenameGroup,
    /// The files are renamed into another directory, one by one, and the old one removed.
    RenameFiles,
    /// Two prunes in a row with a snapshot between them.
    PruneTwice,
    /// The base is truncated and overwritten after S1 was written.
    OverwriteBase,
    /// The bytes were garbage already when the cycle began, and are written again.
    RevivedGarbage,
    /// A file is unlinked and still open.
    UnlinkedOpen,
    /// New bytes are chunks of the open batch, which is not committed.
    Uncommitted,
    /// New bytes, committed.
    New,
    /// Small commits with the bytes of S0, folds between them, then S0 is pruned; and the power is cut right there.
    Fold,
    /// S1 was brought to the bytes of S0 by small changes that were waited for, and S0 is pruned. What was changed is cut
    /// again, which finds the chunks of S0.
    Recut,
    /// The bytes of a pruned snapshot are written again once the cycle is over.
    WrittenAfter,
}

const RACES: [Race; 15] = [
    Race::CopyThenPrune,
    Race::CloneThenPrune,
    Race::CopyAcrossThenPrune,
    Race::LinkThenPrune,
    Race::RenameGroup,
    Race::RenameFiles,
    Race::PruneTwice,
    Race::OverwriteBase,
    Race::RevivedGarbage,
    Race::UnlinkedOpen,
    Race::Uncommitted,
    Race::New,
    Race::Fold,
    Race::Recut,
    Race::WrittenAfter,
];

pub fn write_snapshot(world: &World, name: &str, numbers: impl Iterator<Item = u64>) -> u64 {
    let dir = world.find(name).unwrap_or_else(|_| world.mkdir(ROOT_INO, name));
    for number in numbers {
        let ino = world.create(dir, &format!("f{number}"));
        world.fs.write(ino, 0, &content(number), false).unwrap();
    }
    dir
}

pub fn prune(world: &World, name: &str) {
    let dir = world.find(name).unwrap();
    for number in 0..FILES {
        if world.find(&format!("{name}/f{number}")).is_ok() {
            world.remove(dir, &format!("f{number}"));
        }
    }
    world.fs.rmdir(ROOT_INO, name.as_bytes()).unwrap();
    world.fs.forget(dir, u64::MAX);
    // The queue is worked off at once, also in the middle of the cycle.
    world.fs.drain_orphans().unwrap();
}

pub fn clone_snapshot(world: &World, from: &str, to: &str) {
    let dir = world.mkdir(ROOT_INO, to);
    for number in 0..FILES {
        let source = world.find(&format!("{from}/f{number}")).unwrap();
        let target = world.create(dir, &format!("f{number}"));
        world.fs.copy_file_range(source, 0, target, 0, 1 << 30).unwrap();
    }
}

fn patch_snapshot(world: &World) {
    let dir = world.mkdir(ROOT_INO, "s1");
    for number in 0..FILES {
        let (ino, bytes) = (world.create(dir, &format!("f{number}")), content(number));
        let mut others = bytes.clone();
        others[15_000..15_200].fill(7);
        world.fs.write(ino, 0, &others, false).unwrap();
        world.fs.sync().unwrap();
        world.fs.write(ino, 15_000, &bytes[15_000..15_200], false).unwrap();
        world.fs.fsync(ino).unwrap();
    }
}

fn before(world: &World, race: Race) {
    if !matches!(race, Race::Uncommitted | Race::New) {
        write_snapshot(world, "s0", 0..FILES);
    }
    // Something that stays, so that there is always something to mark, and something else that goes.
    write_snapshot(world, "bystander", 100..102);
    write_snapshot(world, "garbage", 200..202);
    world.fs.sync().unwrap();
    let garbage = world.find("garbage").unwrap();
    for number in 200..202 {
        world.remove(garbage, &format!("f{number}"));
    }
    match race {
        Race::CopyAcrossThenPrune => {
            write_snapshot(world, "s1", 0..FILES / 2);
        }
        Race::RevivedGarbage => prune(world, "s0"),
        Race::Recut => {
            patch_snapshot(world);
            prune(world, "s0");
        }
        Race::WrittenAfter => {
            // Found again once, so that the digests are remembered.
            write_snapshot(world, "again", 0..FILES);
            world.fs.sync().unwrap();
            prune(world, "again");
            prune(world, "s0");
        }
        _ => {}
    }
}

/// The operation at the point. What has to be there afterwards is under "s1".
fn race_at_point(world: &World, race: Race) {
    match race {
        Race::CopyThenPrune => {
            write_snapshot(world, "s1", 0..FILES);
            world.fs.sync().unwrap();
            prune(world, "s0");
        }
        Race::CloneThenPrune => {
            clone_snapshot(world, "s0", "s1");
            prune(world, "s0");
        }
        Race::CopyAcrossThenPrune => {
            write_snapshot(world, "s1", FILES / 2..FILES);
            prune(world, "s0");
        }
        Race::LinkThenPrune => {
            let dir = world.mkdir(ROOT_INO, "s1");
            for number in 0..FILES {
                let ino = world.find(&format!("s0/f{number}")).unwrap();
                world.fs.link(ino, dir, format!("f{number}").as_bytes()).unwrap();
                world.fs.forget(ino, 1);
            }
            prune(world, "s0");
        }
        Race::RenameGroup => {
            world.fs.rename(ROOT_INO, b"s0", ROOT_INO, b"s1", RenameFlags::default()).unwrap();
        }
        Race::RenameFiles => {
            let (from, to) = (world.find("s0").unwrap(), world.mkdir(ROOT_INO, "s1"));
            for number in 0..FILES {
                let name = format!("f{number}");
                world.fs.rename(from, name.as_bytes(), to, name.as_bytes(), RenameFlags::default()).unwrap();
            }
            prune(world, "s0");
        }
        Race::PruneTwice => {
            clone_snapshot(world, "s0", "middle");
            prune(world, "s0");
            write_snapshot(world, "s1", 0..FILES);
            world.fs.sync().unwrap();
            prune(world, "middle");
        }
        Race::OverwriteBase => {
            write_snapshot(world, "s1", 0..FILES);
            world.fs.sync().unwrap();
            for number in 0..FILES {
                let ino = world.find(&format!("s0/f{number}")).unwrap();
                let empty = SetAttr { size: Some(0), ..SetAttr::default() };
                world.fs.setattr(ino, CALLER, &empty).unwrap();
                world.fs.write(ino, 0, &random::content(9000 + number, 20_000), false).unwrap();
            }
            world.fs.sync().unwrap();
        }
        Race::RevivedGarbage | Race::New => {
            write_snapshot(world, "s1", 0..FILES);
            world.fs.sync().unwrap();
        }
        Race::UnlinkedOpen => {
            let dir = world.find("s0").unwrap();
            for number in 0..FILES {
                // Looked up and not forgotten: the kernel has it open.
                world.fs.lookup(dir, format!("f{number}").as_bytes()).unwrap();
                world.fs.unlink(dir, format!("f{number}").as_bytes()).unwrap();
            }
            world.fs.drain_orphans().unwrap();
        }
        Race::Uncommitted => {
            let dir = write_snapshot(world, "s1", 0..0);
            for number in 0..FILES {
                let ino = world.create(dir, &format!("f{number}"));
                world.fs.write(ino, 0, &content(number), false).unwrap();
                // To ask for a hole is to have the file cut into chunks; nothing is committed.
                world.fs.lseek(ino, 0, libc::SEEK_HOLE).unwrap();
            }
        }
        Race::Fold => {
            let dir = world.mkdir(ROOT_INO, "s1");
            for number in 0..FILES {
                let ino = world.create(dir, &format!("f{number}"));
                world.fs.write(ino, 0, &content(number), false).unwrap();
                world.fs.fsync(ino).unwrap();
                if number % 2 == 0 {
                    world.store.commits.fold().unwrap();
                }
            }
            prune(world, "s0");
        }
        Race::Recut => {
            // Twice: one leaves alone what was changed since the one before.
            (0..2).for_each(|_| world.fs.sync().unwrap());
        }
        Race::WrittenAfter => {}
    }
}

/// What was synced is there after a power cut at this moment of the cycle.
fn cut_here(disk: &SimMedia) {
    for seed in 0..2 {
        let world = World::open(&disk.cut_at(disk.op_count(), seed), &config()).unwrap();
        assert_eq!(verify(&world, Race::Fold, &[]), Ok(()), "power cut, seed {seed}");
        world.close().unwrap();
    }
}

/// The numbers of the files as they must be found afterwards.
fn verify(world: &World, race: Race, open: &[u64]) -> Result<(), String> {
    for number in 0..FILES {
        let found = match race {
            Race::UnlinkedOpen => Ok(open[number as usize]),
            _ => world.find(&format!("s1/f{number}")),
        };
        let ino = found.map_err(|error| format!("f{number}: {error}"))?;
        let got = world.read(ino).map_err(|error| format!("f{number}: {error}"))?;
        if got != content(number) {
            return Err(format!("f{number} has other bytes"));
        }
    }
    let report = world.check();
    if report.is_clean() && report.unfound_chunks == 0 { Ok(()) } else { Err(format!("{report:?}")) }
}

/// Runs a cycle that is held at a point, where `act` is done once, in the collector's own thread.
pub fn cycle_with(
    world: &Arc<World>,
    point: Point,
    act: impl Fn(&World) + Send + Sync + 'static,
) -> Result<(), String> {
    let pending = Arc::new(Mutex::new(Some(())));
    let (inside, acted) = (Arc::clone(world), Arc::clone(&pending));
    world.collector.set_hook(Some(Arc::new(move |at| {
        if at == point && acted.lock().unwrap().take().is_some() {
            act(&inside);
        }
    })));
    let cycle = world.collector.run_cycle(false);
    world.collector.set_hook(None);
    assert!(pending.lock().unwrap().is_none(), "the cycle never came to {point}: {cycle:?}");
    cycle.map(drop).map_err(|error| error.to_string())
}

/// One cell: `race` while the cycle is at `point`, then another cycle, then everything is read, also after opening
/// the store again.
fn cell(race: Race, point: Point, immediate_removal_limit: usize) -> Result<(), String> {
    let (disk, config) = (new_disk(), config());
    let setting = Setting { immediate_removal_limit, ..Setting::default() };
    let world = Arc::new(World::with(&disk, &config, setting).unwrap());
    before(&world, race);
    let open: Vec<u64> = match race {
        Race::UnlinkedOpen => (0..FILES).map(|n| world.find(&format!("s0/f{n}")).unwrap()).collect(),
        _ => Vec::new(),
    };
    let watched = disk.clone();
    let ended = cycle_with(&world, point, move |world| {
        race_at_point(world, race);
        if race == Race::Fold {
            cut_here(&watched);
        }
    });
    if race == Race::WrittenAfter {
        write_snapshot(&world, "s1", 0..FILES);
    }
    ended.and_then(|()| verify(&world, race, &open))?;
    world.collector.run_cycle(false).map_err(|error| format!("the next cycle: {error}"))?;
    verify(&world, race, &open)?;
    world.fs.sync().map_err(|error| error.to_string())?;
    let world = Arc::into_inner(world).expect("the hook is gone");
    reopened(&disk, world, race)
}

fn reopened(disk: &SimMedia, world: World, race: Race) -> Result<(), String> {
    world.close().map_err(|error| error.to_string())?;
    if race == Race::UnlinkedOpen {
        return Ok(());
    }
    let world = World::open(disk, &config()).map_err(|error| error.to_string())?;
    let result = verify(&world, race, &[]);
    world.close().map_err(|error| error.to_string())?;
    result
}

#[test]
fn no_operation_at_any_point_of_a_cycle_loses_anything() {
    let _all = protected();
    println!("{:<22}{}", "", Point::ALL.map(|point| format!("{:>13}", point.name())).join(""));
    for race in RACES {
        let mut line = format!("{:<22}", format!("{race:?}"));
        for point in Point::ALL {
            for immediate_removal_limit in WAYS_TO_GO {
                assert_eq!(
                    cell(race, point, immediate_removal_limit),
                    Ok(()),
                    "{race:?} at {point}, at once {immediate_removal_limit}"
                );
            }
            line.push_str(&format!("{:>13}", "kept"));
        }
        println!("{line}");
    }
}

/// Takes protections out and looks for a cell that loses something.
fn must_be_noticed(protections: &[Protection], race: Race) {
    let _out = without(protections);
    for immediate_removal_limit in WAYS_TO_GO {
        let noticed = Point::ALL
            .into_iter()
            .find_map(|point| Some((point, cell(race, point, immediate_removal_limit).err()?)));
        let (point, lost) = noticed.unwrap_or_else(|| {
            panic!("{protections:?} out, {race:?}, at once {immediate_removal_limit}: nothing noticed")
        });
        println!("without {protections:?}: {race:?} at {point}, at once {immediate_removal_limit}: {lost}");
    }
}

/// Takes one protection out and sees that another still holds.
fn must_be_kept(protection: Protection, race: Race) {
    let _out = without(&[protection]);
    for point in Point::ALL {
        let kept = cell(race, point, IMMEDIATE_REMOVAL_LIMIT);
        assert_eq!(kept, Ok(()), "{race:?} at {point} without {protection:?}");
    }
}

#[test]
fn either_half_alone_closes_the_race_of_the_advisory() {
    must_be_kept(Protection::MarkOnHit, Race::CopyThenPrune);
    must_be_kept(Protection::OneSnapshot, Race::CopyThenPrune);
}

#[test]
fn without_both_halves_the_advisory_loses_data() {
    must_be_noticed(&[Protection::MarkOnHit, Protection::OneSnapshot], Race::CopyThenPrune);
}

#[test]
fn without_the_mark_on_a_hit_revived_garbage_is_lost() {
    must_be_noticed(&[Protection::MarkOnHit], Race::RevivedGarbage);
}

#[test]
fn without_the_mark_on_a_hit_what_a_recut_finds_is_lost() {
    must_be_noticed(&[Protection::MarkOnHit], Race::Recut);
}

#[test]
fn without_the_watermark_new_chunks_are_lost() {
    must_be_noticed(&[Protection::Watermark], Race::New);
}

#[test]
fn without_draining_before_the_snapshot_uncommitted_chunks_are_lost() {
    must_be_noticed(&[Protection::DrainBeforeSnapshot], Race::Uncommitted);
}

#[test]
fn without_forgetting_a_remembered_answer_is_used_after_the_cycle() {
    must_be_noticed(&[Protection::ClearDigestCache], Race::WrittenAfter);
}

#[test]
fn without_waiting_for_the_kernel_an_open_file_is_lost() {
    must_be_noticed(&[Protection::WaitForForget], Race::UnlinkedOpen);
}

#[test]
fn without_marking_orphans_an_open_file_is_lost() {
    must_be_noticed(&[Protection::MarkOrphans], Race::UnlinkedOpen);
}

#[test]
fn without_looking_what_a_digest_names_the_index_is_broken() {
    must_be_noticed(&[Protection::DigestStillNames], Race::RevivedGarbage);
}

/// Puts a row that does not decode in the place of a file's extent, and runs a cycle.
fn cycle_over_a_bad_row() -> (Result<(), String>, usize) {
    use cairnfs::meta::Table;
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    before(&world, Race::CopyThenPrune);
    world.fs.drain_orphans().unwrap();
    let ino = world.find("s0/f1").unwrap();
    let key = cairnfs::meta::rows::extent_key(ino, 0);
    world
        .store
        .commits
        .rewrite(true, |txn, _| {
            txn.put(Table::Extents, &key, b"\xff\xff");
            Ok(())
        })
        .unwrap();
    let chunks = |world: &World| {
        let mut chunks = 0;
        let all = std::ops::Bound::Unbounded;
        let count = |_: &[u8], _: &[u8]| {
            chunks += 1;
            Ok(true)
        };
        world.store.layers().scan(Table::Digests, all, all, count).unwrap();
        chunks
    };
    let had = chunks(&world);
    let cycle = world.collector.run_cycle(false).map(drop).map_err(|error| error.to_string());
    let lost = had - chunks(&world);
    world.close().unwrap();
    (cycle, lost)
}

#[test]
fn a_row_that_does_not_decode_ends_the_cycle_before_it_frees_anything() {
    let _all = protected();
    let (cycle, lost) = cycle_over_a_bad_row();
    assert!(cycle.is_err(), "the cycle says nothing of the row");
    assert_eq!(lost, 0);
}

#[test]
fn without_that_an_error_is_read_as_nothing() {
    let _out = without(&[Protection::ErrorEndsCycle]);
    let (cycle, lost) = cycle_over_a_bad_row();
    assert_eq!(cycle, Ok(()));
    assert!(lost > 0, "the chunks of the file whose row is bad are gone, besides the garbage");
}
