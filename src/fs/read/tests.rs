//! What a reader finds in its buffer, and in memory.

use std::time::Duration;

use super::*;
use crate::fs::simulated;
use crate::media::sim::{Op, OpKind, Rng};
use crate::sync::channel::bounded;

/// Long enough for any machine; a test that works does not wait for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// About ten files share a region.
const FILES: u64 = 40;
const LEN: usize = 50_000;

/// Chunks, holes, bytes that are staged, and the end of the file, at offsets of every kind.
#[test]
fn what_a_buffer_held_before_does_not_show() {
    let fs = simulated::open(&simulated::new_disk(), &simulated::config());
    let ino = simulated::new_file(&fs, "file");
    let mut content = vec![0; 900_000];
    let mut write = |at: usize, len: usize, seed: u64| {
        let bytes = Rng::new(seed).bytes(len);
        fs.write(ino, at as u64, &bytes, false).unwrap();
        content[at..at + len].copy_from_slice(&bytes);
    };
    write(100_001, 200_000, 1);
    write(500_000, 150_003, 2);
    fs.sync().unwrap();
    write(250_000, 70_000, 3);
    write(800_000, 100_000, 4);
    for (from, len) in
        [(0, 900_000), (0, 50_000), (99_990, 20), (299_999, 200_010), (640_000, 260_000), (899_999, 9)]
    {
        let mut out = vec![0xaa; len];
        let got = fs.read_into(ino, from as u64, &mut out, Access::Counts).unwrap();
        let expected = &content[from..content.len().min(from + len)];
        assert_eq!(got, expected.len());
        assert!(out[..got] == *expected, "{len} bytes from {from}");
        assert!(out[got..].iter().all(|byte| *byte == 0xaa), "nothing is written behind them");
        assert!(fs.read(ino, from as u64, len as u32).unwrap() == expected, "{len} bytes from {from}");
    }
    assert_eq!(fs.read_into(ino, 900_000, &mut [0; 10], Access::Counts).unwrap(), 0);
    simulated::close(&fs);
}

#[test]
fn the_regions_behind_the_one_that_is_read_are_brought_in() {
    let (disk, config) = (simulated::new_disk(), simulated::config());
    let fs = simulated::open(&disk, &config);
    let content = |number: u64| Rng::new(number).bytes(LEN);
    let mut files = Vec::new();
    for number in 0..FILES {
        let ino = simulated::new_file(&fs, &number.to_string());
        fs.write(ino, 0, &content(number), false).unwrap();
        // In this order, however many workers there are.
        fs.flush(&fs.inode(ino).unwrap(), Flush::Wanted).unwrap();
        files.push(ino);
    }
    fs.sync().unwrap();
    simulated::close(&fs);

    let fs = simulated::open(&disk, &config);
    let (told, reads) = bounded(1000);
    let reader = std::thread::current().id();
    disk.set_fault(Box::new(move |op: &Op| {
        if op.kind == OpKind::Read && op.path.starts_with("packs/") {
            let by_reader = std::thread::current().id() == reader;
            told.send((by_reader, op.offset)).unwrap();
        }
        None
    }));
    let mut seen: Vec<(bool, u64)> = Vec::new();
    for (number, ino) in files.iter().enumerate() {
        assert!(fs.read(*ino, 0, LEN as u32).unwrap() == content(number as u64));
        seen.extend(reads.try_iter());
        if seen.iter().filter(|(by_reader, _)| *by_reader).count() == 2 {
            break;
        }
    }
    // Not by their offsets: regions that were compressed at the same time stand in the pack in any order.
    let asked_for: Vec<u64> =
        seen.iter().filter(|(by_reader, _)| *by_reader).map(|(_, offset)| *offset).collect();
    assert_eq!(asked_for.len(), 2, "the files are in several regions");
    while !seen.iter().any(|(by_reader, offset)| !by_reader && !asked_for.contains(offset)) {
        seen.push(reads.recv_timeout(PATIENCE).expect("what stands behind is brought in"));
    }
    disk.clear_faults();
    simulated::close(&fs);
}
