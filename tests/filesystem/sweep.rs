//! A sweep removes digests, then chunks, in many transactions: wherever it is cut off, what is found is there, and what
//! was left over goes with the next cycle.

use std::ops::Bound;
use std::sync::{Arc, Mutex};

use cairnfs::chunk::{ChunkId, Digest};
use cairnfs::fs::ROOT_INO;
use cairnfs::gc::Point;
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::rows::{RegionEntry, RegionRow, id_key};
use cairnfs::meta::{Counter, Table};
use cairnfs::pack::{Location, PackId};
use cairnfs::sabotage::Protection;
use cairnfs::store::Store;

use crate::random;
use crate::world::{Setting, World, config, new_disk, protected, without};

const LIVE: usize = 100_000;
const GARBAGE: usize = 2_000_000;

fn write(world: &World, name: &str, bytes: &[u8]) {
    world.save(name, bytes);
    world.fs.sync().unwrap();
}

/// Disks on which the power was cut in the middle of a sweep in transactions of `step` chunks.
fn cut_off_sweeps(step: usize) -> Vec<SimMedia> {
    let disk = new_disk();
    let world = World::with(&disk, &config(), Setting { step, ..Setting::default() }).unwrap();
    write(&world, "live", &random::content(1, LIVE));
    write(&world, "old", &random::content(2, GARBAGE));
    world.remove(ROOT_INO, "old");
    world.fs.sync().unwrap();
    let chunks = world.store.commits.counter(Counter::Chunks);
    let cuts: Arc<Mutex<(usize, Vec<SimMedia>)>> = Arc::default();
    let (inside, seen, of) = (world.fs.clone(), cuts.clone(), disk.clone());
    world.collector.set_hook(Some(Arc::new(move |point| {
        let mut seen = seen.lock().unwrap();
        if point == Point::MidSweep {
            seen.0 += 1;
            if seen.0 % 41 == 1 || step > 100 {
                // What the sweep has removed becomes durable with what somebody else commits.
                let name = format!("between {}", seen.0);
                inside
                    .mknod(ROOT_INO, name.as_bytes(), crate::world::CALLER, libc::S_IFREG | 0o644, 0, 0)
                    .unwrap();
                inside.sync().unwrap();
                let number = seen.0 as u64;
                seen.1.push(of.cut_at(of.op_count(), number));
            }
        }
    })));
    let record = world.collector.run_cycle(false).unwrap();
    world.collector.set_hook(None);
    assert_eq!(record.condemned, chunks - world.store.commits.counter(Counter::Chunks));
    assert!(record.condemned as usize > GARBAGE / 16384 && world.read(world.find("live").unwrap()).is_ok());
    assert!(world.check().is_clean(), "{:?}", world.check());
    world.close().unwrap();
    let mut cuts = cuts.lock().unwrap();
    std::mem::take(&mut cuts.1)
}

/// What is wrong after a sweep that was cut off there.
fn look(disk: &SimMedia) -> Result<(), String> {
    let told = |error: cairnfs::Error| error.to_string();
    let world = World::open(disk, &config()).map_err(told)?;
    let report = world.check();
    if !report.is_clean() {
        return Err(format!("{:?}", report.findings));
    }
    // The same content again: what is found by its digest has to be there.
    let again = random::content(2, GARBAGE);
    write(&world, "again", &again);
    for (name, kind, len) in [("again", 2, GARBAGE), ("live", 1, LIVE)] {
        let bytes = world.find(name).and_then(|ino| world.read(ino)).map_err(told)?;
        if bytes != random::content(kind, len) {
            return Err(format!("{name} has other bytes"));
        }
    }
    world.collector.run_cycle(false).map_err(told)?;
    let report = world.check();
    if !report.is_clean() || report.unreferenced_chunks > 0 {
        return Err(format!("{} left over, {:?}", report.unreferenced_chunks, report.findings));
    }
    world.close().map_err(told)
}

/// With transactions of one chunk the digests are too many to be remembered, and all are looked at.
const STEPS: [usize; 2] = [1, 512];

#[test]
fn wherever_a_sweep_is_cut_off_what_is_found_is_there() {
    let _all = protected();
    for step in STEPS {
        let cuts = cut_off_sweeps(step);
        assert!(cuts.len() >= 2, "digests and chunks are removed one after the other");
        for (number, disk) in cuts.iter().enumerate() {
            assert_eq!(look(disk), Ok(()), "step {step}, cut {number}");
        }
    }
}

#[test]
fn without_digests_first_a_sweep_that_is_cut_off_loses_data() {
    let _taken_out = without(&[Protection::DigestsFirst]);
    for step in STEPS {
        let wrong = cut_off_sweeps(step).iter().filter_map(|disk| look(disk).err()).next();
        println!("step {step}: {}", wrong.as_deref().unwrap_or("nothing"));
        assert!(wrong.is_some(), "step {step}: the test beside this one would notice nothing");
    }
}

/// Puts the row of a region whose chunks have these ids.
fn put_row(store: &Store, from: u64, to: u64) {
    let entry = |id| Some(RegionEntry { len: 1, digest: Digest::of(&u64::to_be_bytes(id)) });
    let at = Location { pack: PackId(1), offset: 64, len: 8 };
    let row = RegionRow { first: ChunkId(from), at, plain: 8, entries: (from..to).map(entry).collect() };
    store
        .commits
        .rewrite(true, |txn, _| {
            txn.put(Table::Regions, &id_key(from), &row.encode());
            Ok(())
        })
        .unwrap();
}

/// A row is split, as by a healing, after its chunks were condemned: each part is removed, wherever in the ids it
/// begins.
#[test]
fn a_row_that_is_split_after_the_look_goes_with_all_its_parts() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    // Ids that the sweep takes together end at a multiple of 4096.
    let (first, boundary, end) = (3 * 4096 - 4, 3 * 4096, 3 * 4096 + 4);
    put_row(&world.store, first, end);
    let (store, split) = (world.store.clone(), Mutex::new(Some((first, boundary, end))));
    world.collector.set_hook(Some(Arc::new(move |point| {
        if point == Point::Condemned
            && let Some((first, boundary, end)) = split.lock().unwrap().take()
        {
            put_row(&store, first, boundary);
            put_row(&store, boundary, end);
        }
    })));
    assert_eq!(world.collector.run_cycle(false).unwrap().condemned, end - first);
    world.collector.set_hook(None);
    let mut left = 0;
    let count = |_: &[u8], _: &[u8]| {
        left += 1;
        Ok(true)
    };
    world.store.layers().scan(Table::Regions, Bound::Unbounded, Bound::Unbounded, count).unwrap();
    assert_eq!(left, 0, "parts of the row are left");
    world.close().unwrap();
}
