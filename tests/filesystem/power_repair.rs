//! The power is cut before every operation on the disk of a metadata backup and of a repair: what was there before is
//! there after, and the store opens or says that it needs a repair, which then works.

use cairnfs::media::sim::SimMedia;
use cairnfs::sabotage::Protection;
use cairnfs::store::{StoreConfig, list_backups, open_backup};

use crate::random::seed;
use crate::repair::{DB, Files, media, mend, right, store, write};
use crate::world::{World, protected, without};

/// The same disk, of which everything is durable.
fn settled(disk: &SimMedia) -> SimMedia {
    disk.cut_at(disk.op_count(), 1)
}

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
    world.store.back_up_metadata(&mut || Ok(())).unwrap().unwrap();
    for op in disk_before..=disk.op_count() {
        each(op, disk.cut_at(op, seed ^ op));
    }
    world.close().unwrap();
}

#[test]
fn a_power_cut_during_a_backup_leaves_every_backup_whole() {
    let all = protected();
    let (disk, config, files) = store();
    let (first, mut cuts) = (seed("power and backups", 700), 0);
    for seed in first..first + 4 {
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
    let mut noticed = 0;
    for seed in first..first + 8 {
        cut_a_backup(&disk, &config, seed, &mut |_, after| noticed += u64::from(torn(&after).is_some()));
    }
    assert!(noticed > 0, "no cut left half a backup");
}

/// What of `before` is not in `after`: packs, backups, and the database, under its name or put aside.
fn lost(before: &SimMedia, after: &SimMedia) -> Option<String> {
    let names = |disk: &SimMedia| disk.files().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let is_kept = |name: &str| {
        let bytes = before.contents(name);
        let aside = format!("{name}.damaged-");
        let may_be = |other: &String| other == name || name == DB && other.starts_with(&aside);
        names(after).iter().filter(|other| may_be(other)).any(|other| after.contents(other) == bytes)
    };
    let counts = |name: &String| name.ends_with(".pack") || name.ends_with(".cmb") || name == DB;
    names(before).into_iter().filter(counts).find(|name| !is_kept(name))
}

#[test]
fn a_power_cut_during_a_repair_loses_nothing_and_the_next_one_works() {
    let _all = protected();
    let (disk, config, files) = store();
    let first = seed("power and repair", 800);
    let mut cuts = 0;
    for is_missing in [true, false] {
        let damaged = settled(&disk);
        if is_missing {
            media(&damaged).remove(DB).unwrap();
        } else {
            media(&damaged).open(DB, true).unwrap().set_len(10_000).unwrap();
        }
        let before = settled(&damaged_for_good(&damaged));
        let disk = settled(&before);
        let begin = disk.op_count();
        assert!(mend(&disk, &config, true).done);
        let (mut opened, mut refused) = (0, 0);
        for op in begin..=disk.op_count() {
            let after = disk.cut_at(op, first ^ op);
            assert_eq!(lost(&before, &after), None, "seed {first}, cut before operation {op}");
            match World::open(&after, &config) {
                Ok(world) => {
                    world.close().unwrap();
                    opened += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("cairnfs repair"), "{error}");
                    refused += 1;
                }
            }
            mend(&after, &config, true);
            assert_eq!(right(&after, &config, &files, "lost+found"), files.len(), "seed {first}, {op}");
            cuts += 1;
        }
        assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
    }
    println!("{cuts} power cuts during a repair");
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
