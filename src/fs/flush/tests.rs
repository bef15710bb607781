//! A flush in parts stores what one in one piece would.

use super::*;
use crate::fs::simulated;
use crate::media::sim::Rng;
use crate::meta::rows::InodeRow;

const MIB: usize = 1 << 20;

fn open() -> Arc<Fs> {
    simulated::open(&simulated::new_disk(), &simulated::config())
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

fn new_file(fs: &Arc<Fs>, name: &str) -> Arc<Inode> {
    fs.inode(simulated::new_file(fs, name)).unwrap()
}

/// Stages without any flush that a write would begin.
fn stage(fs: &Arc<Fs>, inode: &Arc<Inode>, offset: usize, data: &[u8]) {
    let mut state = inode.lock();
    for (number, part) in data.chunks(MIB).enumerate() {
        let before = state.staging.bytes();
        state.staging.write((offset + number * MIB) as u64, part);
        fs.dirty.add(state.staging.bytes() - before);
    }
    state.row.size = state.row.size.max((offset + data.len()) as u64);
}

/// Where the chunks of a file end.
fn ends(fs: &Arc<Fs>, inode: &Arc<Inode>) -> Vec<u64> {
    let size = inode.lock().row.size;
    let pieces =
        extents::pieces(&fs.layers(), Content::of(inode.ino, &InodeRow::default()), 0, size).unwrap();
    pieces.iter().map(|piece| piece.offset + u64::from(piece.len)).collect()
}

fn content(fs: &Arc<Fs>, inode: &Arc<Inode>) -> Vec<u8> {
    let size = inode.lock().row.size;
    (0..size).step_by(MIB).flat_map(|at| fs.read(inode.ino, at, MIB as u32).unwrap()).collect()
}

fn close(fs: &Arc<Fs>) {
    assert_eq!(fs.dirty.bytes(), 0, "what was stored is not staged");
    simulated::close(fs);
}

#[test]
fn parts_are_cut_as_the_whole_is() {
    let fs = open();
    let data = noise(1, 5 * PART as usize + 12_345);
    let expected: Vec<u64> = fs
        .store
        .chunks
        .cut(&data)
        .iter()
        .scan(0, |end, cut| {
            *end += u64::from(cut.len);
            Some(*end)
        })
        .collect();
    let inode = new_file(&fs, "file");
    stage(&fs, &inode, 0, &data);
    assert!(fs.begin_flush(&inode, Flush::Growing).unwrap().unwrap().len() >= 5, "there are parts");
    fs.end_flush(&inode, &mut inode.lock(), false);
    fs.flush(&inode, Flush::Wanted).unwrap();
    assert_eq!(ends(&fs, &inode), expected);
    assert!(content(&fs, &inode) == data);
    close(&fs);
}

#[test]
fn what_is_written_into_a_large_file_changes_the_chunks_around_it_only() {
    let fs = open();
    let mut data = noise(2, 4 * PART as usize);
    let inode = new_file(&fs, "file");
    stage(&fs, &inode, 0, &data);
    fs.flush(&inode, Flush::Wanted).unwrap();
    let before = ends(&fs, &inode);
    // A long stretch of more than a part, and many short ones before and behind it.
    let stretches = (0..9).map(|n| (n * 400_000 + 7, 1000 + n * 10_000));
    let long = (4 * MIB + 99, 2 * PART as usize + 5);
    let behind = (0..9).map(|n| (21 * MIB + n * 700_000, 300_000 - n * 30_000));
    for (number, (offset, len)) in stretches.chain([long]).chain(behind).enumerate() {
        let new = noise(number as u64 + 10, len);
        data[offset..offset + len].copy_from_slice(&new);
        stage(&fs, &inode, offset, &new);
    }
    fs.flush(&inode, Flush::Wanted).unwrap();
    assert!(content(&fs, &inode) == data);
    let after = ends(&fs, &inode);
    let behind = (28 * MIB) as u64;
    let untouched = |ends: &[u64]| ends.iter().copied().filter(|end| *end > behind).collect::<Vec<_>>();
    assert_eq!(untouched(&after), untouched(&before));
    assert!(untouched(&after).len() > 20);
    close(&fs);
}

/// The third part cannot be stored: the first two are, and nothing is lost.
#[test]
fn a_flush_that_fails_in_the_middle_keeps_the_rest_staged() {
    let fs = open();
    let data = noise(3, 4 * PART as usize);
    let inode = new_file(&fs, "file");
    stage(&fs, &inode, 0, &data);
    let blocks = fs.begin_flush(&inode, Flush::Wanted).unwrap().unwrap();
    let mut carried = None;
    for block in blocks.into_iter().take(2) {
        let cut = fs.cut_block(block, carried.take());
        let mut state = inode.lock();
        carried = fs.install(inode.ino, &mut state, &cut, Flush::Wanted).unwrap();
        fs.stored_up_to(&mut state, carried.as_ref().unwrap().offset);
    }
    assert!(content(&fs, &inode) == data, "a reader sees all of it in the middle of a flush");
    fs.end_flush(&inode, &mut inode.lock(), false);
    let staged = inode.lock().staging.bytes();
    assert!((2 * PART..2 * PART + 2 * MIB as u64).contains(&staged), "{staged} bytes are staged");
    assert_eq!(fs.dirty.bytes(), staged);
    fs.flush(&inode, Flush::Wanted).unwrap();
    assert!(content(&fs, &inode) == data);
    close(&fs);
}

/// Its rows were removed while its bytes were being cut: they come too late.
#[test]
fn a_flush_of_a_file_that_went_leaves_no_rows() {
    use crate::meta::{Counter, Table};
    use std::ops::Bound;
    let fs = open();
    for remembered in [true, false] {
        let inode = new_file(&fs, "file");
        stage(&fs, &inode, 0, &noise(4, PART as usize));
        fs.sync().unwrap();
        stage(&fs, &inode, PART as usize, &noise(5, PART as usize));
        let blocks = fs.begin_flush(&inode, Flush::Wanted).unwrap().unwrap();
        if !remembered {
            fs.forget(inode.ino, 1);
        }
        fs.unlink(crate::fs::ROOT_INO, b"file").unwrap();
        fs.forget(inode.ino, 1);
        let cut: Vec<_> = blocks.into_iter().map(|block| fs.cut_block(block, None)).collect();
        for blocks in cut {
            fs.install(inode.ino, &mut inode.lock(), &blocks, Flush::Wanted).unwrap();
        }
        fs.end_flush(&inode, &mut inode.lock(), true);
        fs.sync().unwrap();
        for table in [Table::Extents, Table::Orphans] {
            let found = |key: &[u8], _: &[u8]| panic!("{} has a row {key:?}", table.name());
            fs.layers().scan(table, Bound::Unbounded, Bound::Unbounded, found).unwrap();
        }
        assert_eq!(
            (fs.store.commits.counter(Counter::Inodes), fs.store.commits.counter(Counter::Orphans)),
            (1, 0)
        );
    }
    close(&fs);
}

/// Small files share long regions; those of a large one are short.
#[test]
fn the_regions_of_a_large_file_are_short() {
    use crate::meta::Table;
    use crate::meta::rows::{RegionRow, chunk_of, id_key};
    let fs = open();
    let full = simulated::config().region_size;
    for number in 0..40 {
        let inode = new_file(&fs, &number.to_string());
        stage(&fs, &inode, 0, &noise(number, 30_000));
        fs.flush(&inode, Flush::Wanted).unwrap();
    }
    fs.sync().unwrap();
    let large = new_file(&fs, "large");
    stage(&fs, &large, 0, &noise(100, 5 * MIB));
    fs.flush(&large, Flush::Wanted).unwrap();
    fs.sync().unwrap();
    let first =
        extents::pieces(&fs.layers(), Content::of(large.ino, &InodeRow::default()), 0, 1).unwrap()[0].id;
    let longest = |from: u64, to: u64| {
        let mut longest = 0;
        let (from, to) = (id_key(from), id_key(to));
        let rows = (std::ops::Bound::Included(&from[..]), std::ops::Bound::Excluded(&to[..]));
        let note = |key: &[u8], row: &[u8]| {
            let row = RegionRow::decode(crate::chunk::ChunkId(chunk_of(key)?), row)?;
            // A chunk of its own may be longer.
            longest = longest.max(if row.entries.len() > 1 { row.plain } else { 0 });
            Ok(true)
        };
        fs.layers().scan(Table::Regions, rows.0, rows.1, note).unwrap();
        longest
    };
    let small_files = longest(0, first.0);
    assert!(small_files > full / 2 && small_files <= full, "{small_files}");
    let short = longest(first.0, u64::MAX);
    assert!(short > 0 && short <= full / 4, "{short}");
    close(&fs);
}
