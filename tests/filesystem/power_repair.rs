//! The power is cut before every operation on the disk of a metadata backup and of a repair: what was there before is
//! there after, and the store opens or says that it needs a repair, which then works.

use cairnfs::check::repair::{Database, repair};
use cairnfs::media::sim::{OpKind, SimMedia};
use cairnfs::sabotage::Protection;
use cairnfs::store::{StoreConfig, list_backups, open_backup};

use crate::full::settled;
use crate::random::{seed, seeds};
use crate::repair::{DB, Files, media, mend, right, store, write};
use crate::world::{World, protected, without};

/// The first backup that has its name and is not whole.
fn torn(disk: &SimMedia) -> Option<u64> {
    let whole =
        |number: u64| open_backup(media(disk).as_ref(), number).and_then(|backup| backup.verify()).is_ok();
    let all = list_backups(media(disk).as_ref()).unwrap();
    assert!(all.len() >= 2 && all[0] >= 2, "{all:?}: none may go before a newer one is there");
    all.into_iter().find(|number| !whole(*number))
}

/// Makes one more backup of the store, and cuts the power before each of its operations; hands over each disk.
fn cut_a_backup(start: &SimMedia, config: &StoreConfig, seed: u64, each: &mut dyn FnMut(u64, SimMedia)) {
    let disk = settled(start);
    let world = World::open(&disk, config).unwrap();
    write(&world, &mut Files::new(), "s2", 20..23);
    world.fs.sync().unwrap();
    let disk_before = disk.op_count();
    world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
    for op in disk_before..=disk.op_count() {
        each(op, disk.cut_at(op, seed ^ op));
    }
    world.close().unwrap();
}

#[test]
fn a_power_cut_during_a_backup_leaves_every_backup_whole() {
    let all = protected();
    let (disk, config, files) = store();
    let mut cuts = 0;
    for seed in seeds("power and backups", 700, 4) {
        cut_a_backup(&disk, &config, seed, &mut |op, after| {
            cuts += 1;
            assert_eq!(torn(&after), None, "seed {seed}, cut before operation {op}");
            assert_eq!(right(&after, &config, &files, ""), files.len(), "seed {seed}, operation {op}");
            // And it is worth something.
            media(&after).remove(DB).unwrap();
            assert!(mend(&after, &config, true).done);
            assert_eq!(right(&after, &config, &files, "lost+found"), files.len(), "seed {seed}, {op}");
        });
    }
    println!("{cuts} power cuts during a backup");
    assert!(cuts > 30);
    drop(all);

    // A backup that gets its name before its bytes are durable is noticed.
    let _out = without(&[Protection::BytesBeforeNames]);
    let (first, mut noticed) = (seed("backups without syncs", 700), 0);
    for seed in first..first + 8 {
        cut_a_backup(&disk, &config, seed, &mut |_, after| noticed += u64::from(torn(&after).is_some()));
    }
    assert!(noticed > 0, "no cut left half a backup");
}

/// What of `before` is not in `after`: packs, backups, and the database. One that was put aside counts only as long as the
/// next repair reads it: where no database is in its place; or where the new one is, which has all that was in it.
fn lost(before: &SimMedia, after: &SimMedia) -> Option<String> {
    let names = |disk: &SimMedia| disk.files().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let has_new = after.contents(DB).is_some_and(|now| Some(now) != before.contents(DB));
    let is_read = after.contents(DB).is_none() || has_new;
    let is_kept = |name: &str| {
        let bytes = before.contents(name);
        let aside = format!("{name}.damaged-");
        let may_be = |other: &String| other == name || name == DB && is_read && other.starts_with(&aside);
        names(after).iter().filter(|other| may_be(other)).any(|other| after.contents(other) == bytes)
    };
    let counts = |name: &String| name.ends_with(".pack") || name.ends_with(".cmb") || name == DB;
    names(before).into_iter().filter(counts).find(|name| !is_kept(name))
}

/// What is wrong with a database that is to be repaired.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    Missing,
    Unreadable,
    /// One page is damaged that no row needs; most files are in no backup.
    Readable,
}

const DAMAGES: [Damage; 3] = [Damage::Missing, Damage::Unreadable, Damage::Readable];

/// Files that only the database knows.
const LATE: std::ops::Range<u64> = 40..52;

/// A store with a damaged database, the files that a repair brings back, and their number.
fn damaged(damage: Damage) -> (SimMedia, StoreConfig, Files) {
    let (disk, config, mut files) = store();
    match damage {
        Damage::Missing => media(&disk).remove(DB).unwrap(),
        Damage::Unreadable => media(&disk).open(DB, true).unwrap().set_len(10_000).unwrap(),
        Damage::Readable => {
            let world = World::open(&disk, &config).unwrap();
            write(&world, &mut files, "late", LATE);
            world.close().unwrap();
            let len = disk.contents(DB).unwrap().len() as u64;
            let costs_nothing = |page: &u64| {
                let copy = settled(&disk);
                copy.flip_byte(DB, page * 4096 + 100);
                let report = mend(&copy, &config, false);
                report.database == Database::Damaged && report.rows_from_backup + report.rows_lost == 0
            };
            let page = (1..len / 4096).rev().find(costs_nothing).expect("some page is needed by no row");
            disk.flip_byte(DB, page * 4096 + 100);
        }
    }
    (settled(&damaged_for_good(&disk)), config, files)
}

#[test]
fn a_power_cut_during_a_repair_loses_nothing_and_the_next_one_works() {
    let _all = protected();
    let first = seed("power and repair", 800);
    let mut cuts = 0;
    for damage in DAMAGES {
        let (before, config, files) = damaged(damage);
        let disk = settled(&before);
        let begin = disk.op_count();
        assert!(mend(&disk, &config, true).done);
        let (mut opened, mut refused) = (0, 0);
        for op in begin..=disk.op_count() {
            let after = disk.cut_at(op, first ^ op);
            assert_eq!(lost(&before, &after), None, "seed {first}, {damage:?}, cut before operation {op}");
            match World::open(&after, &config) {
                Ok(world) => {
                    // With a damaged page the last commit may fail.
                    world
                        .close()
                        .or_else(|error| if damage == Damage::Readable { Ok(()) } else { Err(error) })
                        .unwrap();
                    opened += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("cairnfs repair"), "{error}");
                    refused += 1;
                }
            }
            mend(&after, &config, true);
            let found = right(&after, &config, &files, "lost+found");
            assert_eq!(found, files.len(), "seed {first}, {damage:?}, {op}");
            cuts += 1;
        }
        assert!(
            opened > 0 && (refused > 0 || damage == Damage::Readable),
            "{opened} opened, {refused} refused"
        );
    }
    println!("{cuts} power cuts during a repair");
}

/// The operations with which a repair puts the new database in its place, and a few before them.
const LAST: u64 = 16;

/// How many files are right at least, of how many, after a repair was killed at one of its last operations and run again.
/// Then the store is as it was at that moment, bytes that were not synced included.
fn killed(damage: Damage, has_links: bool) -> (usize, usize) {
    let (before, config, files) = damaged(damage);
    let ops = {
        let disk = settled(&before);
        mend(&disk, &config, true);
        disk.op_count()
    };
    let mut least = usize::MAX;
    for op in ops.saturating_sub(LAST)..=ops + 4 {
        let disk = settled(&before);
        disk.set_fault(Box::new(move |now| match now.kind {
            _ if now.kind.is_change() && now.number >= op => Some(libc::EIO),
            OpKind::Link if !has_links => Some(libc::EPERM),
            _ => None,
        }));
        let _ = repair(&media(&disk), &config, true);
        disk.clear_faults();
        mend(&disk, &config, true);
        least = least.min(right(&disk, &config, &files, "lost+found"));
    }
    (least, files.len())
}

#[test]
fn a_repair_that_is_killed_and_run_again_loses_nothing() {
    let _all = protected();
    for damage in DAMAGES {
        for has_links in [true, false] {
            let (least, all) = killed(damage, has_links);
            assert_eq!(least, all, "{damage:?}, links: {has_links}");
        }
    }
}

/// Either of the two is enough, and without both the names are lost.
#[test]
fn without_a_database_at_every_moment_and_without_what_was_left_the_names_are_lost() {
    for (out, is_lost) in [
        (&[Protection::OldStaysInPlace][..], false),
        (&[Protection::LeftoversAreRead][..], false),
        (&[Protection::OldStaysInPlace, Protection::LeftoversAreRead][..], true),
    ] {
        let _out = without(out);
        let (least, all) = killed(Damage::Readable, true);
        assert_eq!(least < all, is_lost, "{out:?}: {least} of {all}");
    }
}

/// What was put aside long ago is not taken for the newest state once a newer backup is there.
#[test]
fn a_database_that_was_put_aside_long_ago_is_not_read() {
    let _all = protected();
    let (disk, config, mut files) = damaged(Damage::Readable);
    let aside = mend(&disk, &config, true).kept_aside.expect("the old one is kept");
    let world = World::open(&disk, &config).unwrap();
    let late = world.find("late").unwrap();
    for number in LATE {
        world.remove(late, &format!("f{number}"));
        files.remove(&format!("late/f{number}"));
    }
    write(&world, &mut files, "after", 60..64);
    world.fs.sync().unwrap();
    world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
    world.close().unwrap();
    media(&disk).remove(DB).unwrap();
    let report = mend(&disk, &config, true);
    assert_eq!(report.database, Database::Missing, "{report:?}");
    assert_eq!(right(&disk, &config, &files, "lost+found"), files.len());
    let world = World::open(&disk, &config).unwrap();
    assert!(world.find("late/f40").is_err(), "{aside} is older than the backup");
    world.close().unwrap();
}

/// Makes what was done to names and lengths durable.
fn damaged_for_good(disk: &SimMedia) -> SimMedia {
    media(disk).sync_dir("meta").unwrap();
    if let Ok(file) = media(disk).open(DB, true) {
        file.sync().unwrap();
    }
    disk.clone()
}

/// The look at what was lost finds it: a repair that did not keep the old database, and one that took a pack away.
#[test]
fn a_repair_that_loses_something_is_noticed() {
    let _all = protected();
    let (disk, config, _) = store();
    media(&disk).open(DB, true).unwrap().set_len(10_000).unwrap();
    let before = settled(&damaged_for_good(&disk));
    let disk = settled(&before);
    let aside = mend(&disk, &config, true).kept_aside.unwrap();
    assert_eq!(lost(&before, &disk), None);
    let other = settled(&disk);
    media(&disk).remove(&aside).unwrap();
    assert_eq!(lost(&before, &disk).as_deref(), Some(DB));
    let pack = other.files().into_iter().map(|(name, _)| name).find(|name| name.ends_with(".pack")).unwrap();
    other.flip_byte(&pack, 5000);
    assert_eq!(lost(&before, &other), Some(pack));
}
