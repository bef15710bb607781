//! The disk is full from any operation on: of writing, of a cycle, of a metadata backup, of a repair. It is said, by an
//! error that means a full disk; nothing that was promised is lost, and with room again everything goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use cairnfs::check::repair::repair;
use cairnfs::error::{Error, Result};
use cairnfs::fs::ROOT_INO;
use cairnfs::media::sim::{OpKind, SimMedia};
use cairnfs::sabotage::Protection;
use cairnfs::store::{StoreConfig, list_backups, open_backup};

use crate::random;
use crate::repair::{DB, Files, assert_clean, media, mend, right, store};
use crate::world::{CALLER, World, protected, without};

/// The same disk with nothing on it that is not durable, no faults, and a log of its own.
pub fn settled(disk: &SimMedia) -> SimMedia {
    disk.cut_at(disk.op_count(), 1)
}

/// From its change `op` on the disk has no byte free, but for what is freed on it.
pub fn full_from(disk: &SimMedia, op: u64) {
    let (full, is_full) = (disk.clone(), AtomicBool::new(false));
    disk.set_fault(Box::new(move |at| {
        if at.kind.is_change() && at.number >= op && !is_full.swap(true, Ordering::SeqCst) {
            full.set_capacity(Some(full.used()));
        }
        None
    }));
}

pub fn with_room(disk: &SimMedia) {
    disk.clear_faults();
    disk.set_capacity(None);
}

/// How often the work came to its end on the full disk, and how often it was ended by it.
#[derive(Debug, Default)]
struct Outcomes {
    done: u32,
    refused: u32,
}

/// Does the same work on a disk that is full from each of its operations on, or nearly each; then hands over the disk,
/// with room again.
fn at_each_step<T>(
    start: &SimMedia,
    work: impl Fn(&SimMedia) -> (Result<()>, T),
    mut judge: impl FnMut(u64, &SimMedia, T),
) -> Outcomes {
    let disk = settled(start);
    work(&disk).0.unwrap();
    let (all, mut outcomes) = (disk.op_count(), Outcomes::default());
    for op in (0..all).step_by((all as usize / 120).max(1)) {
        let disk = settled(start);
        full_from(&disk, op);
        let (result, rest) = work(&disk);
        match result {
            Ok(()) => outcomes.done += 1,
            Err(error) => {
                assert!(error.is_no_space(), "full from operation {op} on: {error}");
                outcomes.refused += 1;
            }
        }
        with_room(&disk);
        judge(op, &disk, rest);
    }
    outcomes
}

/// Opens the store, works, closes it; the first error counts.
fn opened<T: Default>(
    disk: &SimMedia,
    config: &StoreConfig,
    work: impl FnOnce(&World) -> (Result<()>, T),
) -> (Result<()>, T) {
    match World::open(disk, config) {
        Err(error) => (Err(error), T::default()),
        Ok(world) => {
            let (result, rest) = work(&world);
            let closed = world.close();
            (result.and(closed), rest)
        }
    }
}

/// Writes files, each made durable; those of which it was said that they are.
fn write(world: &World) -> (Result<()>, Files) {
    let mut kept = BTreeMap::new();
    let result = (0..12).try_for_each(|number| {
        let (name, bytes) = (format!("new{number}"), random::content(9_000 + number, 150_000));
        let caller = cairnfs::fs::Caller { uid: 0, gid: 0 };
        let ino = world.fs.mknod(ROOT_INO, name.as_bytes(), caller, libc::S_IFREG | 0o644, 0, 0)?.ino;
        world.fs.write(ino, 0, &bytes, false)?;
        world.fs.sync()?;
        kept.insert(name, bytes);
        Ok(())
    });
    (result, kept)
}

#[test]
fn a_disk_that_is_full_from_any_write_on_says_so_and_keeps_what_was_synced() {
    let _all = protected();
    let (start, config, files) = store();
    let outcomes = at_each_step(
        &start,
        |disk| opened(disk, &config, write),
        |op, disk, kept| {
            for expected in [&files, &kept] {
                assert_eq!(right(disk, &config, expected, ""), expected.len(), "full from operation {op} on");
            }
            assert_clean(disk, &config);
        },
    );
    println!("writing: {outcomes:?}");
    assert!(outcomes.refused > 20, "{outcomes:?}");
}

/// Small files, each made durable by an entry of the log that carries it, and folds between them.
fn write_small(world: &World) -> (Result<()>, Files) {
    let mut kept = BTreeMap::new();
    let result = (0..24).try_for_each(|number| {
        let (name, bytes) = (format!("small{number}"), random::content(8_000 + number, 3_000));
        let ino = world.fs.mknod(ROOT_INO, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0)?.ino;
        world.fs.write(ino, 0, &bytes, false)?;
        world.fs.fsync(ino)?;
        kept.insert(name, bytes);
        if number % 6 == 5 { world.store.commits.fold() } else { Ok(()) }
    });
    (result, kept)
}

/// At each step of an entry, of a fold, of the replay at an opening, and of the end of the log.
#[test]
fn a_full_disk_at_any_step_of_the_log_loses_nothing_that_was_acknowledged() {
    let _all = protected();
    let (start, config, mut files) = store();
    // Killed, so that each opening has something to replay.
    let world = World::open(&start, &config).unwrap();
    let (result, before) = write_small(&world);
    result.unwrap();
    let killed = start.cut_at(start.op_count(), 1);
    world.close().unwrap();
    files.extend(before);
    let outcomes = at_each_step(
        &killed,
        |disk| {
            opened(disk, &config, |world| {
                (0..24)
                    .for_each(|number| drop(world.fs.unlink(ROOT_INO, format!("small{number}").as_bytes())));
                write_small(world)
            })
        },
        |op, disk, kept| {
            let others: Files = files
                .iter()
                .filter(|(name, _)| !name.starts_with("small"))
                .map(|(n, b)| (n.clone(), b.clone()))
                .collect();
            for expected in [&others, &kept] {
                assert_eq!(right(disk, &config, expected, ""), expected.len(), "full from operation {op} on");
            }
            assert_clean(disk, &config);
        },
    );
    println!("the log: {outcomes:?}");
    assert!(outcomes.refused > 20, "{outcomes:?}");
}

#[test]
fn a_cycle_on_a_disk_that_gets_full_frees_what_it_can_and_loses_nothing() {
    let _all = protected();
    let (start, config, mut files) = store();
    // One file in four stays, so that packs are emptied by moving the rest.
    let world = World::open(&start, &config).unwrap();
    let dir = world.find("s1").unwrap();
    let other = world.find("s0").unwrap();
    for number in (0..12).filter(|number| number % 4 > 0) {
        for (dir, path) in [(dir, "s1"), (other, "s0")] {
            world.remove(dir, &format!("f{number}"));
            files.remove(&format!("{path}/f{number}"));
        }
    }
    world.fs.unlink(ROOT_INO, b"link").unwrap();
    files.remove("link");
    world.close().unwrap();
    let outcomes = at_each_step(
        &start,
        |disk| {
            opened(disk, &config, |world| {
                let drained = world.fs.drain_orphans();
                let ran = drained.and_then(|_| world.collector.run_cycle(false));
                let record = ran.as_ref().ok().cloned();
                (ran.map(|_| ()), record)
            })
        },
        |op, disk, _| {
            assert_eq!(right(disk, &config, &files, ""), files.len(), "full from operation {op} on");
            assert_clean(disk, &config);
        },
    );
    println!("a cycle: {outcomes:?}");
    assert!(outcomes.done > 20, "the reserve is there for it: {outcomes:?}");
}

#[test]
fn a_backup_on_a_disk_that_gets_full_leaves_the_others_whole() {
    let _all = protected();
    let (start, config, files) = store();
    let outcomes = at_each_step(
        &start,
        |disk| opened(disk, &config, |world| (world.store.backups.write(&mut || Ok(())).map(|_| ()), ())),
        |op, disk, ()| {
            let all = list_backups(media(disk).as_ref()).unwrap();
            assert!(!all.is_empty());
            for number in all {
                let backup = open_backup(media(disk).as_ref(), number);
                backup
                    .and_then(|backup| backup.verify())
                    .unwrap_or_else(|error| panic!("{op}: {number}: {error}"));
            }
            assert_eq!(right(disk, &config, &files, ""), files.len(), "full from operation {op} on");
            // And the next one works.
            let (result, _) = opened(disk, &config, |world| {
                let size = world.store.backups.write(&mut || Ok(()));
                (size.and_then(|size| size.map(|_| ()).ok_or(Error::Posix(libc::ENOSPC))), ())
            });
            result.unwrap();
        },
    );
    println!("a backup: {outcomes:?}");
}

#[test]
fn a_repair_on_a_disk_that_gets_full_changes_nothing_and_works_with_room() {
    let _all = protected();
    let (start, config, files) = store();
    media(&start).open(DB, true).and_then(|file| file.set_len(10_000).and_then(|()| file.sync())).unwrap();
    let before = start.contents(DB);
    let outcomes = at_each_step(
        &start,
        |disk| match repair(&media(disk), &config, true) {
            Ok(report) => (Ok(()), report.done),
            Err(error) => (Err(error), false),
        },
        |op, disk, done| {
            assert!(
                done || disk.contents(DB) == before,
                "full from operation {op} on: the database is another"
            );
            assert!(mend(disk, &config, true).done || done, "full from operation {op} on");
            assert_eq!(
                right(disk, &config, &files, "lost+found"),
                files.len(),
                "full from operation {op} on"
            );
        },
    );
    println!("a repair: {outcomes:?}");
    assert!(outcomes.refused > 0, "{outcomes:?}");
}

/// Writes without a sync until that is refused, under a limit that no figure shows, and has everything stored. Then the
/// files are deleted, and a cycle gives their bytes back. The first error that is not that refusal.
fn use_up_a_quota(room: u64) -> Result<()> {
    let (start, config, files) = store();
    let disk = settled(&start);
    disk.set_quota(Some(disk.used() + room));
    let world = World::open(&disk, &config)?;
    let (mut kept, mut refused) = (BTreeMap::new(), false);
    for number in 0..200 {
        let (name, bytes) = (format!("new{number}"), random::content(9_000 + number, 400_000));
        let made = world.fs.mknod(ROOT_INO, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0);
        match made.and_then(|made| world.fs.write(made.ino, 0, &bytes, false)) {
            Ok(_) => kept.insert(name, bytes),
            Err(error) => {
                assert_eq!(error.errno(), libc::ENOSPC, "{error}");
                refused = true;
                break;
            }
        };
    }
    world.fs.sync()?;
    assert!(refused && !kept.is_empty() && world.store.host_space()?.available > room * 100);
    for (name, bytes) in &kept {
        assert!(world.read(world.find(name)?)? == *bytes, "{name}");
        world.remove(ROOT_INO, name);
    }
    let before = disk.used();
    world.fs.sync()?;
    world.fs.drain_orphans()?;
    world.collector.run_cycle(false)?;
    assert!(disk.used() + room / 4 < before, "{} of {before} bytes are still there", disk.used());
    world.close()?;
    assert_eq!(right(&disk, &config, &files, ""), files.len());
    Ok(())
}

#[test]
fn under_a_quota_what_was_acknowledged_is_stored_and_deleting_leads_out() {
    let _all = protected();
    for room in [16 << 20, 24 << 20, 40 << 20] {
        use_up_a_quota(room).unwrap_or_else(|error| panic!("{room}: {error}"));
    }
}

#[test]
fn promises_that_nothing_backs_are_noticed() {
    let _out = without(&[Protection::PromisesAreBacked]);
    assert!(use_up_a_quota(24 << 20).unwrap_err().is_no_space());
}

/// A commit in whose transaction the host has no room but what is taken to back promises: it was taken since somebody saw
/// to it that there is enough. As on hosts on which writing over something takes space.
fn commit_while_promises_are_backed() -> Result<()> {
    let (start, config, mut files) = store();
    let disk = settled(&start);
    disk.set_quota(Some(disk.used() + (64 << 20)));
    let world = World::open(&disk, &config)?;
    let backing = |disk: &SimMedia| {
        let reserve = disk.files().into_iter().find(|(path, _)| path == "reserve");
        reserve.is_some_and(|(_, len)| len > config.reserve)
    };
    for name in ["before", "after"] {
        let (ino, bytes) = (world.create(ROOT_INO, name), random::content(9_100, 300_000));
        world.fs.write(ino, 0, &bytes, false)?;
        files.insert(name.to_owned(), bytes);
        assert!(backing(&disk), "{name}: what was acknowledged is backed");
        let (full, reserve) = (disk.clone(), config.reserve);
        disk.set_fault(Box::new(move |op| {
            let is_row = op.path == DB && matches!(op.kind, OpKind::Write | OpKind::Allocate);
            let taken = || full.files().into_iter().any(|(path, len)| path == "reserve" && len > reserve);
            (is_row && taken()).then_some(libc::EDQUOT)
        }));
        world.fs.sync()?;
        world.store.commits.fold()?;
        assert!(!backing(&disk), "{name}: it was given up");
        disk.clear_faults();
    }
    world.close()?;
    assert_eq!(right(&disk, &config, &files, ""), files.len());
    Ok(())
}

#[test]
fn what_backs_promises_goes_to_a_commit_that_has_no_room_left() {
    let _all = protected();
    commit_while_promises_are_backed().unwrap();
}

#[test]
fn a_commit_that_gets_nothing_from_those_who_back_promises_fails() {
    let _out = without(&[Protection::ReserveForDatabase]);
    assert!(commit_while_promises_are_backed().unwrap_err().is_no_space());
}

/// As on hosts on which writing over something takes space.
fn open_without_room() -> Result<()> {
    let (start, config, files) = store();
    let disk = settled(&start);
    let (full, has_room) = (disk.clone(), AtomicBool::new(false));
    disk.set_fault(Box::new(move |op| {
        has_room.fetch_or(full.contents("reserve").is_none(), Ordering::SeqCst);
        let refused = op.kind.is_change() && op.path == DB && !has_room.load(Ordering::SeqCst);
        refused.then_some(libc::ENOSPC)
    }));
    let world = World::open(&disk, &config)?;
    for name in files.keys() {
        world.read(world.find(name)?)?;
    }
    world.close()?;
    disk.clear_faults();
    assert_eq!(right(&disk, &config, &files, ""), files.len());
    Ok(())
}

#[test]
fn a_store_is_opened_on_a_full_disk_with_its_reserve() {
    let _all = protected();
    open_without_room().unwrap();
}

#[test]
fn a_store_that_keeps_its_reserve_cannot_be_opened() {
    let _out = without(&[Protection::ReserveForDatabase]);
    assert!(open_without_room().unwrap_err().is_no_space());
}

#[test]
fn a_reserve_without_bytes_gets_them_at_an_opening() {
    let _all = protected();
    let (start, config, _) = store();
    let disk = settled(&start);
    let reserve = media(&disk).open("reserve", true).unwrap();
    for len in [0, config.reserve, config.reserve * 3] {
        reserve.set_len(0).and_then(|()| reserve.set_len(len)).unwrap();
        World::open(&disk, &config).unwrap().close().unwrap();
        assert_eq!((reserve.len().unwrap(), reserve.allocated().unwrap()), (config.reserve, config.reserve));
    }
}

/// The same looks at a disk that does lose something see it.
#[test]
fn what_a_full_disk_must_not_do_is_noticed() {
    let _all = protected();
    let (start, config, files) = store();
    let disk = settled(&start);
    let (result, kept) = opened(&disk, &config, write);
    result.unwrap();
    assert_eq!(right(&start, &config, &kept, ""), 0, "files that were never written");
    assert_eq!(right(&disk, &config, &kept, ""), kept.len());
    let newest = list_backups(media(&disk).as_ref()).unwrap()[0];
    disk.flip_byte(&format!("meta-backups/{newest:08}.cmb"), 100);
    assert!(open_backup(media(&disk).as_ref(), newest).and_then(|backup| backup.verify()).is_err());
    assert_eq!(right(&disk, &config, &files, ""), files.len());
}
