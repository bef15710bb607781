//! What a cycle may cost: the database must not grow by what a sweep rewrites; and what is freed by punching holes,
//! for which only some of the rows are read, must be dead.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use cairnfs::chunk::{ChunkId, Digest};
use cairnfs::fs::ROOT_INO;
use cairnfs::gc::{Collector, CycleRecord, Options, Point};
use cairnfs::meta::rows::{Extent, RegionEntry, RegionRow, extent_key, id_key};
use cairnfs::meta::{ReadView, Table};
use cairnfs::pack::{Location, PackId};
use cairnfs::store::{MkfsOptions, OpenOptions, Store, StoreConfig, mkfs};

use crate::random;
use crate::repair::reader;
use crate::world::{World, config, new_disk, protected};

/// Enough for more than forty transactions of a sweep, each of which touches most of the pages of the digests.
const CHUNKS: u64 = 300_000;
/// Of so many chunks in a row the first are garbage.
const RUN: u64 = 20;
const GARBAGE_OF_RUN: u64 = 12;
const GARBAGE: u64 = CHUNKS / RUN * GARBAGE_OF_RUN;
/// The file that has the others.
const INO: u64 = 99;

/// What was durable before, and what the last transactions wrote instead: the database needs some times its space, but
/// no more with every transaction.
const BOUND: f64 = 1.7;

/// Writes rows of chunks whose digests are in no order, and extents that refer to most of them.
fn write_rows(store: &Store) {
    let digest = |id: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&id.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        Digest(bytes)
    };
    let regions = (1..=CHUNKS).step_by(4).map(|first| {
        let entries = (first..first + 4).map(|id| Some(RegionEntry { len: 1, digest: digest(id) })).collect();
        let at = Location { pack: PackId(1), offset: 64, len: 4 };
        (id_key(first), Some(RegionRow { first: ChunkId(first), at, plain: 4, entries }.encode()))
    });
    let extents = (1..=CHUNKS).step_by(RUN as usize).map(|first| {
        let (offset, len) = (first, RUN - GARBAGE_OF_RUN);
        let lens = vec![1; len as usize];
        let extent = Extent { offset, len, first: ChunkId(first + GARBAGE_OF_RUN), skip: 0, lens };
        (extent_key(INO, offset), Some(extent.encode()))
    });
    let mut digests: Vec<_> = (1..=CHUNKS).map(|id| (digest(id).0, Some(id_key(id)))).collect();
    digests.sort_unstable();
    let written = store.commits.rewrite(true, |txn, _| {
        txn.apply(Table::Extents, extents);
        txn.apply(Table::Regions, regions);
        txn.apply(Table::Digests, digests);
        Ok(())
    });
    written.unwrap();
}

/// How many times its space on the disk the database has after a cycle that removes three fifths of the chunks. On the
/// host's disk: the simulated one remembers every page that was ever written.
fn growth(hold_a_view: bool) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    mkfs(dir.path(), &MkfsOptions { reserve: 1 << 20, ..MkfsOptions::default() }).unwrap();
    let options = OpenOptions { cache_bytes: 12 << 20, ..OpenOptions::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    let collector = Collector::new(store.clone(), Options::default()).unwrap();
    write_rows(&store);
    store.commits.fold().unwrap();
    let on_disk = || std::fs::metadata(dir.path().join("meta/cairnfs.redb")).unwrap().blocks() * 512;
    let before = on_disk();
    let held: Arc<Mutex<Option<Arc<ReadView>>>> = Arc::default();
    let (inside, holder) = (store.clone(), held.clone());
    collector.set_hook(Some(Arc::new(move |point| {
        if hold_a_view && point == Point::Condemned {
            holder.lock().unwrap().get_or_insert_with(|| inside.layers().view.base().clone());
        }
    })));
    let record = collector.run_cycle(false).unwrap();
    collector.set_hook(None);
    assert_eq!(record.condemned, GARBAGE);
    drop(held.lock().unwrap().take());
    let after = on_disk();
    collector.shutdown();
    store.close().unwrap();
    after as f64 / before as f64
}

#[test]
fn a_sweep_does_not_grow_the_database_by_what_it_rewrites() {
    let _all = protected();
    let without = growth(false);
    println!("the database has {without:.2} times its space after a sweep");
    assert!(without < BOUND, "{without}");
}

#[test]
fn a_sweep_under_a_view_grows_the_database() {
    let _all = protected();
    let with = growth(true);
    println!("the database has {with:.2} times its space after a sweep with a view held");
    assert!(with > BOUND, "{with}: the test beside this one would notice nothing");
}

fn write(world: &World, name: &str, seed: u64, len: usize) {
    let ino = world.create(ROOT_INO, name);
    for (number, part) in random::content(seed, len).chunks(64 << 10).enumerate() {
        world.fs.write(ino, (number << 16) as u64, part, false).unwrap();
    }
    world.fs.sync().unwrap();
}

fn remove_and_collect(world: &World, name: &str) -> CycleRecord {
    world.remove(ROOT_INO, name);
    world.collector.run_cycle(false).unwrap()
}

/// A region of which little is live moves, and its old place comes back in the same cycle.
#[test]
fn a_cycle_frees_what_it_moved() {
    let _all = protected();
    let (disk, config) = (new_disk(), StoreConfig { region_size: 512 << 10, ..config() });
    let world = World::open(&disk, &config).unwrap();
    // Small files share a region: of this one, little stays.
    let len = config.region_size as usize / 8;
    for number in 0..8 {
        world.save(&format!("f{number}"), &random::content(number, len));
    }
    world.fs.sync().unwrap();
    write(&world, "stays", 20, 400_000);
    for number in 1..8 {
        world.remove(ROOT_INO, &format!("f{number}"));
    }
    let packs =
        |world: &World| -> u64 { world.store.packs.infos().unwrap().iter().map(|pack| pack.taken).sum() };
    let before = packs(&world);
    let record = world.collector.run_cycle(false).unwrap();
    assert_eq!((record.packs_compacted, record.packs_punched), (0, 1), "{record:?}");
    assert!((1..2 * len as u64).contains(&record.moved_bytes), "{record:?}");
    assert_eq!(packs(&world), before + record.moved_bytes.next_multiple_of(4096) - record.freed_bytes);
    assert!(record.freed_bytes > 5 * len as u64, "{record:?}");
    assert!(world.read(world.find("f0").unwrap()).unwrap() == random::content(0, len));
    assert!(world.check().is_clean());
    world.close().unwrap();
}

/// A region with low ids that was moved stands in one pack with high ids; then holes are punched into that pack.
#[test]
fn holes_are_punched_only_where_nothing_is_live() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    write(&world, "moves", 1, 60_000);
    write(&world, "goes first", 2, 850_000);
    let record = remove_and_collect(&world, "goes first");
    assert_eq!((record.packs_compacted, record.packs_punched), (1, 0), "{record:?}");
    write(&world, "goes then", 3, 400_000);
    write(&world, "stays", 4, 400_000);
    let record = remove_and_collect(&world, "goes then");
    assert_eq!((record.packs_compacted, record.packs_punched), (0, 1), "{record:?}");
    assert!(record.freed_bytes > 300_000, "{record:?}");
    world.close().unwrap();

    let world = World::open(&disk, &config).unwrap();
    for (name, seed, len) in [("moves", 1, 60_000), ("stays", 4, 400_000)] {
        assert!(world.read(world.find(name).unwrap()).unwrap() == random::content(seed, len), "{name}");
    }
    let report = world.check();
    assert!(report.is_clean(), "{:?}", report.findings);
    world.close().unwrap();
}

/// A pack is to be emptied, and what lives in it cannot be read: it stays, and what is dead around it goes.
#[test]
fn what_is_dead_goes_also_out_of_a_pack_that_has_to_stay() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    write(&world, "stays", 1, 60_000);
    let row = world.store.chunks.region_of(ChunkId(world.store.next_chunk().0 - 1)).unwrap().0;
    write(&world, "goes", 2, 850_000);
    world.close().unwrap();
    disk.flip_byte(&row.at.pack.path(), row.at.end() - 1);
    let world = World::open(&disk, &config).unwrap();
    let record = remove_and_collect(&world, "goes");
    assert_eq!((record.packs_compacted, record.packs_punched), (0, 1), "{record:?}");
    assert!(record.freed_bytes > 700_000, "{record:?}");
    let left = reader(&disk).walk(row.at.pack).unwrap();
    assert!(left.regions.iter().any(|(at, _)| *at == row.at), "{left:?}");
    world.close().unwrap();
}
