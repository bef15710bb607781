//! A small store with something of everything, and ways to damage it.

use tempfile::TempDir;

use crate::chunk::ChunkId;
use crate::fs::{Caller, Fs, FsOptions, ROOT_INO};
use crate::meta::rows::{
    DirentRow, Extent, InodeRow, RegionRow, chunk_of, decode_extent_key, dirent_key, id_key,
};
use crate::meta::{Counter, Table, Txn};
use crate::store::{MkfsOptions, OpenOptions, Store, mkfs};
use crate::sync::Arc;

use super::super::{CheckReport, Options, check};

/// Where a symlink points: a text that is nowhere else in the database.
pub const TARGET: &[u8] = b"a-target-that-is-found-in-the-file";

const ME: Caller = Caller { uid: 0, gid: 0 };

/// The store, with this tree:
/// `dir/a` and `dir/sub/c`, one file with two names and an attribute; `dir/b`; `copy`, with the content of `dir/a`;
/// `small`; `link`; and a file without a name that the kernel remembers.
pub struct Place {
    pub fs: Arc<Fs>,
    pub store: Arc<Store>,
    pub dir: u64,
    pub sub: u64,
    pub a: u64,
    pub b: u64,
    pub copy: u64,
    pub small: u64,
    pub link: u64,
    pub gone: u64,
    pub temp: TempDir,
}

/// Bytes that look random and are the same in every run.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| byte()).collect()
}

pub fn open(path: &std::path::Path) -> Arc<Store> {
    let options = OpenOptions { cache_bytes: 24 << 20, workers: 1, ..OpenOptions::default() };
    Store::open(path, &options).unwrap()
}

pub fn empty_store() -> (TempDir, Arc<Store>) {
    let temp = TempDir::new().unwrap();
    let options = MkfsOptions { avg_chunk: 4096, reserve: 1 << 20, ..MkfsOptions::default() };
    mkfs(temp.path(), &options).unwrap();
    let store = open(temp.path());
    (temp, store)
}

impl Place {
    pub fn new() -> Self {
        let (temp, store) = empty_store();
        let options =
            FsOptions { commit_interval: std::time::Duration::from_secs(3600), ..FsOptions::default() };
        let fs = Fs::new(store.clone(), options).unwrap();
        let dir = fs.mkdir(ROOT_INO, b"dir", ME, 0o755, 0).unwrap().ino;
        let sub = fs.mkdir(dir, b"sub", ME, 0o755, 0).unwrap().ino;
        let a = file(&fs, dir, b"a", &noise(300_000, 1));
        fs.link(a, sub, b"c").unwrap();
        fs.setxattr(a, b"user.note", b"value", 0, |_| true).unwrap();
        let b = file(&fs, dir, b"b", &noise(200_000, 2));
        let copy = file(&fs, ROOT_INO, b"copy", &noise(300_000, 1));
        let small = file(&fs, ROOT_INO, b"small", b"a few bytes");
        let link = fs.symlink(ROOT_INO, b"link", ME, TARGET).unwrap().ino;
        let gone = file(&fs, dir, b"gone", &noise(50_000, 3));
        fs.unlink(dir, b"gone").unwrap();
        fs.sync().unwrap();
        Self { fs, store, dir, sub, a, b, copy, small, link, gone, temp }
    }

    pub fn check(&self, data: bool) -> CheckReport {
        check(&self.store, &Options { data, ..Options::default() }).unwrap()
    }

    /// Changes rows as no code of the store would.
    pub fn damage(&self, change: impl FnOnce(&mut Txn<'_>)) {
        self.store
            .commits
            .rewrite(true, |txn, _| {
                change(txn);
                Ok(())
            })
            .unwrap();
    }

    pub fn change_inode(&self, ino: u64, change: impl FnOnce(&mut InodeRow)) {
        let row = self.store.layers().get(Table::Inodes, &id_key(ino)).unwrap().unwrap();
        let mut row = InodeRow::decode(&row).unwrap();
        change(&mut row);
        self.damage(|txn| txn.put(Table::Inodes, &id_key(ino), &row.encode()));
    }

    pub fn remove(&self, table: Table, key: &[u8]) {
        self.damage(|txn| txn.apply(table, [(key, None::<&[u8]>)]));
    }

    pub fn put(&self, table: Table, key: &[u8], value: &[u8]) {
        self.damage(|txn| txn.put(table, key, value));
    }

    /// Changes one of the store's sums.
    pub fn add_to_counter(&self, counter: Counter, more: i64) {
        self.store
            .commits
            .rewrite(true, |_, sums| {
                sums[counter as usize] += more;
                Ok(())
            })
            .unwrap();
    }

    /// The key of a name.
    pub fn key_of(&self, dir: u64, name: &[u8]) -> Vec<u8> {
        dirent_key(dir, self.store.name_hash().of(name), name)
    }

    pub fn put_name(&self, dir: u64, name: &[u8], ino: u64, kind: u32) {
        self.put(Table::Dirents, &self.key_of(dir, name), &DirentRow { ino, kind }.encode());
    }

    pub fn extents(&self, ino: u64) -> Vec<Extent> {
        let mut extents = Vec::new();
        self.scan(Table::Extents, |key, row| {
            let (owner, offset) = decode_extent_key(key).unwrap();
            if owner == ino {
                extents.push(Extent::decode(offset, row).unwrap());
            }
        });
        extents
    }

    pub fn regions(&self) -> Vec<RegionRow> {
        let mut regions = Vec::new();
        self.scan(Table::Regions, |key, row| {
            regions.push(RegionRow::decode(ChunkId(chunk_of(key).unwrap()), row).unwrap());
        });
        regions
    }

    pub fn put_region(&self, row: &RegionRow) {
        self.put(Table::Regions, &id_key(row.first.0), &row.encode());
    }

    fn scan(&self, table: Table, mut each: impl FnMut(&[u8], &[u8])) {
        let (from, to) = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        self.store
            .layers()
            .view
            .scan(table, from, to, |key, row| {
                each(key, row);
                Ok(true)
            })
            .unwrap();
    }

    /// The check finds exactly these, each with these files.
    #[track_caller]
    pub fn finds(&self, data: bool, expected: &[(&str, &[&str])]) {
        let report = self.check(data);
        let told: Vec<(&str, Vec<&str>)> = report
            .findings
            .iter()
            .map(|finding| (finding.what.as_str(), finding.files.iter().map(String::as_str).collect()))
            .collect();
        let all = told.len() == expected.len()
            && expected.iter().all(|(what, files)| {
                told.iter().any(|(told, hit)| told.contains(what) && hit.as_slice() == *files)
            });
        assert!(all, "expected {expected:#?}, found {told:#?}");
        for finding in &report.findings {
            assert_eq!(finding.files_total, finding.files.len() as u64);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A store that was damaged may refuse; there is nothing in it to be kept.
        let _ = self.fs.shutdown();
        let _ = self.store.close();
    }
}

pub fn file(fs: &Arc<Fs>, dir: u64, name: &[u8], content: &[u8]) -> u64 {
    let ino = fs.mknod(dir, name, ME, libc::S_IFREG | 0o644, 0, 0).unwrap().ino;
    fs.write(ino, 0, content, false).unwrap();
    // One after the other, so that every run gives every chunk the same id.
    fs.sync().unwrap();
    ino
}
