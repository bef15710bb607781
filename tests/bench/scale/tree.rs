//! One directory of many entries, and one file of a terabyte.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cairnfs::fs::{Fs, FsOptions, SetAttr};
use cairnfs::meta::rows::{Extent, InodeRow, decode_extent_key, extent_key, id_key};
use cairnfs::meta::{Counter, Table};
use cairnfs::store::Store;
use serde::{Deserialize, Serialize};

use super::cycle::{CALLER, new_store, open, told};
use super::probe::{Took, Watch, quantile};
use super::synthetic::{Size, file_name};
use crate::measure::Outcome;
use crate::random::Random;

const ROOT: u64 = 1;
/// Names looked up, offsets read.
const LOOKS: u64 = 20_000;
const READS: u64 = 2_000;
const SEEKS: u64 = 10;
const READ: u32 = 128 << 10;
/// The bytes that a file is made of, again and again.
const PATTERN: u64 = 8 << 20;
/// In a sparse file, one pattern stands in so many bytes.
const SPARSE: u64 = 8 << 30;
/// What the kernel asks to copy at once at most.
const COPY: u64 = (2 << 30) - 4096;

#[derive(Debug, Serialize, Deserialize)]
pub struct Step {
    pub what: String,
    /// How often it was done.
    pub times: u64,
    pub took: Took,
    /// The median and the worst but one in a hundred, in microseconds; 0 where it was done once.
    pub each_us: (f64, f64),
}

struct Steps {
    watch: Watch,
    done: Vec<Step>,
}

impl Steps {
    fn new() -> Self {
        Steps { watch: Watch::start(), done: Vec::new() }
    }

    fn once(&mut self, what: &str, times: u64, work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        self.watch.lap();
        work().map_err(|e| format!("{what}: {e}"))?;
        self.done.push(Step { what: what.to_owned(), times, took: self.watch.lap(), each_us: (0.0, 0.0) });
        Ok(())
    }

    fn each(&mut self, what: &str, times: u64, mut work: impl FnMut(u64) -> Outcome<()>) -> Outcome<()> {
        self.watch.lap();
        let mut each = Vec::new();
        for number in 0..times {
            let started = Instant::now();
            work(number).map_err(|e| format!("{what}: {e}"))?;
            each.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let took = self.watch.lap();
        let each_us = (quantile(&mut each, 0.5), quantile(&mut each, 0.99));
        self.done.push(Step { what: what.to_owned(), times, took, each_us });
        Ok(())
    }
}

fn with_fs(dir: &Path, work: impl FnOnce(&Arc<Store>, &Arc<Fs>) -> Outcome<()>) -> Outcome<()> {
    let store = open(dir)?;
    let fs = told("the filesystem", Fs::new(store.clone(), FsOptions::default()))?;
    work(&store, &fs)?;
    told("ending the filesystem", fs.shutdown())?;
    told("closing", store.close())
}

/// The directory of a store of this size, which has one.
pub fn directory(dir: &Path, size: &Size) -> Outcome<Vec<Step>> {
    let (ino, entries) = (size.snapshot_ino(0), size.files);
    let mut steps = Steps::new();
    with_fs(dir, |_, fs| {
        let mut random = Random::new(1);
        steps.each("lookup of a name", LOOKS, |_| {
            let name = file_name(random.next() % entries);
            let attr = told("lookup", fs.lookup(ino, name.as_bytes()))?;
            fs.forget(attr.ino, 1);
            Ok(())
        })?;
        steps.each("lookup of no name", LOOKS, |number| {
            match fs.lookup(ino, format!("no-{number}").as_bytes()) {
                Err(error) if error.errno() == libc::ENOENT => Ok(()),
                other => Err(format!("{:?}", other.map(|attr| attr.ino))),
            }
        })?;
        steps.once("readdir of all", entries, || {
            let mut seen = 0;
            told(
                "readdir",
                fs.readdir(ino, 0, &mut |_| {
                    seen += 1;
                    true
                }),
            )?;
            if seen == entries + 2 { Ok(()) } else { Err(format!("{seen} entries")) }
        })?;
        steps.once("readdirplus of all", entries, || {
            let mut seen = Vec::new();
            told(
                "readdirplus",
                fs.readdirplus(ino, 0, &mut |entry, attr| {
                    seen.extend(attr.map(|_| entry.ino));
                    true
                }),
            )?;
            seen.iter().for_each(|ino| fs.forget(*ino, 1));
            if seen.len() as u64 == entries { Ok(()) } else { Err(format!("{} entries", seen.len())) }
        })
    })?;
    Ok(steps.done)
}

/// Makes a file of `bytes`: real bytes once, and then rows that refer to them again and again.
pub fn make_file(dir: &Path, bytes: u64, sparse: bool) -> Outcome<Took> {
    let mut watch = Watch::start();
    let store = new_store(dir)?;
    let fs = told("the filesystem", Fs::new(store.clone(), FsOptions::default()))?;
    let ino = told("a file", fs.mknod(ROOT, b"file", CALLER, 0o644, 0, 0))?.ino;
    let mut data = vec![0; PATTERN as usize];
    Random::new(2).fill(&mut data);
    for (number, part) in data.chunks(1 << 20).enumerate() {
        told("write", fs.write(ino, (number as u64) << 20, part, false))?;
    }
    let size = SetAttr { size: Some(bytes), ..SetAttr::default() };
    told("setattr", fs.setattr(ino, CALLER, &size))?;
    told("ending the filesystem", fs.shutdown())?;
    repeat(&store, ino, bytes, if sparse { SPARSE } else { PATTERN })?;
    told("closing", store.close())?;
    Ok(watch.lap())
}

/// Puts the extents of the first pattern at every multiple of `step`.
fn repeat(store: &Arc<Store>, ino: u64, bytes: u64, step: u64) -> Outcome<()> {
    let mut pattern = Vec::new();
    let (from, to) = (extent_key(ino, 0), extent_key(ino, u64::MAX));
    let view = store.layers().view.clone();
    let read = view.scan(
        Table::Extents,
        std::ops::Bound::Included(&from),
        std::ops::Bound::Excluded(&to),
        |key, row| {
            pattern.push(Extent::decode(decode_extent_key(key)?.1, row)?);
            Ok(true)
        },
    );
    told("the extents", read)?;
    let allocated: u64 = pattern.iter().map(|extent| extent.len).sum::<u64>() * (bytes / step);
    let offsets = (0..bytes / step).map(|number| number * step);
    let rows = offsets.flat_map(|offset| {
        pattern.iter().map(move |extent| (extent_key(ino, offset + extent.offset), Some(extent.encode())))
    });
    let written = store.commits.rewrite(true, |txn, sums| {
        txn.apply(Table::Extents, rows);
        let Some(row) = txn.get(Table::Inodes, &id_key(ino))? else {
            return Ok(());
        };
        let row = InodeRow { allocated, ..InodeRow::decode(&row)? };
        sums[Counter::ReferencedBytes as usize] = allocated as i64;
        txn.put(Table::Inodes, &id_key(ino), &row.encode());
        Ok(())
    });
    told("the rows", written)
}

/// What is done with the file.
pub fn file(dir: &Path) -> Outcome<Vec<Step>> {
    let mut steps = Steps::new();
    with_fs(dir, |_, fs| {
        let attr = told("lookup", fs.lookup(ROOT, b"file"))?;
        let (ino, bytes) = (attr.ino, attr.size);
        let mut random = Random::new(3);
        let mut offset = move || random.next() % (bytes - u64::from(READ));
        steps.each("read of 128 KiB anywhere", READS, |_| {
            told("read", fs.read(ino, offset(), READ)).map(drop)
        })?;
        for (what, whence) in
            [("SEEK_DATA anywhere", libc::SEEK_DATA), ("SEEK_HOLE anywhere", libc::SEEK_HOLE)]
        {
            steps.each(what, SEEKS, |number| {
                match fs.lseek(ino, (number * (bytes / SEEKS)) as i64, whence) {
                    Err(error) if error.errno() != libc::ENXIO => Err(error.to_string()),
                    _ => Ok(()),
                }
            })?;
        }
        let copy = told("a file", fs.mknod(ROOT, b"copy", CALLER, 0o644, 0, 0))?.ino;
        steps.each("copy_file_range, 2 GiB each", bytes.div_ceil(COPY), |number| {
            told("copy", fs.copy_file_range(ino, number * COPY, copy, number * COPY, COPY)).map(drop)
        })?;
        steps.once("sync", 1, || told("sync", fs.sync()))?;
        let half = SetAttr { size: Some(bytes / 2), ..SetAttr::default() };
        steps
            .once("truncate to the half", 1, || told("setattr", fs.setattr(copy, CALLER, &half)).map(drop))?;
        steps.once("sync", 1, || told("sync", fs.sync()))?;
        steps.once("unlink", 1, || told("unlink", fs.unlink(ROOT, b"file")))?;
        fs.forget(ino, 1);
        steps.once("removal of its extents", 1, || told("drain", fs.drain_orphans()))
    })?;
    Ok(steps.done)
}
