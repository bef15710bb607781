//! What was deleted is a reason for a cycle until a cycle has found it, whatever happens in between.

use cairnfs::fs::ROOT_INO;
use cairnfs::gc::Point;
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::rows::{extent_key, id_key};
use cairnfs::meta::{Counter, Table};

use std::ops::Bound;
use std::sync::Arc;

use crate::random;
use crate::world::{WAYS_TO_GO, World, config, new_disk, protected};

const LEN: usize = 200_000;

fn deleted(world: &World) -> u64 {
    world.store.commits.counter(Counter::Deleted)
}

/// A store in which a file of [`LEN`] bytes was written and removed.
fn store_with_garbage() -> SimMedia {
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    for (name, kind) in [("f", 1), ("stays", 2)] {
        world.save(name, &random::content(kind, LEN));
    }
    world.fs.sync().unwrap();
    assert_eq!(deleted(&world), 0);
    world.remove(ROOT_INO, "f");
    world.fs.drain_orphans().unwrap();
    assert_eq!(deleted(&world), LEN as u64);
    world.close().unwrap();
    disk
}

#[test]
fn what_was_deleted_counts_after_a_remount_and_until_a_whole_cycle() {
    let _all = protected();
    let disk = store_with_garbage();
    let world = World::open(&disk, &config()).unwrap();
    assert_eq!(deleted(&world), LEN as u64, "before the remount");
    world.collector.run_cycle(true).unwrap();
    assert_eq!(deleted(&world), LEN as u64, "a look is no cycle");
    assert!(world.collector.run_cycle(false).unwrap().condemned > 0);
    assert_eq!(deleted(&world), 0);
    assert!(world.check().is_clean());
    world.close().unwrap();
    let world = World::open(&disk, &config()).unwrap();
    assert_eq!(deleted(&world), 0, "and stays found");
    world.close().unwrap();
}

#[test]
fn it_counts_after_a_cycle_that_was_cut_off_or_failed() {
    let _all = protected();
    for point in Point::ALL {
        let disk = store_with_garbage();
        let world = World::open(&disk, &config()).unwrap();
        let cut = Arc::new(parking_lot::Mutex::new(None));
        let (held, at_point) = (disk.clone(), cut.clone());
        world.collector.set_hook(Some(Arc::new(move |at| {
            if at == point {
                at_point.lock().get_or_insert_with(|| held.cut_at(held.op_count(), 1));
            }
        })));
        world.collector.run_cycle(false).unwrap();
        world.close().unwrap();
        let after_cut = World::open(&cut.lock().take().unwrap(), &config()).unwrap();
        assert_eq!(deleted(&after_cut), LEN as u64, "the power was cut at {point}");
        assert!(after_cut.check().is_clean());
        after_cut.close().unwrap();
    }
    let disk = store_with_garbage();
    let world = World::open(&disk, &config()).unwrap();
    let ino = world.create(ROOT_INO, "g");
    let key = extent_key(ino, 0);
    world
        .store
        .commits
        .rewrite(true, |txn, _| {
            txn.put(Table::Extents, &key, b"\xff\xff");
            Ok(())
        })
        .unwrap();
    assert!(world.collector.run_cycle(false).is_err());
    assert_eq!(deleted(&world), LEN as u64, "the cycle ended before its end");
    world.close().unwrap();
}

/// What the tables have of an inode.
fn rows_of(world: &World, ino: u64) -> usize {
    let (from, to) = (id_key(ino), id_key(ino + 1));
    let mut rows = 0;
    for table in [Table::Inodes, Table::Extents, Table::Xattrs, Table::Orphans] {
        let count = |_: &[u8], _: &[u8]| {
            rows += 1;
            Ok(true)
        };
        world.store.layers().scan(table, Bound::Included(&from), Bound::Excluded(&to), count).unwrap();
    }
    rows
}

#[test]
fn a_small_file_goes_at_once_and_a_large_one_by_the_queue() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    // One chunk, so one extent: chunks of files that are cut side by side can get numbers in turn.
    const LEN: usize = 1_000;
    let immediate_removal_limit = WAYS_TO_GO[0];
    let file = |name: &str, kind: u64, attributes: usize| {
        let ino = world.save(name, &random::content(kind, LEN));
        for number in 0..attributes {
            world.fs.setxattr(ino, format!("user.{number}").as_bytes(), b"value", 0, |_| true).unwrap();
        }
        ino
    };
    let (small, large) =
        (file("small", 1, immediate_removal_limit - 1), file("large", 2, immediate_removal_limit));
    let open = file("open", 3, 0);
    world.fs.sync().unwrap();
    assert_eq!(
        (rows_of(&world, small), rows_of(&world, large)),
        (immediate_removal_limit + 1, immediate_removal_limit + 2)
    );
    let inodes = world.store.commits.counter(Counter::Inodes);
    world.remove(ROOT_INO, "small");
    world.remove(ROOT_INO, "large");
    world.fs.unlink(ROOT_INO, b"open").unwrap();
    assert_eq!(rows_of(&world, small), 0, "before any commit");
    assert_eq!(rows_of(&world, large), immediate_removal_limit + 3);
    assert_eq!(world.store.commits.counter(Counter::Orphans), 2);
    assert_eq!(world.read(open).unwrap(), random::content(3, LEN), "the kernel remembers it");
    // What is in the queue by the time it is forgotten goes at once, too.
    world.fs.sync().unwrap();
    world.fs.forget(open, u64::MAX);
    assert_eq!((rows_of(&world, open), world.store.commits.counter(Counter::Orphans)), (0, 1));
    world.fs.drain_orphans().unwrap();
    assert_eq!((rows_of(&world, large), world.store.commits.counter(Counter::Orphans)), (0, 0));
    assert_eq!(world.store.commits.counter(Counter::Inodes), inodes - 3, "each is counted once");
    assert_eq!(deleted(&world), 3 * LEN as u64);
    assert!(world.check().is_clean());
    world.close().unwrap();
}

#[test]
fn what_is_overwritten_or_cut_off_counts_too() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let ino = world.save("f", &random::content(1, LEN));
    world.fs.sync().unwrap();
    world.fs.write(ino, 0, &random::content(2, LEN), false).unwrap();
    world.fs.sync().unwrap();
    assert_eq!(deleted(&world), LEN as u64);
    world.collector.run_cycle(false).unwrap();
    assert_eq!(deleted(&world), 0);
    world.close().unwrap();
}
