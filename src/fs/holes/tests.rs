//! Files of very many extents, cut short and punched; and steps that fail.

use super::*;
use crate::fs::simulated::{close, config, new_disk, new_file, open_as};
use crate::fs::{Caller, FsOptions, SetAttr};
use crate::media::sim::{OpKind, SimMedia};
use crate::meta::rows::InodeRow;
use crate::store::StoreConfig;
use crate::sync::Arc;

const ROOT: Caller = Caller { uid: 0, gid: 0 };
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
/// From the beginning of one extent to that of the next; half of it is a hole.
const STRIDE: u64 = 8192;

/// Extents that a batch gets at once here.
const AT_A_TIME: usize = 16;

fn open(disk: &SimMedia, config: &StoreConfig) -> Arc<Fs> {
    open_as(disk, config, FsOptions { extents_per_step: AT_A_TIME, ..FsOptions::default() })
}

fn block() -> Vec<u8> {
    crate::media::sim::Rng::new(1).bytes(STRIDE as usize / 2)
}

/// A file with so many extents of the same chunk.
fn sparse(fs: &Arc<Fs>, extents: u64) -> u64 {
    let (ino, block) = (new_file(fs, "file"), block());
    for number in 0..extents {
        fs.write(ino, number * STRIDE, &block, false).unwrap();
    }
    fs.sync().unwrap();
    ino
}

fn set_size(fs: &Fs, ino: u64, size: u64) -> Result<()> {
    fs.setattr(ino, ROOT, &SetAttr { size: Some(size), ..SetAttr::default() }).map(drop)
}

/// The numbers of the extents that are there.
fn extents(fs: &Arc<Fs>, ino: u64) -> Vec<u64> {
    let found =
        crate::fs::extents::touching(&fs.layers(), Content::of(ino, &InodeRow::default()), 0, u64::MAX)
            .unwrap();
    found.iter().map(|extent| extent.offset / STRIDE).collect()
}

#[test]
fn no_batch_gets_all_rows_of_a_file_of_very_many_extents() {
    const EXTENTS: u64 = 2000;
    let enough = 2 * AT_A_TIME as u64 * BYTES_OF_EACH;
    let fs = open(&new_disk(), &config());
    let ino = sparse(&fs, EXTENTS);
    let before = fs.store.batches.open_number();
    fs.fallocate(ino, STRIDE, (EXTENTS - 2) * STRIDE, PUNCH).unwrap();
    assert!(fs.store.batches.open_number() > before + 5, "all in one batch");
    assert!(fs.store.batches.open_bytes() < enough);
    assert_eq!(extents(&fs, ino), [0, EXTENTS - 1]);
    assert_eq!(fs.read(ino, STRIDE - 1, 4).unwrap(), [0; 4]);

    for number in 1..EXTENTS - 1 {
        fs.write(ino, number * STRIDE, &block(), false).unwrap();
    }
    fs.sync().unwrap();
    let before = fs.store.batches.open_number();
    set_size(&fs, ino, 2 * STRIDE + 7).unwrap();
    assert!(fs.store.batches.open_number() > before + 5, "all in one batch");
    assert!(fs.store.batches.open_bytes() < enough);
    assert_eq!(extents(&fs, ino), [0, 1, 2]);
    set_size(&fs, ino, 3 * STRIDE).unwrap();
    assert_eq!(fs.read(ino, 2 * STRIDE, 9).unwrap(), [&block()[..7], &[0, 0]].concat());
    close(&fs);
}

#[test]
fn a_clone_of_very_many_extents_is_done_piece_by_piece() {
    let fs = open(&new_disk(), &config());
    let extents_there = 2 * AT_A_TIME as u64 + 5;
    let (ino, copy) = (sparse(&fs, extents_there), new_file(&fs, "copy"));
    let (mut at, mut pieces) = (0, 0);
    let size = fs.getattr(ino).unwrap().size;
    while at < size {
        let copied = fs.copy_file_range(ino, at, copy, at, size).unwrap();
        assert!(copied > 0 && copied.div_ceil(STRIDE) <= AT_A_TIME as u64 + 1, "{copied}");
        (at, pieces) = (at + copied, pieces + 1);
    }
    assert_eq!((at, pieces), (size, 3));
    assert_eq!(extents(&fs, copy), (0..extents_there).collect::<Vec<_>>());
    // What stands in the way in the target counts as well.
    let one = new_file(&fs, "one");
    fs.write(one, 0, &[1], false).unwrap();
    set_size(&fs, one, size).unwrap();
    let copied = fs.copy_file_range(one, 0, copy, 0, size).unwrap();
    assert_eq!(copied, AT_A_TIME as u64 * STRIDE);
    assert_eq!(extents(&fs, copy).len() as u64, extents_there - AT_A_TIME as u64 + 1);
    close(&fs);
}

/// After a power cut at any operation of it, a truncation has left a whole beginning of the file, and a hole is there
/// as far as it got.
#[test]
fn a_power_cut_between_two_steps_leaves_a_whole_file() {
    const EXTENTS: u64 = 60 * AT_A_TIME as u64;
    let config = config();
    for punches in [false, true] {
        let disk = new_disk();
        let fs = open(&disk, &config);
        let ino = sparse(&fs, EXTENTS);
        let size = fs.getattr(ino).unwrap().size;
        let begin = disk.op_count();
        let steps = || -> Result<()> {
            if punches {
                fs.fallocate(ino, 0, size - STRIDE, PUNCH)?;
            } else {
                set_size(&fs, ino, STRIDE / 2)?;
            }
            fs.sync()
        };
        steps().unwrap();
        let (end, mut between) = (disk.op_count(), 0);
        for point in (begin..=end).step_by(((end - begin) / 12).max(1) as usize) {
            let after = open(&disk.cut_at(point, point), &config);
            let ino = after.lookup(crate::fs::ROOT_INO, b"file").unwrap().ino;
            let (left, len) = (extents(&after, ino), after.getattr(ino).unwrap().size);
            let count = left.len() as u64;
            if punches {
                assert_eq!((left, len), ((EXTENTS - count..EXTENTS).collect(), size), "at {point}");
            } else {
                assert_eq!(left, (0..count).collect::<Vec<_>>(), "at {point}");
                assert!(len == size || len == count * STRIDE || len == STRIDE / 2, "{len} at {point}");
                assert_eq!(after.read(ino, (count - 1) * STRIDE, STRIDE as u32 / 2).unwrap(), block());
            }
            between += u64::from(count > 1 && count < EXTENTS);
            close(&after);
        }
        assert!(between > 0, "no cut was between two steps");
        close(&fs);
    }
}

/// A read of the database that fails ends a step before anything is lost.
#[test]
fn what_is_staged_stays_if_a_step_fails() {
    let config = config();
    type Change = fn(&Arc<Fs>, u64) -> Result<()>;
    let changes: [(&str, Change); 2] = [
        ("truncate", |fs, ino| set_size(fs, ino, 10)),
        ("punch", |fs, ino| fs.fallocate(ino, 0, 100_000, PUNCH)),
    ];
    for (what, change) in changes {
        let disk = new_disk();
        let fs = open(&disk, &config);
        sparse(&fs, 2000);
        close(&fs);
        let fs = open(&disk, &config);
        let ino = fs.lookup(crate::fs::ROOT_INO, b"file").unwrap().ino;
        fs.write(ino, 5000, b"acknowledged", false).unwrap();
        let size = fs.getattr(ino).unwrap().size;
        refuse_reads(&disk);
        let errno = change(&fs, ino).map_err(|error| error.errno());
        disk.clear_faults();
        assert_eq!(errno, Err(libc::EIO), "{what}");
        assert_eq!(fs.read(ino, 5000, 12).unwrap(), b"acknowledged", "{what}");
        assert_eq!(fs.getattr(ino).unwrap().size, size, "{what}");
        change(&fs, ino).unwrap();
        assert_ne!(fs.read(ino, 5000, 12).unwrap(), b"acknowledged", "{what}");
        close(&fs);
    }
}

fn refuse_reads(disk: &SimMedia) {
    disk.set_fault(Box::new(|op| (op.kind == OpKind::Read).then_some(libc::EIO)));
}
