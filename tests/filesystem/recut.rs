//! A small change that somebody waits for is stored alone, and cut together with what is around it later.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use cairnfs::fs::{ROOT_INO, SetAttr};
use cairnfs::media::sim::{Op, OpKind};
use cairnfs::meta::rows::{Extent, Piece, extent_key};
use cairnfs::meta::{Counter, Table};
use cairnfs::sabotage::Protection;

use crate::random::content;
use crate::world::{CALLER, SMALL_CACHE, World, config, new_disk, protected, without};

fn open() -> World {
    World::open(&new_disk(), &config()).unwrap()
}

fn pieces(world: &World, ino: u64) -> Vec<Piece> {
    let (from, to) = (extent_key(ino, 0), extent_key(ino, u64::MAX));
    let mut found = Vec::new();
    let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
    let note = |key: &[u8], row: &[u8]| {
        let offset = u64::from_be_bytes(key[8..].try_into().unwrap());
        found.extend(Extent::decode(offset, row)?.pieces());
        Ok(true)
    };
    world.store.layers().scan(Table::Extents, range.0, range.1, note).unwrap();
    found
}

fn is_whole(piece: &Piece) -> bool {
    piece.len == piece.chunk_len
}

fn plain_bytes(world: &World) -> u64 {
    world.store.commits.counter(Counter::PlainBytes)
}

/// Writes and waits; bytes that this stored.
fn patch(world: &World, ino: u64, bytes: &mut Vec<u8>, at: usize, new: &[u8]) -> u64 {
    let before = plain_bytes(world);
    bytes.resize(bytes.len().max(at + new.len()), 0);
    bytes[at..at + new.len()].copy_from_slice(new);
    world.fs.write(ino, at as u64, new, false).unwrap();
    world.fs.fsync(ino).unwrap();
    assert!(world.read(ino).unwrap() == *bytes);
    plain_bytes(world) - before
}

/// A file of 200 KB that is stored.
fn stored(world: &World) -> (u64, Vec<u8>) {
    let bytes = content(1, 200_000);
    let ino = world.save("file", &bytes);
    world.fs.sync().unwrap();
    (ino, bytes)
}

/// As the timer does, twice: until then the file was left alone.
fn leave_alone(world: &World) {
    world.fs.sync().unwrap();
    world.fs.sync().unwrap();
}

/// Pieces of a new file with these bytes, which was written as a whole.
fn of_a_twin(world: &World, bytes: &[u8]) -> Vec<Piece> {
    let ino = world.save("twin", bytes);
    world.fs.sync().unwrap();
    pieces(world, ino)
}

#[test]
fn a_small_change_is_stored_alone_and_cut_again_once_the_file_is_left_alone() {
    let _all = protected();
    let world = open();
    let (ino, mut bytes) = stored(&world);
    let before = pieces(&world, ino);
    let mut stored = 0;
    for number in 0..8 {
        stored += patch(&world, ino, &mut bytes, 5_000 + 24_000 * number, &content(100 + number as u64, 300));
    }
    assert!((8 * 300..8 * 300 + 4_000).contains(&stored), "{stored} bytes were stored");
    assert!(!pieces(&world, ino).iter().all(is_whole), "there are patches");
    let times = |world: &World| {
        let attr = world.fs.getattr(ino).unwrap();
        (attr.mtime, attr.ctime, attr.size, attr.blocks)
    };
    let then = times(&world);
    world.fs.sync().unwrap();
    assert!(!pieces(&world, ino).iter().all(is_whole), "it was patched a moment ago");
    world.fs.sync().unwrap();
    let after = pieces(&world, ino);
    assert!(after.iter().all(is_whole), "{after:?}");
    assert!(after.len() <= before.len() + 8, "{} chunks, {} before", after.len(), before.len());
    assert!(world.read(ino).unwrap() == bytes);
    assert_eq!(times(&world), then);
    // A backup of it finds nearly all of it.
    let before = plain_bytes(&world);
    of_a_twin(&world, &bytes);
    assert!(plain_bytes(&world) - before < 30_000, "{} bytes are new", plain_bytes(&world) - before);
    world.collector.run_cycle(false).unwrap();
    assert!(world.check().is_clean());
    world.close().unwrap();
}

#[test]
fn a_log_that_grows_by_lines_is_cut_as_a_whole_in_the_end() {
    let _all = protected();
    let world = open();
    let (ino, mut bytes) = stored(&world);
    let mut stored = 0;
    for number in 0..100 {
        let (at, line) = (bytes.len(), content(200 + number, 150));
        stored += patch(&world, ino, &mut bytes, at, &line);
    }
    // Cut anew each time, these would be some 200,000.
    assert!(stored < 100 * 150 * 5, "{stored} bytes were stored");
    leave_alone(&world);
    assert_eq!(pieces(&world, ino), of_a_twin(&world, &bytes));
    world.close().unwrap();
}

#[test]
fn what_is_written_as_a_whole_is_never_patched() {
    let _all = protected();
    let world = open();
    let bytes = content(1, 120_000);
    let ino = world.save("file", &bytes);
    world.fs.fsync(ino).unwrap();
    let whole = pieces(&world, ino);
    assert!(whole.iter().all(is_whole));
    let again = world.save("again", &bytes);
    world.fs.fsync(again).unwrap();
    assert_eq!(pieces(&world, again), whole);
    // As a copy that is written out in the middle.
    let slow = world.save("slow", &bytes[..70_001]);
    world.fs.sync().unwrap();
    world.fs.write(slow, 70_001, &bytes[70_001..], false).unwrap();
    world.fs.fsync(slow).unwrap();
    assert_eq!(pieces(&world, slow), whole);
    world.close().unwrap();
}

/// The end of a mount recuts; a kill leaves patches, which can be read and are no damage.
#[test]
fn patches_survive_a_kill_and_not_an_unmount() {
    let _all = protected();
    for kill in [true, false] {
        let disk = new_disk();
        let world = World::open(&disk, &config()).unwrap();
        let (ino, mut bytes) = stored(&world);
        patch(&world, ino, &mut bytes, 100_000, &content(3, 500));
        let (disk, world) = if kill {
            (disk.cut_at(disk.op_count(), 1), world)
        } else {
            world.close().unwrap();
            (disk, open())
        };
        let again = World::open(&disk, &config()).unwrap();
        assert_eq!(pieces(&again, ino).iter().all(is_whole), !kill);
        assert!(again.read(ino).unwrap() == bytes && again.check().is_clean());
        again.close().unwrap();
        world.close().unwrap();
    }
}

#[test]
fn holes_around_a_patch_stay_holes() {
    let _all = protected();
    let world = open();
    let (ino, mut bytes) = stored(&world);
    patch(&world, ino, &mut bytes, 60_000, &content(3, 200));
    patch(&world, ino, &mut bytes, 61_000, &content(4, 200));
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    world.fs.fallocate(ino, 60_100, 1_000, mode).unwrap();
    bytes[60_100..61_100].fill(0);
    let blocks = world.fs.getattr(ino).unwrap().blocks;
    leave_alone(&world);
    assert!(world.read(ino).unwrap() == bytes);
    assert_eq!(world.fs.getattr(ino).unwrap().blocks, blocks);
    assert_eq!(world.fs.lseek(ino, 60_050, libc::SEEK_HOLE).unwrap(), 60_100);
    world.close().unwrap();
}

#[test]
fn a_file_that_became_shorter_or_went_is_not_recut() {
    let _all = protected();
    let world = open();
    let (ino, mut bytes) = stored(&world);
    patch(&world, ino, &mut bytes, 150_000, &content(3, 200));
    world.fs.setattr(ino, CALLER, &SetAttr { size: Some(150_100), ..SetAttr::default() }).unwrap();
    bytes.truncate(150_100);
    leave_alone(&world);
    assert!(world.read(ino).unwrap() == bytes);
    patch(&world, ino, &mut bytes, 50_000, &content(4, 200));
    world.remove(ROOT_INO, "file");
    leave_alone(&world);
    assert!(world.fs.getattr(ino).is_err() && world.check().is_clean());
    world.close().unwrap();
}

/// While the range is read for a recut, somebody changes it. True if the change is still there afterwards.
fn changed_under_a_recut() -> bool {
    let disk = new_disk();
    let world = World::with(&disk, &config(), SMALL_CACHE).unwrap();
    let (ino, mut bytes) = stored(&world);
    patch(&world, ino, &mut bytes, 100_000, &content(3, 500));
    world.fs.sync().unwrap();
    let (fs, done) = (world.fs.clone(), AtomicBool::new(false));
    disk.set_fault(Box::new(move |op: &Op| {
        let reads = op.kind == OpKind::Read && op.path.starts_with("packs/");
        if reads && !done.swap(true, Ordering::SeqCst) {
            fs.write(ino, 100_100, &[7; 100], false).unwrap();
            fs.fdatasync(ino).unwrap();
        }
        None
    }));
    world.fs.sync().unwrap();
    disk.clear_faults();
    bytes[100_100..100_200].fill(7);
    let there = world.read(ino).unwrap() == bytes;
    world.close().unwrap();
    there
}

#[test]
fn what_is_changed_under_a_recut_stays_changed() {
    {
        let _all = protected();
        assert!(changed_under_a_recut());
    }
    let _out = without(&[Protection::RecutLooksAgain]);
    assert!(!changed_under_a_recut(), "the change came between the reading and the end");
}
