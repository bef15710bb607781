//! Repair of a database with gaps: what is behind a page that cannot be read is as good as what is before it.

use cairnfs::check::repair::RepairReport;
use cairnfs::fs::{SetAttr, SetTime};
use cairnfs::media::sim::{OpKind, SimMedia};
use cairnfs::pack::PackId;
use cairnfs::store::{StoreConfig, list_backups};

use crate::random;
use crate::repair::{DB, Files, media, mend, right, store};
use crate::world::{CALLER, World, config, new_disk, protected};

/// More files than any leaf has rows.
const FILES: u64 = 600;
/// Those of them that a backup has.
const BACKED_UP: u64 = 20;
/// Rows that a leaf has at most: extents are the smallest.
const LEAF: usize = 120;

/// A store with several leaves in each table of names and files, and a backup of its beginning or none.
fn large(with_backup: bool) -> (SimMedia, StoreConfig, Files) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let mut files = Files::new();
    let mut add = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let name = format!("f{number:04}");
            let bytes = random::content(9_000 + number, 300 + number as usize % 700);
            world.save(&name, &bytes);
            files.insert(name, bytes);
        }
        world.fs.sync().unwrap();
    };
    add(0..BACKED_UP);
    if with_backup {
        world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
    }
    add(BACKED_UP..FILES);
    world.close().unwrap();
    if !with_backup {
        for (name, _) in disk.files().into_iter().filter(|(name, _)| name.ends_with(".cmb")) {
            media(&disk).remove(&name).unwrap();
        }
    }
    (disk, config, files)
}

/// How many files are right after each page of the database was damaged by itself and the store repaired; as a copy of a
/// database that was in use, if it is to be one.
fn each_page(
    (pristine, config, files): &(SimMedia, StoreConfig, Files),
    is_copy: bool,
) -> Vec<(u64, RepairReport, usize)> {
    let contents = pristine.contents(DB).unwrap();
    let in_use = contents.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let mend_one = |(page, _): (usize, _)| {
        let disk = pristine.cut_at(pristine.op_count(), page as u64);
        disk.flip_byte(DB, page as u64 * 4096 + 2048);
        if is_copy {
            // The number of pages in the file's head: nothing is known of a file with such a head.
            disk.flip_byte(DB, 30);
        }
        let report = mend(&disk, config, true);
        (page as u64, report, right(&disk, config, files, "lost+found"))
    };
    in_use.map(mend_one).collect()
}

#[test]
fn a_damaged_page_costs_what_is_in_it_and_nothing_behind_it() {
    let _all = protected();
    for (with_backup, is_copy) in [(false, false), (true, false), (false, true)] {
        let (mut none, mut leaves, mut more) = (0, 0, Vec::new());
        for (page, report, right) in each_page(&large(with_backup), is_copy) {
            match FILES as usize - right {
                0 => none += 1,
                lost if lost <= LEAF => {
                    assert!(report.lost_something(), "page {page}: {report:?}");
                    leaves += 1;
                }
                lost => {
                    assert!(!with_backup || right >= BACKED_UP as usize, "page {page}: {report:?}");
                    more.push((page, lost, report.database));
                }
            }
        }
        println!(
            "backup: {with_backup}, copy: {is_copy}; pages that cost nothing: {none}, a leaf: {leaves}, more: {more:?}"
        );
        assert!(none > 20 && leaves > 10, "{none} cost nothing, {leaves} a leaf");
        // The engine's own pages, and those above all others of the names or of the extents.
        assert!(more.len() <= 9, "{more:?}");
    }
}

/// A block of a pack that the host cannot read costs the chunks in it, and the report says that it may come back.
#[test]
fn a_pack_that_the_host_cannot_read_everywhere_is_named_and_the_rest_is_found() {
    let _all = protected();
    let (pristine, config, files) = store();
    let name =
        pristine.files().into_iter().map(|(name, _)| name).find(|name| name.ends_with(".pack")).unwrap();
    let len = pristine.contents(&name).unwrap().len() as u64;
    for bad in [0, len / 2, len - 1] {
        let disk = pristine.cut_at(pristine.op_count(), 1);
        media(&disk).remove(DB).unwrap();
        let of = name.clone();
        disk.set_fault(Box::new(move |op| {
            let here = op.path == of && op.offset <= bad && bad < op.offset + op.len;
            (here && op.kind == OpKind::Read).then_some(libc::EIO)
        }));
        let report = mend(&disk, &config, true);
        disk.clear_faults();
        let found = right(&disk, &config, &files, "lost+found");
        assert!(found * 2 > files.len(), "byte {bad}: {found} of {} files, {report:?}", files.len());
        if report.unread_parts > 0 {
            assert!(
                report.damaged_packs.named[0].starts_with(&name) && report.lost_something(),
                "{report:?}"
            );
        }
        assert!(bad == len / 2 || report.unread_parts > 0, "byte {bad}: {report:?}");
    }
}

/// Only ctime tells that a file changed whose mtime was set back: extents of the backup are not its bytes any more.
#[test]
fn old_extents_are_not_taken_for_a_file_whose_mtime_was_set_back() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let (before, after) = (random::content(1, 30_000), random::content(2, 30_000));
    let ino = world.save("f", &before);
    world.save("same", &before);
    world.fs.sync().unwrap();
    world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
    let mtime = Some(SetTime::At(world.fs.getattr(ino).unwrap().mtime));
    world.fs.write(ino, 0, &after, false).unwrap();
    world.fs.setattr(ino, CALLER, &SetAttr { mtime, ..SetAttr::default() }).unwrap();
    world.close().unwrap();
    for number in list_backups(media(&disk).as_ref()).unwrap().into_iter().filter(|number| *number > 1) {
        media(&disk).remove(&format!("meta-backups/{number:08}.cmb")).unwrap();
    }
    let files = Files::from([("f".to_owned(), after), ("same".to_owned(), before)]);
    let mut gaps = 0;
    for page in 0..disk.contents(DB).unwrap().len() as u64 / 4096 {
        let disk = disk.cut_at(disk.op_count(), page);
        disk.flip_byte(DB, page * 4096 + 2048);
        if mend(&disk, &config, false).tables_with_gaps == ["extents"] {
            gaps += 1;
            let report = mend(&disk, &config, true);
            assert_eq!(right(&disk, &config, &files, "lost+found"), 1, "{report:?}");
            assert_eq!(
                report.hurt_files.named,
                ["f"],
                "the extents of the other one are those of the backup"
            );
        }
    }
    assert_eq!(gaps, 1);
}

#[test]
fn a_store_without_anything_needs_no_repair() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let report = mend(&disk, &config, true);
    assert!(!report.is_needed() && !report.done && !report.lost_something(), "{report:?}");
    // With a pack it is not a new one.
    media(&disk).mkdir("packs").unwrap();
    media(&disk).mkdir(&PackId(1).dir()).unwrap();
    media(&disk).create(&PackId(1).path()).unwrap();
    assert!(mend(&disk, &config, false).is_needed());
}

/// A pack that cannot even be opened does not stop the repair; its chunks keep their rows and are known to be bad.
#[test]
fn a_pack_that_cannot_be_opened_is_named_and_the_others_are_found() {
    let _all = protected();
    let (disk, config, files) = store();
    let packs = disk.files().into_iter().filter(|(name, _)| name.ends_with(".pack"));
    let name = packs.max_by_key(|(_, len)| *len).unwrap().0;
    let of = name.clone();
    disk.set_fault(Box::new(move |op| (op.path == of && op.kind == OpKind::Open).then_some(libc::EIO)));
    let report = mend(&disk, &config, false);
    disk.clear_faults();
    assert_eq!((report.damaged_packs.total, report.unread_parts), (1, 1), "{report:?}");
    assert!(report.damaged_packs.named[0].starts_with(&name), "{report:?}");
    assert!(report.chunks_missing > 0 && report.lost_something(), "{report:?}");
    // With the disk in order again nothing was lost, for nothing was done.
    assert!(!mend(&disk, &config, true).is_needed());
    assert_eq!(right(&disk, &config, &files, "lost+found"), files.len());
}
