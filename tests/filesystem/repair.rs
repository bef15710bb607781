//! Repair: the metadata database is deleted, cut off, overwritten, and packs are removed; what can be rebuilt is, what is
//! lost is said, and no byte is ever another.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairnfs::check::repair::{Database, RepairReport, repair};
use cairnfs::fs::ROOT_INO;
use cairnfs::media::Media;
use cairnfs::media::sim::SimMedia;
use cairnfs::pack::{Codec, Compression, LocalPacks, PackReader, PackStore};
use cairnfs::store::{StoreConfig, list_backups};

use crate::random::{self, seeds};
use crate::world::{CALLER, World, config, new_disk, protected};

pub const DB: &str = "meta/cairnfs.redb";

pub type Files = BTreeMap<String, Vec<u8>>;

pub fn media(disk: &SimMedia) -> Arc<dyn Media> {
    Arc::new(disk.clone())
}

/// The packs on a disk.
pub fn packs(disk: &SimMedia) -> Arc<dyn PackStore> {
    Arc::new(LocalPacks::new(media(disk), 16))
}

/// Reads them.
pub fn reader(disk: &SimMedia) -> PackReader {
    PackReader::new(packs(disk), Codec::new(Compression::None))
}

pub fn mend(disk: &SimMedia, config: &StoreConfig, apply: bool) -> RepairReport {
    repair(&media(disk), config, apply).unwrap()
}

pub fn write(world: &World, files: &mut Files, dir: &str, numbers: std::ops::Range<u64>) {
    let parent = world.find(dir).unwrap_or_else(|_| world.mkdir(ROOT_INO, dir));
    for number in numbers {
        let bytes = random::content(5_000 + number, 10_000 + 3_000 * number as usize);
        let ino = world.create(parent, &format!("f{number}"));
        world.fs.write(ino, 0, &bytes, false).unwrap();
        files.insert(format!("{dir}/f{number}"), bytes);
    }
}

fn backup(world: &World) {
    world.fs.sync().unwrap();
    world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
}

/// A store with some history: two backups, a prune, a cycle that moves regions, hard links, a hole, attributes.
pub fn store() -> (SimMedia, StoreConfig, Files) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let mut files = Files::new();
    write(&world, &mut files, "old", 20..24);
    write(&world, &mut files, "s0", 0..12);
    backup(&world);
    write(&world, &mut files, "s1", 0..12);
    let old = world.find("old").unwrap();
    for number in 20..24 {
        world.remove(old, &format!("f{number}"));
        files.remove(&format!("old/f{number}"));
    }
    // Append-only: who is protected is known again afterwards, too.
    world.fs.set_inode_flags(old, CALLER, 0x20).unwrap();
    let ino = world.find("s0/f1").unwrap();
    world.fs.link(ino, ROOT_INO, b"link").unwrap();
    files.insert("link".to_owned(), files["s0/f1"].clone());
    let sparse = world.create(ROOT_INO, "sparse");
    world.fs.write(sparse, 500_000, b"end", false).unwrap();
    files.insert("sparse".to_owned(), [vec![0; 500_000], b"end".to_vec()].concat());
    world.collector.run_cycle(false).unwrap();
    backup(&world);
    world.close().unwrap();
    (disk, config, files)
}

/// Opens the store; how many files are right. None may be wrong, those that are not whole are refused.
pub fn right(disk: &SimMedia, config: &StoreConfig, files: &Files, moved_to: &str) -> usize {
    let world = World::open(disk, config).unwrap();
    let mut right = 0;
    for (name, bytes) in files {
        let found = world.find(name).or_else(|_| world.find(&format!("{moved_to}/{name}")));
        match found.and_then(|ino| world.read(ino)) {
            Ok(found) => {
                assert!(found == *bytes, "{name} has other bytes");
                right += 1;
            }
            Err(error) => assert!(matches!(error.errno(), libc::EIO | libc::ENOENT), "{name}: {error}"),
        }
    }
    world.close().unwrap();
    right
}

pub fn assert_clean(disk: &SimMedia, config: &StoreConfig) {
    let world = World::open(disk, config).unwrap();
    assert_eq!(world.check().findings, []);
    world.collector.run_cycle(false).unwrap();
    assert_eq!(world.check().findings, []);
    world.close().unwrap();
}

#[test]
fn a_sound_store_has_nothing_to_repair() {
    let _all = protected();
    let (disk, config, files) = store();
    let before = disk.contents(DB).unwrap();
    for apply in [false, true] {
        let report = mend(&disk, &config, apply);
        assert!(!report.is_needed() && !report.done, "{report:?}");
    }
    assert!(disk.contents(DB).unwrap() == before, "the database was not touched");
    assert!(!media(&disk).exists("meta/cairnfs.redb.new").unwrap());
    assert_eq!(right(&disk, &config, &files, "lost+found"), files.len());
}

#[test]
fn a_lost_database_is_rebuilt_from_the_backup_and_the_packs() {
    let _all = protected();
    let (disk, config, files) = store();
    assert_eq!(list_backups(media(&disk).as_ref()).unwrap(), [2, 1]);
    media(&disk).remove(DB).unwrap();
    // A store without its database must not be taken for a new one.
    let refused = World::open(&disk, &config).err().expect("it is refused").to_string();
    assert!(refused.contains("cairnfs repair"), "{refused}");

    let would = mend(&disk, &config, false);
    assert!(would.is_needed() && !would.done && would.database == Database::Missing, "{would:?}");
    assert!(!media(&disk).exists(DB).unwrap(), "nothing was changed");
    let report = mend(&disk, &config, true);
    assert_eq!(report, RepairReport { done: true, kept_aside: None, ..would });
    assert!(!report.lost_something(), "{report:?}");
    assert_eq!(right(&disk, &config, &files, "lost+found"), files.len());
    assert_clean(&disk, &config);
    assert!(!mend(&disk, &config, true).is_needed());
    assert_eq!(right(&disk, &config, &files, "lost+found"), files.len());

    // New files get numbers that nobody had.
    let world = World::open(&disk, &config).unwrap();
    let mut more = files.clone();
    write(&world, &mut more, "s2", 0..14);
    world.close().unwrap();
    assert_eq!(right(&disk, &config, &more, "lost+found"), more.len());
    assert_clean(&disk, &config);
}

#[test]
fn what_came_after_the_backup_is_lost_with_the_database_and_nothing_else() {
    let _all = protected();
    let (disk, config, mut files) = store();
    let kept = files.clone();
    let world = World::open(&disk, &config).unwrap();
    write(&world, &mut files, "s9", 30..34);
    // The backup still names what is pruned now; a cycle frees it.
    let s0 = world.find("s0").unwrap();
    for number in 0..12 {
        world.remove(s0, &format!("f{number}"));
        files.remove(&format!("s0/f{number}"));
    }
    world.collector.run_cycle(false).unwrap();
    world.close().unwrap();
    media(&disk).remove(DB).unwrap();
    // An old backup that is damaged does no harm, nor does a newer one: the one before it is used.
    let report = mend(&disk, &config, true);
    assert!(report.done, "{report:?}");
    let found = right(&disk, &config, &kept, "lost+found");
    assert_eq!(found, kept.len(), "s0 comes back: s1 has the same chunks");
    assert_clean(&disk, &config);

    let newest = list_backups(media(&disk).as_ref()).unwrap()[0];
    disk.flip_byte(&format!("meta-backups/{newest:08}.cmb"), 200);
    media(&disk).remove(DB).unwrap();
    let report = mend(&disk, &config, true);
    assert_eq!(report.damaged_backups.len(), 1, "{report:?}");
    assert!(report.done);
    assert!(right(&disk, &config, &kept, "lost+found") >= 12, "{report:?}");
    assert!(report.hurt_files.named.iter().all(|name| name.starts_with("old/")), "{report:?}");
}

/// What the backups are for: without them the same repair has no name to give back, and says so.
#[test]
fn without_a_backup_a_lost_database_costs_every_name() {
    let _all = protected();
    let (disk, config, files) = store();
    for number in list_backups(media(&disk).as_ref()).unwrap() {
        media(&disk).remove(&format!("meta-backups/{number:08}.cmb")).unwrap();
    }
    media(&disk).remove(DB).unwrap();
    let report = mend(&disk, &config, true);
    assert!(report.done && report.lost_something() && report.chunks > 0, "{report:?}");
    assert_eq!(right(&disk, &config, &files, "lost+found"), 0);
    // The chunks are there: what is written again costs nothing but its names.
    let world = World::open(&disk, &config).unwrap();
    let (chunks, mut again) = (world.store.status().unwrap().chunks, Files::new());
    write(&world, &mut again, "s0", 0..12);
    world.fs.sync().unwrap();
    assert_eq!(world.store.status().unwrap().chunks, chunks);
    world.close().unwrap();
    assert_eq!(right(&disk, &config, &again, ""), again.len());
    assert_clean(&disk, &config);
}

#[test]
fn files_of_a_lost_pack_are_moved_and_heal() {
    let _all = protected();
    let (disk, config, files) = store();
    let pack = disk.files().into_iter().filter(|(name, _)| name.ends_with(".pack")).max_by_key(|file| file.1);
    media(&disk).remove(&pack.unwrap().0).unwrap();
    let report = mend(&disk, &config, true);
    assert!(report.done && report.chunks_missing > 0, "{report:?}");
    assert_eq!(report.lost_found.as_deref(), Some("lost+found"));
    let sound = right(&disk, &config, &files, "lost+found");
    assert_eq!(sound + report.hurt_files.total as usize, files.len(), "{report:?}");

    let world = World::open(&disk, &config).unwrap();
    // What is left of a hurt file can be read, the rest is refused.
    let hurt: Vec<&String> = report.hurt_files.named.iter().collect();
    let ino = world.find(&format!("lost+found/{}", hurt[0])).unwrap();
    assert!(world.read(ino).is_err());
    let found = world.check();
    assert!(!found.is_clean());
    let named = found.findings.iter().flat_map(|finding| &finding.files);
    assert!(named.clone().all(|file| file.starts_with("lost+found/")), "{:?}", found.findings);
    world.close().unwrap();
    let again = mend(&disk, &config, true);
    assert!(!again.is_needed() && again.lost_something(), "{again:?}");

    let world = World::open(&disk, &config).unwrap();
    let mut anew = Files::new();
    write(&world, &mut anew, "anew", 0..12);
    world.fs.sync().unwrap();
    world.close().unwrap();
    let whole = right(&disk, &config, &files, "lost+found");
    assert!(whole >= files.len() - 1, "{whole} of {}: their content was written again", files.len());
}

/// Whatever happens to the database, nothing reads wrong afterwards, and what the report does not name is right.
#[test]
fn any_damage_to_the_database_is_repaired_without_a_wrong_byte() {
    let _all = protected();
    let (pristine, config, files) = store();
    let len = pristine.contents(DB).unwrap().len() as u64;
    let seeds = seeds("repair", 500, 24);
    let (mut whole, all) = (0, seeds.len());
    for seed in seeds {
        let disk = pristine.cut_at(pristine.op_count(), seed);
        let mut numbers = random::Random::new(seed);
        let file = media(&disk).open(DB, true).unwrap();
        match seed % 3 {
            0 => file.set_len(numbers.below(len)).unwrap(),
            1 => (0..=numbers.below(40)).for_each(|_| disk.flip_byte(DB, numbers.below(len))),
            _ => {
                let junk = random::content(seed, 4096 * (1 + numbers.below(8) as usize));
                file.write_at(&junk, numbers.below(len / 4096) * 4096).unwrap();
            }
        }
        drop(file);
        let report = mend(&disk, &config, true);
        let moved = report.hurt_files.total + report.nameless.total + report.names_lost.total;
        let found = right(&disk, &config, &files, "lost+found");
        assert!(found as u64 + moved >= files.len() as u64, "seed {seed}: {found} right, {report:?}");
        whole += u64::from(found == files.len());
        if !report.lost_something() {
            assert_clean(&disk, &config);
        }
    }
    println!("{whole} of {all} stores came back whole");
    assert!(whole >= 20, "with a backup of the last moment nearly everything is saved");
}

/// One page after the other, also those that no row needs: of some, only the engine's own work is in the way.
#[test]
fn any_damaged_page_of_the_database_is_repaired_without_a_wrong_byte() {
    let _all = protected();
    let (pristine, config, files) = store();
    let contents = pristine.contents(DB).unwrap();
    let in_use = contents.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let (mut pages, mut hurt) = (0, 0);
    for (page, bytes) in in_use {
        let disk = pristine.cut_at(pristine.op_count(), page as u64);
        let file = media(&disk).open(DB, true).unwrap();
        file.write_at(&bytes.iter().map(|byte| !byte).collect::<Vec<_>>(), page as u64 * 4096).unwrap();
        drop(file);
        let report = mend(&disk, &config, true);
        assert_eq!(right(&disk, &config, &files, "lost+found"), files.len(), "page {page}: {report:?}");
        assert_clean(&disk, &config);
        pages += 1;
        hurt += usize::from(report.database != Database::Whole);
    }
    println!("{hurt} of {pages} pages mattered");
    assert!(hurt > 10 && hurt < pages, "{hurt} of {pages} pages mattered");
}
