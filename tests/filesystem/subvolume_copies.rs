//! The tree of versions and the rows of subvolumes: each is there twice, one copy is enough, and what no subvolume needs
//! any more goes.

use cairnfs::check::repair::repair;
use cairnfs::fs::ROOT_INO;
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::{Sums, Table, Txn};

use crate::random;
use crate::repair::media;
use crate::world::{World, config, new_disk, protected};

const TABLES: [Table; 2] = [Table::Versions, Table::Subvolumes];

/// A store in which one file differs in a subvolume, in its clone, and in nothing else; and their numbers.
fn store() -> (SimMedia, [u64; 2]) {
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let source = world.clone_dir(plain, "source").unwrap();
    let file = world.save_in(source, "file", b"of both");
    world.fs.sync().unwrap();
    let clone = world.clone_dir(source, "clone").unwrap();
    let cloned = world.fs.lookup(clone, b"file").unwrap().ino;
    world.fs.write(cloned, 3, b"one", false).unwrap();
    world.close().unwrap();
    (disk, [file, cloned])
}

/// Makes nonsense of all rows of these copies.
fn damage(disk: &SimMedia, table: Table, copies: &[u8]) {
    let world = World::open(disk, &config()).unwrap();
    let overwrite = |txn: &mut Txn<'_>, _: &mut Sums| {
        for &copy in copies {
            let rows = txn.rows(table, &[copy], &[copy + 1], usize::MAX)?;
            assert!(rows.len() > 1, "{rows:?}");
            rows.iter().for_each(|(key, _)| txn.put(table, key, b"?"));
        }
        Ok(())
    };
    world.store.commits.rewrite(true, overwrite).unwrap();
    world.close().unwrap();
}

#[test]
fn one_damaged_copy_is_read_around_reported_and_repaired() {
    let _all = protected();
    for table in TABLES {
        for copy in [0, 1] {
            let (disk, [file, cloned]) = store();
            damage(&disk, table, &[copy]);
            let world = World::open(&disk, &config()).unwrap();
            world.reap_subvolumes();
            assert_eq!(world.read(file).unwrap(), b"of both", "copy {copy} of {}", table.name());
            assert_eq!(world.read(cloned).unwrap(), b"of oneh", "copy {copy} of {}", table.name());
            let report = world.check();
            let says = format!("of the table {}", table.name());
            let found = report.findings.iter().any(|finding| finding.what.contains(&says));
            assert!(found, "{says}: {report:?}");
            world.close().unwrap();

            repair(&media(&disk), &config(), true).unwrap();
            let world = World::open(&disk, &config()).unwrap();
            assert_eq!(world.read(file).unwrap(), b"of both");
            assert_eq!(world.read(cloned).unwrap(), b"of oneh");
            let report = world.check();
            assert!(report.is_clean(), "copy {copy} of {}: {report:?}", table.name());
            world.close().unwrap();
        }
    }
}

#[test]
fn without_a_whole_copy_a_store_does_not_open() {
    let _all = protected();
    for table in TABLES {
        let (disk, _) = store();
        damage(&disk, table, &[0, 1]);
        assert!(World::open(&disk, &config()).is_err(), "{}", table.name());
    }
}

#[test]
fn versions_that_nothing_stands_at_go_with_the_clones_that_needed_them() {
    let _all = protected();
    const CLONES: usize = 12;
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let source = world.clone_dir(plain, "source").unwrap();
    world.save_in(source, "unchanged", b"unchanged");
    let file = world.save_in(source, "file", b"first");
    let mut clones = Vec::new();
    for number in 0..CLONES {
        let name = format!("clone{number}");
        clones.push((world.clone_dir(source, &name).unwrap(), name));
        world.fs.write(file, 0, &random::content(number as u64, 3_000), false).unwrap();
        world.fs.sync().unwrap();
    }
    let versions = || world.store.layers().subvolumes.tree.upwards().len();
    assert_eq!((world.rows(Table::Versions), versions()), (2 * (2 * CLONES + 1), 2 * CLONES + 1));
    for (root, name) in clones {
        world.drop_subvolume(root, &name).unwrap();
        world.reap_subvolumes();
    }
    // One has what never changed, and one what was written last.
    assert_eq!((world.rows(Table::Versions), versions()), (4, 2));
    assert_eq!(world.read(file).unwrap(), random::content(CLONES as u64 - 1, 3_000));
    let report = world.check();
    assert!(report.is_clean(), "{report:?}");
    world.close().unwrap();
    let world = World::open(&disk, &config()).unwrap();
    assert_eq!(world.read(file).unwrap(), random::content(CLONES as u64 - 1, 3_000));
    world.close().unwrap();
}
