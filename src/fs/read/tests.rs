//! Whoever reads small files in the order in which they were written finds the next ones in memory.

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
    let second = seen.iter().rfind(|(by_reader, _)| *by_reader).expect("somebody has read").1;
    while !seen.iter().any(|(by_reader, offset)| !by_reader && *offset > second) {
        seen.push(reads.recv_timeout(PATIENCE).expect("what stands behind is brought in"));
    }
    disk.clear_faults();
    simulated::close(&fs);
}
