//! Versions: what a clone costs among many subvolumes, and a lookup at the end of a long chain of them and beside many
//! others that have the same key.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;

use cairnfs::Result;
use cairnfs::meta::Table;
use cairnfs::meta::rows::{
    SubvolumeRow, Timestamp, encode_seen, local_key, subvolume_key, version_rows, versioned_key,
};
use cairnfs::meta::versions::{FIRST_VERSION, Rows, Subvolumes, Version, get};
use criterion::{BenchmarkId, Criterion};

/// Subvolumes of a store: many, and an hourly clone for ten years.
const SUBVOLUMES: [u64; 2] = [10_000, 87_600];
/// Of which each has a row of the same key.
const SIBLINGS: u64 = 1_000;

/// Rows in memory, so that what is measured is the way up and no database.
#[derive(Default)]
struct Memory(BTreeMap<(u8, Vec<u8>), Vec<u8>>);

impl Memory {
    /// One subvolume that was cloned until there were so many; and the leaf of it.
    fn cloned(subvolumes: u64) -> (Self, Version) {
        let (mut rows, mut source) = (Self::default(), Version(FIRST_VERSION));
        rows.version(source, None);
        for number in 2..=subvolumes {
            let moved = Version(FIRST_VERSION - 2 * number);
            let leaf = Version(moved.0 - 1);
            rows.version(moved, Some(source));
            rows.version(leaf, Some(source));
            rows.subvolume(number, leaf);
            source = moved;
        }
        rows.subvolume(1, source);
        (rows, source)
    }

    fn put(&mut self, table: Table, key: &[u8], row: &[u8]) {
        self.0.insert((table as u8, key.to_vec()), row.to_vec());
    }

    fn version(&mut self, version: Version, parent: Option<Version>) {
        version_rows(version, parent).iter().for_each(|(key, row)| self.put(Table::Versions, key, row));
    }

    fn subvolume(&mut self, number: u64, leaf: Version) {
        let (born, name) = (Timestamp { sec: 0, nsec: 0 }, b"2026-01-01".to_vec());
        let row = SubvolumeRow {
            leaf,
            root: 16,
            parent: 1,
            dropped: false,
            protected: false,
            source: 0,
            born,
            sealed: None,
            name,
        };
        self.put(Table::Subvolumes, &subvolume_key(0, number), &row.encode());
    }
}

impl Rows for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(&(table as u8, key.to_vec())).cloned())
    }

    fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut found = self.0.range((table as u8, from.to_vec())..=(table as u8, to.to_vec()));
        Ok(found.next().map(|((_, key), row)| (key.clone(), row.clone())))
    }

    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let (from, to) =
            (from.map(|key| (table as u8, key.to_vec())), to.map(|key| (table as u8, key.to_vec())));
        for ((of, key), row) in self.0.range((from, to)) {
            if *of != table as u8 || !each(key, row)? {
                break;
            }
        }
        Ok(())
    }
}

pub fn versions(c: &mut Criterion) {
    let mut group = c.benchmark_group("versions");
    group.sample_size(20);
    for count in SUBVOLUMES {
        let (mut rows, leaf) = Memory::cloned(count);
        let subvolumes = Subvolumes::read(&rows).expect("a sound tree");
        let (moved, made) = (Version(leaf.0 - 10), Version(leaf.0 - 11));
        group.bench_function(BenchmarkId::new("clone, of so many subvolumes", count), |b| {
            b.iter(|| black_box(subvolumes.with_clone(1, count + 1, (moved, made)).expect("a source")));
        });
        let key = local_key(7);
        rows.put(Table::SubInodes, &versioned_key(&key, Version(FIRST_VERSION)), &encode_seen(Some(b"row")));
        let look = || get(&rows, &subvolumes.tree, Table::SubInodes, &key, leaf).expect("a sound tree");
        assert!(look().is_some());
        group.bench_function(BenchmarkId::new("lookup, down a chain of so many", count), |b| {
            b.iter(|| black_box(look()));
        });
    }
    let (mut rows, _) = Memory::cloned(SIBLINGS);
    let subvolumes = Subvolumes::read(&rows).expect("a sound tree");
    let key = local_key(7);
    rows.put(Table::SubInodes, &versioned_key(&key, Version(FIRST_VERSION)), &encode_seen(Some(b"row")));
    let leaves: Vec<Version> =
        (1..=SIBLINGS).filter_map(|number| Some(subvolumes.get(number)?.leaf)).collect();
    for leaf in &leaves[1..] {
        rows.put(Table::SubInodes, &versioned_key(&key, *leaf), &encode_seen(Some(b"its own")));
    }
    for (name, leaf) in [("has a row", leaves[SIBLINGS as usize / 2]), ("has none", leaves[0])] {
        let name = format!("lookup, {SIBLINGS} siblings have rows and the leaf {name}");
        group.bench_function(name, |b| {
            b.iter(|| {
                black_box(get(&rows, &subvolumes.tree, Table::SubInodes, &key, leaf).expect("a sound tree"))
            });
        });
    }
    group.finish();
}
