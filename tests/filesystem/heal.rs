//! Healing: content that is written again makes the files whole that refer to damaged chunks of it; across openings,
//! with a cycle at every point, and whenever the power is cut.

use std::sync::{Arc, Mutex};

use cairnfs::check;
use cairnfs::chunk::ChunkId;
use cairnfs::fs::ROOT_INO;
use cairnfs::gc::Point;
use cairnfs::media::Media;
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::rows::id_key;
use cairnfs::meta::{Sums, Table, Txn};
use cairnfs::sabotage::Protection;
use cairnfs::store::StoreConfig;

use crate::random::{self, seed, seeds};
use crate::repair::{packs, reader};
use crate::world::{World, config, new_disk, protected, without};

const FILES: u64 = 6;

fn content(number: u64) -> Vec<u8> {
    random::content(70_000 + number, 20_000 + number as usize * 1_777)
}

fn garbage(number: u64) -> Vec<u8> {
    random::content(80_000 + number, 9_000)
}

fn write_snapshot(world: &World, name: &str) {
    let dir = world.mkdir(ROOT_INO, name);
    for number in 0..FILES {
        let ino = world.create(dir, &format!("f{number}"));
        world.fs.write(ino, 0, &content(number), false).unwrap();
    }
}

/// Snapshot s0, with what will be garbage in the same regions.
fn base(world: &World) {
    let (s0, other) = (world.mkdir(ROOT_INO, "s0"), world.mkdir(ROOT_INO, "other"));
    for number in 0..FILES {
        for (dir, bytes) in [(s0, content(number)), (other, garbage(number))] {
            let ino = world.create(dir, &format!("f{number}"));
            world.fs.write(ino, 0, &bytes, false).unwrap();
        }
    }
    // Nothing was stored yet: the chunks of both come into the same regions.
    world.fs.sync().unwrap();
    // Long files, so that whole packs have something to lose and something to keep.
    let ino = world.create(s0, "long");
    world.fs.write(ino, 0, &long(), false).unwrap();
    world.fs.sync().unwrap();
}

fn long() -> Vec<u8> {
    random::content(90_000, 400_000)
}

/// Flips the last byte of every region there is; returns how many there are.
fn damage_all(disk: &SimMedia) -> usize {
    let packs = packs(disk);
    let reader = reader(disk);
    let mut damaged = 0;
    for pack in packs.list().unwrap() {
        for (at, _) in reader.walk(pack).unwrap().regions {
            disk.flip_byte(&pack.path(), at.end() - 1);
            damaged += 1;
        }
    }
    damaged
}

/// The state of a snapshot's files: right, refused with EIO, or wrong.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    right: u64,
    refused: u64,
    wrong: u64,
}

fn look(world: &World, name: &str) -> Seen {
    let mut seen = Seen::default();
    for number in 0..FILES {
        let found = world.find(&format!("{name}/f{number}")).and_then(|ino| world.read(ino));
        match found {
            Ok(bytes) if bytes == content(number) => seen.right += 1,
            Ok(_) => seen.wrong += 1,
            Err(error) => {
                assert_eq!(error.errno(), libc::EIO, "{error}");
                seen.refused += 1;
            }
        }
    }
    seen
}

const WHOLE: Seen = Seen { right: FILES, refused: 0, wrong: 0 };
const LOST: Seen = Seen { right: 0, refused: FILES, wrong: 0 };

/// A store whose regions are all damaged, opened anew.
fn damaged_world() -> (SimMedia, StoreConfig, World) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    base(&world);
    world.close().unwrap();
    assert!(damage_all(&disk) > 10);
    let world = World::open(&disk, &config).unwrap();
    (disk, config, world)
}

#[test]
fn content_that_is_written_again_heals_old_files() {
    let _all = protected();
    let (disk, config, world) = damaged_world();
    assert_eq!(look(&world, "s0"), LOST);
    let bad = world.store.status().unwrap().bad_chunks;
    assert!(bad > 0);
    world.fs.sync().unwrap();
    world.close().unwrap();

    // What is bad is known also after opening the store again, without any read.
    let world = World::open(&disk, &config).unwrap();
    assert_eq!(world.store.status().unwrap().bad_chunks, bad);
    let options = check::Options::default();
    let report = check::check(&world.store, &options).unwrap();
    assert!(report.findings[0].files.iter().any(|file| file == "s0/f0"), "{report:?}");
    let chunks = world.store.status().unwrap().chunks;
    write_snapshot(&world, "s1");
    assert_eq!(look(&world, "s1"), WHOLE, "before any commit");
    world.fs.sync().unwrap();
    assert_eq!((look(&world, "s1"), look(&world, "s0")), (WHOLE, WHOLE));
    assert_eq!(world.store.status().unwrap().chunks, chunks, "the old ids were used");
    world.close().unwrap();

    let world = World::open(&disk, &config).unwrap();
    assert_eq!((look(&world, "s1"), look(&world, "s0")), (WHOLE, WHOLE));
    // The long file and the other one were not written again.
    let report = world.check();
    let hit: Vec<&String> = report.findings.iter().flat_map(|finding| &finding.files).collect();
    assert!(!hit.is_empty(), "what was not written again is still damaged");
    assert!(hit.iter().all(|file| *file == "s0/long" || file.starts_with("other/")), "{hit:?}");
    let ino = world.find("s0/long").unwrap();
    assert!(world.read(ino).is_err());
    let again = world.create(ROOT_INO, "long again");
    world.fs.write(again, 0, &long(), false).unwrap();
    let dir = world.mkdir(ROOT_INO, "other again");
    for number in 0..FILES {
        let ino = world.create(dir, &format!("f{number}"));
        world.fs.write(ino, 0, &garbage(number), false).unwrap();
    }
    world.fs.sync().unwrap();
    assert_eq!(world.read(ino).unwrap(), long());
    assert_eq!(world.check().findings, []);
    assert_eq!(world.store.status().unwrap().bad_chunks, 0);
    world.close().unwrap();
}

/// One chunk of a region has other bytes than its digest says, as after a mistake of the host's memory: its record's
/// sums are right. The bytes that are brought again are read from that moment on, also behind a good chunk of the same
/// region.
#[test]
fn what_was_brought_again_is_read_beside_what_was_always_good() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let bytes = content(3);
    let ino = world.save("f", &bytes);
    world.fs.sync().unwrap();
    let (mut row, region) = world.store.chunks.region_of(ChunkId(world.store.next_chunk().0 - 1)).unwrap();
    let bad = region.chunks[1];
    let whole = region.chunk(bad.id).unwrap().to_vec();
    let parts = region.chunks.iter().map(|chunk| (chunk.id, region.chunk(chunk.id).unwrap()));
    let wrong =
        |(id, part): (ChunkId, &[u8])| part.iter().map(|byte| byte ^ u8::from(id == bad.id)).collect();
    let plain: Vec<Vec<u8>> = parts.map(wrong).collect();
    let record = world.store.packs.encode(&region.chunks, &plain.concat());
    row.at = world.store.packs.append(&record).unwrap();
    world.store.packs.sync().unwrap();
    let moved = |txn: &mut Txn<'_>, _: &mut Sums| {
        txn.put(Table::Regions, &id_key(row.first.0), &row.encode());
        Ok(())
    };
    world.store.commits.rewrite(true, moved).unwrap();
    assert!(world.read(ino).unwrap() != bytes, "the test changed what is read");

    world.store.healing.mark_bad([bad.id], row.at.pack);
    let member = world.store.batches.join().unwrap();
    assert_eq!(world.store.chunks.put(&member, bad.digest, &whole, 0).unwrap(), bad.id);
    assert!(world.read(ino).unwrap() == bytes, "before any commit");
    drop(member);
    world.fs.sync().unwrap();
    assert!(world.read(ino).unwrap() == bytes);
    assert_eq!(world.check().findings, []);
    world.close().unwrap();
}

/// The points of a cycle, those of the sweep each time that it comes to them.
fn moments() -> impl Iterator<Item = (Point, usize)> {
    let in_the_sweep = |point| matches!(point, Point::Condemned | Point::MidSweep);
    Point::ALL
        .into_iter()
        .flat_map(move |point| (0..if in_the_sweep(point) { 6 } else { 1 }).map(move |nth| (point, nth)))
}

/// S0 is known to be damaged; when a cycle is at `point` after it was there `nth` times, its content is written as S1.
/// Both have to be whole then, and after one more cycle, and after opening the store again.
fn beside_a_cycle((point, nth): (Point, usize)) -> Result<(), String> {
    let (disk, config, world) = damaged_world();
    assert_eq!(look(&world, "s0"), LOST);
    world.fs.sync().unwrap();
    let other = world.find("other").unwrap();
    for number in 0..FILES {
        world.remove(other, &format!("f{number}"));
    }
    let world = Arc::new(world);
    let inside = Arc::clone(&world);
    let passed = Arc::new(Mutex::new(0));
    let times = Arc::clone(&passed);
    world.collector.set_hook(Some(Arc::new(move |at| {
        let mut times = times.lock().unwrap();
        *times += usize::from(at == point);
        if at == point && *times == nth + 1 {
            write_snapshot(&inside, "s1");
            inside.fs.sync().unwrap();
        }
    })));
    let cycle = world.collector.run_cycle(false).map_err(|error| format!("the cycle: {error}"))?;
    world.collector.set_hook(None);
    assert!(cycle.condemned > 0, "{cycle:?}");
    if *passed.lock().unwrap() <= nth {
        assert!(nth > 1, "{point} comes more than once");
        return Ok(());
    }
    let whole = |world: &World, when: &str| {
        let seen = (look(world, "s1"), look(world, "s0"));
        if seen == (WHOLE, WHOLE) { Ok(()) } else { Err(format!("{when}: {seen:?}")) }
    };
    whole(&world, "after the cycle")?;
    world.collector.run_cycle(false).map_err(|error| format!("the next cycle: {error}"))?;
    whole(&world, "after the next cycle")?;
    let long = world.find("s0").unwrap();
    world.remove(long, "long");
    world.collector.run_cycle(false).map_err(|error| format!("the third cycle: {error}"))?;
    let world = Arc::into_inner(world).expect("the hook is gone");
    world.close().map_err(|error| error.to_string())?;
    let world = World::open(&disk, &config).map_err(|error| error.to_string())?;
    whole(&world, "opened again")?;
    let report = world.check();
    let (bad, ended) = (world.store.status().unwrap().bad_chunks, world.close());
    ended.map_err(|error| error.to_string())?;
    if report.is_clean() && bad == 0 { Ok(()) } else { Err(format!("{bad} bad, {:?}", report.findings)) }
}

#[test]
fn healing_at_any_point_of_a_cycle_holds() {
    let _all = protected();
    for (point, nth) in moments() {
        assert_eq!(beside_a_cycle((point, nth)), Ok(()), "at {point} after {nth}");
    }
}

#[test]
fn a_healed_chunk_that_was_condemned_is_stored_as_a_new_one() {
    let _all = protected();
    let (_, _, world) = damaged_world();
    assert_eq!(look(&world, "s0"), LOST);
    let dir = world.find("s0").unwrap();
    for number in 0..FILES {
        world.remove(dir, &format!("f{number}"));
    }
    let world = Arc::new(world);
    let inside = Arc::clone(&world);
    world.collector.set_hook(Some(Arc::new(move |at| {
        if at == Point::Condemned && inside.find("s1").is_err() {
            write_snapshot(&inside, "s1");
            inside.fs.sync().unwrap();
        }
    })));
    world.collector.run_cycle(false).unwrap();
    world.collector.set_hook(None);
    assert_eq!(look(&world, "s1"), WHOLE);
    world.collector.run_cycle(false).unwrap();
    assert_eq!(look(&world, "s1"), WHOLE);
    Arc::into_inner(world).unwrap().close().unwrap();
}

/// Cuts the power at every operation of a healing; returns the first broken promise.
fn cut_everywhere(seed: u64) -> (u64, Option<String>) {
    let (disk, config, world) = damaged_world();
    assert_eq!(look(&world, "s0"), LOST);
    world.fs.sync().unwrap();
    let begin = disk.op_count();
    write_snapshot(&world, "s1");
    world.fs.sync().unwrap();
    let promised_from = disk.op_count();
    world.collector.run_cycle(false).unwrap();
    world.close().unwrap();
    let mut cuts = 0;
    for op in begin..=disk.op_count() {
        cuts += 1;
        let after = disk.cut_at(op, seed ^ op);
        let looked = after_cut(&after, &config, op >= promised_from);
        if let Err(broken) = looked {
            return (cuts, Some(format!("cut before operation {op}: {broken}")));
        }
    }
    (cuts, None)
}

fn after_cut(disk: &SimMedia, config: &StoreConfig, promised: bool) -> Result<(), String> {
    let world = World::open(disk, config).map_err(|error| format!("does not open: {error}"))?;
    let seen = look(&world, "s0");
    if seen.wrong > 0 || promised && (seen != WHOLE || look(&world, "s1") != WHOLE) {
        return Err(format!("{seen:?}"));
    }
    if let Ok(dir) = world.find("s1") {
        // What is there of S1 without a promise may be shorter, and is never other than what was written.
        for number in 0..FILES {
            let Ok(ino) = world.find(&format!("s1/f{number}")) else { continue };
            let bytes = world.read(ino).map_err(|error| format!("s1/f{number}: {error}"))?;
            if !content(number).starts_with(&bytes) {
                return Err(format!("s1/f{number} has other bytes"));
            }
        }
        assert_ne!(dir, 0);
    }
    write_snapshot(&world, "s2");
    world.fs.sync().map_err(|error| error.to_string())?;
    world.collector.run_cycle(false).map_err(|error| error.to_string())?;
    let seen = (look(&world, "s0"), look(&world, "s2"));
    world.close().map_err(|error| error.to_string())?;
    if seen == (WHOLE, WHOLE) { Ok(()) } else { Err(format!("after writing once more: {seen:?}")) }
}

#[test]
fn a_power_cut_while_healing_breaks_no_promise() {
    let _all = protected();
    for seed in seeds("healing", 300, 2) {
        let (cuts, broken) = cut_everywhere(seed);
        assert_eq!(broken, None, "seed {seed}");
        println!("{cuts} power cuts while healing, no promise broken");
        assert!(cuts > 20);
    }
}

#[test]
fn without_bytes_before_names_a_power_cut_while_healing_breaks_a_promise() {
    let first = seed("healing without syncs", 400);
    let _out = without(&[Protection::BytesBeforeNames]);
    let noticed = (first..first + 4).find_map(|seed| cut_everywhere(seed).1);
    println!("without bytes before names: {noticed:?}");
    assert!(noticed.is_some());
}

#[test]
fn without_bringing_the_bytes_a_new_copy_is_as_bad_as_the_old() {
    let _out = without(&[Protection::NeverReuseBad]);
    let (_, _, world) = damaged_world();
    assert_eq!(look(&world, "s0"), LOST);
    write_snapshot(&world, "s1");
    world.fs.sync().unwrap();
    assert_eq!(look(&world, "s1"), LOST, "a new copy was made of chunks known to be bad");
    world.close().unwrap();
}

#[test]
fn without_the_old_id_old_files_stay_damaged() {
    let _out = without(&[Protection::HealOldId]);
    let noticed = beside_a_cycle((Point::Begin, 0));
    println!("without the old id: {noticed:?}");
    assert!(noticed.is_err());
}

#[test]
fn without_reading_rows_again_a_cycle_undoes_a_healing() {
    let _out = without(&[Protection::SweepReadsAgain]);
    let noticed = moments().find_map(|moment| Some((moment, beside_a_cycle(moment).err()?)));
    println!("without reading rows again: {noticed:?}");
    assert!(noticed.is_some());
}

/// A pack that somebody removed is noticed without reading any data, and the same content heals what was in it. One
/// that a cycle removed is not missed, also where the list of packs is older than the cycle.
#[test]
fn a_pack_that_is_gone_is_noticed_and_heals() {
    let _protected = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    base(&world);
    world.close().unwrap();
    let look = |world: &World| world.store.healing.look_for_packs(&mut || Ok(())).unwrap();

    let world = World::open(&disk, &config).unwrap();
    assert_eq!((look(&world), world.store.status().unwrap().bad_chunks), (0, 0));
    let chunks = world.store.status().unwrap().chunks;
    world.close().unwrap();
    for pack in packs(&disk).list().unwrap() {
        disk.remove(&pack.path()).unwrap();
    }
    let world = World::open(&disk, &config).unwrap();
    assert_eq!(look(&world), chunks);
    assert_eq!(world.store.status().unwrap().bad_chunks, chunks);
    write_snapshot(&world, "s1");
    world.fs.sync().unwrap();
    assert!(world.store.status().unwrap().bad_chunks < chunks);
    for number in 0..FILES {
        assert_eq!(world.read(world.find(&format!("s0/f{number}")).unwrap()).unwrap(), content(number));
    }

    let older = world.store.layers().get(Table::State, b"packs").unwrap().unwrap();
    let before = packs(&disk).list().unwrap();
    for name in ["s0", "s1", "other"] {
        let dir = world.find(name).unwrap();
        for number in 0..FILES {
            world.remove(dir, &format!("f{number}"));
        }
    }
    world.collector.run_cycle(false).unwrap();
    let newer = world.store.layers().get(Table::State, b"packs").unwrap().unwrap();
    assert!(newer != older && packs(&disk).list().unwrap() != before, "packs went");
    let bad = world.store.status().unwrap().bad_chunks;
    for row in [newer, older] {
        world.store.batches.join().unwrap().rows.put(Table::State, b"packs", &row);
        // What is left of the packs that are gone is a long file, which nobody has written again.
        look(&world);
        assert_eq!(world.store.status().unwrap().bad_chunks, bad);
    }
    world.close().unwrap();
}
