//! Class 10: counting in one way on the way in and in another on the way out.
//!
//! cairnfs counts no references; a mark finds them. So whatever refers to a chunk twice, in part, or through others
//! keeps it, and nothing of it stays when the last is gone.

use cairnfs::fs::{ROOT_INO, SetAttr};
use cairnfs::meta::Counter;
use cairnfs::sabotage::Protection;

use crate::random;
use crate::world::{CALLER, World, config, new_disk, protected, without};

/// Longer than a chunk can be, so that it is cut the same wherever it stands for long enough.
const LEN: usize = 100_000;

struct File {
    name: &'static str,
    bytes: Vec<u8>,
}

fn cut_off(world: &World, ino: u64, size: u64) {
    world.fs.setattr(ino, CALLER, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
}

/// Files that refer to the same chunks, each in its own way.
fn fill(world: &World) -> Vec<File> {
    let one = random::content(1, LEN);
    let mut files = Vec::new();
    let mut add = |name, bytes: &[u8]| {
        files.push(File { name, bytes: bytes.to_vec() });
    };
    let base = world.create(ROOT_INO, "base");
    world.fs.write(base, 0, &one, false).unwrap();
    add("base", &one);
    // The same chunks several times in one file.
    let twice = [&one[..], &one, &one].concat();
    let ino = world.create(ROOT_INO, "thrice");
    world.fs.write(ino, 0, &twice, false).unwrap();
    add("thrice", &twice);
    world.fs.sync().unwrap();
    // Cut off inside a chunk, at both ends of a clone.
    let ino = world.create(ROOT_INO, "inside");
    world.fs.copy_file_range(base, 1_234, ino, 0, 50_000).unwrap();
    cut_off(world, ino, 33_333);
    add("inside", &one[1_234..1_234 + 33_333]);
    // A clone of a clone of a clone, and one that stands in itself again.
    let (mut from, names) = (base, ["clone1", "clone2", "clone3"]);
    for name in names {
        let to = world.create(ROOT_INO, name);
        world.fs.copy_file_range(from, 0, to, 0, LEN as u64).unwrap();
        add(name, &one);
        from = to;
    }
    let ino = world.create(ROOT_INO, "itself");
    world.fs.copy_file_range(base, 0, ino, 0, 40_000).unwrap();
    world.fs.copy_file_range(ino, 5_000, ino, 50_000, 20_000).unwrap();
    let mut bytes = one[..40_000].to_vec();
    bytes.resize(50_000, 0);
    bytes.extend_from_slice(&one[5_000..25_000]);
    add("itself", &bytes);
    // Other names of one inode.
    world.fs.link(base, ROOT_INO, b"link1").unwrap();
    world.fs.link(base, ROOT_INO, b"link2").unwrap();
    add("link1", &one);
    add("link2", &one);
    world.fs.sync().unwrap();
    files
}

fn assert_whole(world: &World, files: &[File], when: &str) {
    for file in files {
        let found = world.find(file.name).and_then(|ino| world.read(ino));
        assert!(found.is_ok_and(|bytes| bytes == file.bytes), "{when}: {} is not what it was", file.name);
    }
    let report = world.check();
    assert!(report.is_clean(), "{when}: {:?}", report.findings);
}

#[test]
fn class_10_each_way_of_sharing_keeps_what_it_shares_and_no_more() {
    let _all = protected();
    // Each file is the last one once.
    let count = fill(&World::open(&new_disk(), &config()).unwrap()).len();
    for last in 0..count {
        let disk = new_disk();
        let world = World::open(&disk, &config()).unwrap();
        let mut files = fill(&world);
        assert_whole(&world, &files, "at first");
        files.rotate_left(last);
        while let Some(gone) = files.pop() {
            world.remove(ROOT_INO, gone.name);
            let record = world.collector.run_cycle(false).unwrap();
            assert_whole(&world, &files, &format!("without {}: {record:?}", gone.name));
        }
        world.collector.run_cycle(false).unwrap();
        for counter in [Counter::Chunks, Counter::PlainBytes, Counter::StoredBytes, Counter::ReferencedBytes]
        {
            assert_eq!(world.store.commits.counter(counter), 0, "{counter:?} after everything is gone");
        }
        assert_eq!(world.store.commits.counter(Counter::Inodes), 1, "the root");
        world.close().unwrap();
    }
}

#[test]
fn class_10_a_chunk_cut_off_by_every_name_but_one_stays() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let files = fill(&world);
    for file in &files {
        if !["clone3", "inside"].contains(&file.name) {
            let ino = world.find(file.name).unwrap();
            for size in [file.bytes.len() as u64 / 2, 4_097, 1, 0] {
                cut_off(&world, ino, size);
            }
        }
    }
    world.fs.sync().unwrap();
    for round in 0..2 {
        world.collector.run_cycle(false).unwrap();
        let kept: Vec<File> = fill_kept(&files);
        assert_whole(&world, &kept, &format!("round {round}"));
    }
    world.close().unwrap();
}

fn fill_kept(files: &[File]) -> Vec<File> {
    let kept = files.iter().filter(|file| ["clone3", "inside"].contains(&file.name));
    kept.map(|file| File { name: file.name, bytes: file.bytes.clone() }).collect()
}

#[test]
fn a_sum_that_is_wrong_is_noticed() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    fill(&world);
    for counter in [Counter::Chunks, Counter::PlainBytes, Counter::StoredBytes, Counter::ReferencedBytes] {
        for more in [1, -1] {
            let add = |more: i64| {
                let change = world.store.commits.rewrite(true, |_, sums| {
                    sums[counter as usize] += more;
                    Ok(())
                });
                change.unwrap();
            };
            add(more);
            assert!(!world.check().is_clean(), "{counter:?} is {more} off");
            add(-more);
        }
    }
    assert!(world.check().is_clean());
    world.close().unwrap();
}

/// A chunk that only an orphan refers to is not counted on behalf of anybody: without the mark of orphans it goes.
#[test]
fn without_marking_orphans_a_shared_chunk_is_noticed_as_lost() {
    let _out = without(&[Protection::MarkOrphans]);
    let world = World::open(&new_disk(), &config()).unwrap();
    let files = fill(&world);
    let open = world.fs.lookup(ROOT_INO, b"thrice").unwrap().ino;
    for file in &files {
        let ino = world.find(file.name).unwrap();
        world.fs.unlink(ROOT_INO, file.name.as_bytes()).unwrap();
        if ino != open {
            world.fs.forget(ino, u64::MAX);
        }
    }
    world.collector.run_cycle(false).unwrap();
    let found = world.read(open);
    assert!(found.is_err(), "the file is open and its chunks are gone");
    let _ = world.close();
}
