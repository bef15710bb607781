//! The parts of cairnfs one by one: `cargo bench --bench micro`.
//!
//! On a store below the temporary directory (`TMPDIR` decides where), through the library as `fs/` and `gc/` use it.
//! The table of all medians comes last. A pattern can be given to run only some: `cargo bench --bench micro --
//! 'cut|mark'`. Times are the clock's; on a machine that does other things as well, they say little.

#[path = "../random.rs"]
mod random;
mod store;
mod summary;
#[path = "../scale/synthetic.rs"]
mod synthetic;
#[path = "../table.rs"]
mod table;
mod versions;

/// What `synthetic` tells of a failure.
mod measure {
    pub type Outcome<T> = Result<T, String>;
}

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use cairnfs::chunk::{CutParams, Cutter, Digest};
use cairnfs::gc::{Collector, Options, Point};
use cairnfs::meta::Table;
use cairnfs::meta::rows::{Piece, id_key};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};

use random::Random;
use store::TempStore;
use synthetic::Size;

const MIB: usize = 1 << 20;
/// Bytes that are put or read in one go.
const DATA: usize = 16 * MIB;
/// The rows of one batch.
const ROWS: u64 = 10_000;
/// What is marked and swept.
const COLLECTED: Size = Size { files: 100_000, chunks: 1_000_000, snapshots: 100, copies: 1, garbage: 10 };

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    Random::new(seed).fill(&mut data);
    data
}

fn cut(c: &mut Criterion) {
    let data = noise(1, DATA);
    let mut group = c.benchmark_group("cut");
    group.throughput(Throughput::Bytes(DATA as u64));
    for kib in [16u32, 64, 256] {
        let cutter = Cutter::new(CutParams::new(kib << 10).expect("a power of two"));
        group.bench_function(BenchmarkId::new("FastCDC", format!("{kib} KiB")), |b| {
            b.iter(|| cutter.cut(black_box(&data)).map(<[u8]>::len).max());
        });
    }
    group.bench_function("SHA-256", |b| b.iter(|| Digest::of(black_box(&data))));
    group.finish();
}

fn put(c: &mut Criterion) {
    let mut group = c.benchmark_group("put");
    group.throughput(Throughput::Bytes(DATA as u64)).sample_size(20);
    let store = TempStore::new();
    let seed = RefCell::new(100);
    let new_data = || {
        *seed.borrow_mut() += 1;
        noise(*seed.borrow(), DATA)
    };
    // All that a write comes to: cutting, hashing, looking up, compressing by the workers, writing, syncing.
    group.bench_function("new content, and its commit", |b| {
        b.iter_batched_ref(
            new_data,
            |data| {
                store.put_all(data, &store.cut(data));
                store.commit();
            },
            BatchSize::PerIteration,
        );
    });
    let data = new_data();
    let cuts = store.cut(&data);
    store.put_all(&data, &cuts);
    store.commit();
    group.bench_function("known content", |b| b.iter(|| store.put_all(&data, &store.cut(&data))));
    group.throughput(Throughput::Elements(cuts.len() as u64));
    group.bench_function("chunks known, cut and hashed before", |b| b.iter(|| store.put_all(&data, &cuts)));
    group.finish();
}

fn get(c: &mut Criterion) {
    let mut group = c.benchmark_group("get");
    group.throughput(Throughput::Bytes(DATA as u64)).sample_size(20);
    let store = TempStore::new();
    let data = noise(7, DATA);
    let cuts = store.cut(&data);
    let ids = store.put_all(&data, &cuts);
    store.commit();
    let mut offset = 0;
    let mut pieces = Vec::new();
    for (cut, id) in cuts.iter().zip(ids) {
        pieces.push(Piece { offset, id, chunk_len: cut.len, start: 0, len: cut.len });
        offset += u64::from(cut.len);
    }
    let mut out = vec![0; DATA];
    let mut read = |store: &TempStore| {
        store.store().chunks.read_pieces(&pieces, 0, false, &mut out).expect("what was put");
    };
    // A store with as little cache as there can be: each region is read from its pack, checked and decompressed. The
    // host has the pack in its own cache.
    let cold = store.reopened(3 << 10);
    group.bench_function("from packs", |b| b.iter(|| read(&cold)));
    let warm = cold.reopened(192 << 20);
    read(&warm);
    group.bench_function("from the cache of regions", |b| b.iter(|| read(&warm)));
    group.finish();
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    let store = TempStore::new();
    let next = RefCell::new(1u64 << 32);
    let fill = |rows: u64| {
        let member = store.store().batches.join().expect("an open store");
        for _ in 0..rows {
            let key = id_key(*next.borrow());
            *next.borrow_mut() += 1;
            member.rows.put(Table::Xattrs, &key, &[7; 60]);
        }
    };
    group.throughput(Throughput::Elements(ROWS)).sample_size(20);
    group.bench_function(format!("{ROWS} rows"), |b| {
        b.iter_batched(|| fill(ROWS), |()| store.commit(), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("1 row, durable", |b| {
        b.iter_batched(|| fill(1), |()| store.commit(), BatchSize::PerIteration);
    });
    group.finish();
}

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    let store = TempStore::synthetic(&COLLECTED);
    group.throughput(Throughput::Elements(COLLECTED.chunks)).sample_size(10);
    group.bench_function("digests", |b| {
        b.iter(|| {
            let mut rows = 0;
            let view = store.store().layers().view.clone();
            let seen = view.scan(Table::Digests, Bound::Unbounded, Bound::Unbounded, |_, _| {
                rows += 1;
                Ok(true)
            });
            seen.expect("rows that were just written");
            assert_eq!(rows, COLLECTED.chunks);
        });
    });
    group.finish();
}

/// One digest in a table of a million. What is not there costs a chunk that is new; a filter in front of the table
/// could spare no more than this.
fn lookup(c: &mut Criterion) {
    const KEYS: usize = 10_000;
    let mut group = c.benchmark_group("look up");
    let store = TempStore::synthetic(&COLLECTED);
    let view = store.store().layers().view.clone();
    let mut known = Vec::new();
    let seen = view.scan(Table::Digests, Bound::Unbounded, Bound::Unbounded, |key, _| {
        known.push(key.to_vec());
        Ok(true)
    });
    seen.expect("rows that were just written");
    let mut random = Random::new(11);
    let known: Vec<Vec<u8>> =
        (0..KEYS).map(|_| known[(random.next() % COLLECTED.chunks) as usize].clone()).collect();
    let unknown: Vec<Vec<u8>> = (0..KEYS as u64).map(|number| noise(1000 + number, 32)).collect();
    for (name, keys, there) in [("digest, there", known, true), ("digest, not there", unknown, false)] {
        let mut keys = keys.iter().cycle();
        group.bench_function(name, |b| {
            b.iter(|| {
                let key = keys.next().expect("there are keys");
                assert_eq!(view.get(Table::Digests, key).expect("a sound table").is_some(), there);
            });
        });
    }
    group.finish();
}

/// Between which points of a cycle something happens.
const STAGES: [(&str, Point, Point); 2] =
    [("mark", Point::Flipped, Point::Marked), ("sweep", Point::Marked, Point::Swept)];

/// A stage of whole cycles that find nothing to free. A reference is a chunk of a file, so 100 times the time for 10^6
/// is what 10^8 take as long as the rows are in the host's memory.
fn collect(c: &mut Criterion) {
    let store = TempStore::synthetic(&COLLECTED);
    let collector = Collector::new(store.store().clone(), Options::default()).expect("a thread");
    // The first frees what the store was made with.
    collector.run_cycle(false).expect("a cycle");
    let mut group = c.benchmark_group("cycle");
    group.sample_size(10);
    for (name, from, to) in STAGES {
        let live = COLLECTED.chunks / 10 * 9;
        group.throughput(Throughput::Elements(live));
        group.bench_function(format!("{name} of {live} references"), |b| {
            b.iter_custom(|times| (0..times).map(|_| stage(&collector, from, to)).sum());
        });
    }
    group.finish();
    collector.shutdown();
}

fn stage(collector: &Collector, from: Point, to: Point) -> Duration {
    let passed = Arc::new(Mutex::new(Vec::new()));
    let seen = passed.clone();
    collector.set_hook(Some(Arc::new(move |point| {
        if point == from || point == to {
            seen.lock().expect("nothing panics that holds it").push(Instant::now());
        }
    })));
    collector.run_cycle(false).expect("a cycle");
    collector.set_hook(None);
    let passed = passed.lock().expect("nothing panics that holds it");
    passed[passed.len() - 1].duration_since(passed[0])
}

/// Rows of chunks removed: the sweep of a store in which one chunk in ten is garbage, made anew each time.
fn sweep_garbage(c: &mut Criterion) {
    const SIZE: Size = Size { files: 1000, chunks: 100_000, snapshots: 100, copies: 1, garbage: 10 };
    let mut group = c.benchmark_group("cycle");
    group.sample_size(10).throughput(Throughput::Elements(SIZE.chunks / 10));
    group.bench_function(format!("sweep that removes {} chunks of {}", SIZE.chunks / 10, SIZE.chunks), |b| {
        b.iter_custom(|times| {
            let one = |_| {
                let store = TempStore::synthetic(&SIZE);
                let collector = Collector::new(store.store().clone(), Options::default()).expect("a thread");
                let took = stage(&collector, Point::Marked, Point::Swept);
                collector.shutdown();
                took
            };
            (0..times).map(one).sum()
        });
    });
    group.finish();
}

criterion_group!(benches, cut, put, get, commit, scan, lookup, collect, sweep_garbage, versions::versions);

fn main() {
    let began = SystemTime::now();
    benches();
    Criterion::default().configure_from_args().final_summary();
    summary::print(began);
}
