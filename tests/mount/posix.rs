//! What programs rely on: contents of files.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;

use crate::data::noise;
use crate::seed::seeds;
use crate::sys;
use crate::world::{Setup, World, mount_table};

/// A mount that keeps POSIX's rules with the usual chunks.
fn usual_chunks() -> Option<World> {
    World::new(Setup { mkfs: &["--reserve", "1M"], ..Setup::default() })
}

#[test]
fn appending_and_truncating() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    let mut expected = noise(1, 50_000);
    fs::write(&path, &expected).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    for n in 0..50u64 {
        // Where the position is makes no difference to an append.
        file.seek(SeekFrom::Start(n)).unwrap();
        let piece = noise(n, 1_000 + n as usize);
        file.write_all(&piece).unwrap();
        expected.extend_from_slice(&piece);
    }
    assert!(fs::read(&path).unwrap() == expected);
    for len in [expected.len() / 2, 12_345, 1, 0] {
        file.set_len(len as u64).unwrap();
        expected.truncate(len);
        world.sync();
        assert!(fs::read(&path).unwrap() == expected, "cut to {len}");
    }
    drop(file);
    // What was cut off does not come back when the file grows.
    fs::write(&path, noise(2, 100_000)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(10_001).unwrap();
    world.sync();
    file.set_len(90_000).unwrap();
    drop(file);
    let mut expected = noise(2, 10_001);
    expected.resize(90_000, 0);
    assert!(fs::read(&path).unwrap() == expected);
    File::options().write(true).truncate(true).open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    world.remount();
    assert_eq!(fs::read(&path).unwrap(), b"");
    world.close();
}

#[test]
fn random_writes_read_back() {
    for seed in seeds("random writes", 7, 1) {
        write_at_random(seed);
    }
}

fn write_at_random(seed: u64) {
    let Some(world) = usual_chunks() else { return };
    let path = world.mnt.join("file");
    let mut numbers = crate::data::Numbers::new(seed);
    let mut expected = vec![0; 3 << 20];
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(expected.len() as u64).unwrap();
    for n in 0..400 {
        let len = 1 + numbers.below(60_000) as usize;
        let at = numbers.below((expected.len() - len) as u64) as usize;
        let piece = noise(n, len);
        file.write_all_at(&piece, at as u64).unwrap();
        expected[at..at + len].copy_from_slice(&piece);
        match n % 50 {
            10 => file.sync_all().unwrap(),
            20 => drop(world.gc()),
            30 => sys::forget_pages(&file),
            _ => {}
        }
        let (from, to) = (at.saturating_sub(1_000), (at + len + 1_000).min(expected.len()));
        let mut found = vec![0; to - from];
        file.read_exact_at(&mut found, from as u64).unwrap();
        assert!(found == expected[from..to], "after write {n}");
    }
    drop(file);
    world.remount();
    assert!(fs::read(&path).unwrap() == expected);
    world.close();
}

#[test]
fn a_file_without_a_name_keeps_its_data_across_cycles() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    let bytes = noise(3, 2 << 20);
    fs::write(&path, &bytes).unwrap();
    world.sync();
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for round in 0..3 {
        let record = world.gc();
        // What was appended is stored alone, and cut with the last chunk later: that one goes, and each append so far.
        assert!(record["condemned"].as_u64().unwrap() <= round as u64 + 1, "round {round}: {record}");
        sys::forget_pages(&file);
        file.rewind().unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found.starts_with(&bytes) && found.len() == bytes.len() + round * 5, "round {round}");
        file.write_all(b"more\n").unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    world.deletions_done();
    let record = world.gc();
    assert!(record["condemned"].as_u64().unwrap() > 100, "{record}");
    assert_eq!(world.figure("chunks"), 0);
    world.close();
}

#[test]
fn mapped_memory() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    let mut expected = noise(4, 1 << 20);
    fs::write(&path, &expected).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut mapped = sys::Mapped::new(&file, expected.len()).unwrap();
    assert!(*mapped.bytes() == expected[..]);
    let piece = noise(5, 300_000);
    mapped.bytes()[123_456..423_456].copy_from_slice(&piece);
    expected[123_456..423_456].copy_from_slice(&piece);
    mapped.sync().unwrap();
    assert!(fs::read(&path).unwrap() == expected);
    mapped.bytes()[0] ^= 0xff;
    expected[0] ^= 0xff;
    drop(mapped);
    drop(file);
    world.remount();
    assert!(fs::read(&path).unwrap() == expected);
    world.close();
}

#[test]
fn holes() {
    let Some(world) = usual_chunks() else { return };
    let path = world.mnt.join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    const MIB: i64 = 1 << 20;
    let (a, b) = (noise(1, MIB as usize), noise(2, MIB as usize));
    file.write_all_at(&a, MIB as u64).unwrap();
    file.write_all_at(&b, 5 * MIB as u64).unwrap();
    file.set_len(8 * MIB as u64).unwrap();
    let seek = |at, whence| sys::seek(&file, at, whence);
    let none = |found: std::io::Result<i64>| found.unwrap_err().raw_os_error() == Some(libc::ENXIO);
    for round in 0..2 {
        assert_eq!(seek(0, libc::SEEK_DATA).unwrap(), MIB, "round {round}");
        assert_eq!(seek(MIB, libc::SEEK_HOLE).unwrap(), 2 * MIB);
        assert_eq!(seek(2 * MIB, libc::SEEK_DATA).unwrap(), 5 * MIB);
        assert_eq!(seek(5 * MIB + 7, libc::SEEK_HOLE).unwrap(), 6 * MIB);
        assert_eq!(seek(0, libc::SEEK_HOLE).unwrap(), 0);
        assert!(none(seek(6 * MIB, libc::SEEK_DATA)), "only a hole up to the end");
        assert!(none(seek(8 * MIB, libc::SEEK_HOLE)), "beyond the end");
        file.sync_all().unwrap();
    }
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    sys::fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | keep, MIB + 4096, MIB / 2).unwrap();
    let mut expected = vec![0; 8 << 20];
    expected[MIB as usize..2 * MIB as usize].copy_from_slice(&a);
    expected[5 * MIB as usize..6 * MIB as usize].copy_from_slice(&b);
    expected[MIB as usize + 4096..(MIB + 4096 + MIB / 2) as usize].fill(0);
    assert!(fs::read(&path).unwrap() == expected);
    assert_eq!(seek(MIB + 4096, libc::SEEK_DATA).unwrap(), MIB + 4096 + MIB / 2);
    sys::fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 5 * MIB, MIB).unwrap();
    expected[5 * MIB as usize..6 * MIB as usize].fill(0);
    sys::fallocate(&file, 0, 0, 9 * MIB).unwrap();
    expected.resize(9 << 20, 0);
    sys::fallocate(&file, keep, 0, 20 * MIB).unwrap();
    drop(file);
    world.remount();
    assert!(fs::read(&path).unwrap() == expected);
    world.close();
}

#[test]
fn ten_tebibytes_of_nothing_cost_nothing() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("sparse");
    const SIZE: u64 = 10 << 40;
    let before = world.disk_usage();
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"end", SIZE - 3).unwrap();
    file.sync_all().unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), SIZE);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    assert!(world.disk_usage() < before + (1 << 20));
    let mut found = [0; 8];
    file.read_exact_at(&mut found, SIZE - 8).unwrap();
    assert_eq!(&found, b"\0\0\0\0\0end");
    assert!(sys::seek(&file, 1 << 20, libc::SEEK_DATA).unwrap() > SIZE as i64 - (1 << 20));
    drop(file);
    world.remount();
    let mut found = [0; 5];
    File::open(&path).unwrap().read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"begin");
    assert!(mount_table().contains(world.mnt.to_str().unwrap()));
    world.close();
}

#[test]
fn copying_inside_the_mount_moves_no_data() {
    let Some(world) = World::usual() else { return };
    let (from, to) = (world.mnt.join("from"), world.mnt.join("to"));
    let bytes = noise(8, 5 << 20);
    fs::write(&from, &bytes).unwrap();
    world.sync();
    let (chunks, plain) = (world.figure("chunks"), world.figure("plain_bytes"));
    let source = File::open(&from).unwrap();
    let target = File::options().read(true).write(true).create_new(true).open(&to).unwrap();
    let mut at = 0;
    while at < bytes.len() {
        let copied = sys::copy_range(&source, at as i64, &target, at as i64, bytes.len() - at).unwrap();
        assert!(copied > 0);
        at += copied;
    }
    assert_eq!(sys::copy_range(&source, at as i64, &target, at as i64, 100).unwrap(), 0, "at the end");
    world.sync();
    assert_eq!((world.figure("chunks"), world.figure("plain_bytes")), (chunks, plain), "no data moved");
    assert_eq!(world.figure("referenced_bytes"), 2 * bytes.len() as u64);
    // A part that begins and ends inside chunks, to a place inside others.
    assert_eq!(sys::copy_range(&source, 1_234_567, &target, 7_777, 1_000_001).unwrap(), 1_000_001);
    let mut expected = bytes.clone();
    expected[7_777..7_777 + 1_000_001].copy_from_slice(&bytes[1_234_567..1_234_567 + 1_000_001]);
    fs::remove_file(&from).unwrap();
    drop((source, target));
    world.deletions_done();
    world.gc();
    world.remount();
    assert!(fs::read(&to).unwrap() == expected);
    world.close();
}

#[test]
fn appenders_at_the_same_time() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("log");
    const RECORD: usize = 64;
    File::create(&path).unwrap();
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).open(path).unwrap();
                for n in 0..500 {
                    let line = format!("{:<1$}\n", format!("{writer} {n}"), RECORD - 1);
                    file.write_all(line.as_bytes()).unwrap();
                }
            });
        }
        world.gc();
    });
    world.remount();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.len(), 4 * 500 * RECORD);
    let mut next = [0; 4];
    for line in text.lines() {
        let mut words = line.split_whitespace().map(|word| word.parse::<usize>().unwrap());
        let (writer, n) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(n, next[writer], "of writer {writer}, in its order");
        next[writer] += 1;
    }
    assert_eq!(next, [500; 4]);
    world.close();
}
