//! Ways in which stores of this kind have lost data, one test each: a body whose name is on its way (4), an error read
//! as "empty" (8), a name whose file is gone (9). The others stand where their harness is: see `docs/collection.md`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairnfs::fs::{ROOT_INO, RenameFlags};
use cairnfs::gc::Point;
use cairnfs::media::Media;
use cairnfs::media::sim::{OpKind, SimMedia};
use cairnfs::sabotage::Protection;

use crate::races::{FILES, content, prune, write_snapshot};
use crate::random;
use crate::world::{World, config, new_disk, protected, without};

/// How long an event may take that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// True if all files of a snapshot are there as they were written.
fn is_whole(world: &World, name: &str, numbers: impl IntoIterator<Item = u64>) -> bool {
    let whole = |number: u64| {
        let ino = world.find(&format!("{name}/f{number}")).ok()?;
        world.read(ino).ok().filter(|bytes| *bytes == content(number))
    };
    numbers.into_iter().all(|number| whole(number).is_some())
}

/// Writes a snapshot whose chunks are in the open batch; returns when some of their bytes are on their way into a
/// pack. Nothing of it is committed.
fn append_without_names(world: &World, disk: &SimMedia, name: &str) {
    let (sender, appended) = channel();
    let sender = Mutex::new(sender);
    disk.set_fault(Box::new(move |op| {
        // The first write makes the pack's header, later ones append regions.
        if op.kind == OpKind::Write && op.path.starts_with("packs/") && op.offset > 0 {
            let _ = sender.lock().unwrap().send(());
        }
        None
    }));
    let dir = write_snapshot(world, name, 0..0);
    for number in 0..FILES {
        let ino = world.create(dir, &format!("f{number}"));
        world.fs.write(ino, 0, &content(number), false).unwrap();
        // To ask for a hole is to have the file cut into chunks; nothing is committed.
        world.fs.lseek(ino, 0, libc::SEEK_HOLE).unwrap();
    }
    appended.recv_timeout(PATIENCE).expect("a region is appended");
    disk.clear_faults();
}

/// Class 4, a cycle in the window: at `point` bytes are appended whose names are in no database yet.
fn appended_at(point: Point) -> Result<(), String> {
    let disk = new_disk();
    let world = Arc::new(World::open(&disk, &config()).unwrap());
    write_snapshot(&world, "s0", 100..102);
    world.fs.sync().unwrap();
    let (inside, on) = (Arc::downgrade(&world), disk.clone());
    let raced = AtomicBool::new(false);
    world.collector.set_hook(Some(Arc::new(move |at| {
        if at == point && !raced.swap(true, Ordering::SeqCst) {
            append_without_names(&inside.upgrade().unwrap(), &on, "s1");
        }
    })));
    let cycle = world.collector.run_cycle(false);
    world.collector.set_hook(None);
    cycle.map_err(|error| format!("the cycle: {error}"))?;
    world.fs.sync().map_err(|error| format!("sync: {error}"))?;
    let world = Arc::into_inner(world).expect("the hook is gone");
    world.close().map_err(|error| format!("closing: {error}"))?;
    let world = World::open(&disk, &config()).map_err(|error| format!("opening: {error}"))?;
    let whole = is_whole(&world, "s1", 0..FILES) && is_whole(&world, "s0", 100..102);
    let clean = world.check().is_clean();
    world.close().map_err(|error| error.to_string())?;
    if whole && clean { Ok(()) } else { Err(format!("whole: {whole}, clean: {clean}")) }
}

#[test]
fn class_04_a_cycle_between_the_body_and_its_name() {
    let _all = protected();
    for point in Point::ALL {
        assert_eq!(appended_at(point), Ok(()), "at {point}");
    }
}

#[test]
fn without_leaving_open_packs_alone_a_body_without_a_name_is_lost() {
    let _out = without(&[Protection::UnsealedStays]);
    let lost = appended_at(Point::Swept).expect_err("the pack was removed while it grew");
    println!("caught: UnsealedStays: appended at {}: {lost}", Point::Swept);
}

#[test]
fn class_04_the_power_is_cut_between_the_body_and_its_name() {
    let _all = protected();
    for seed in 0..8 {
        let disk = new_disk();
        let world = World::open(&disk, &config()).unwrap();
        write_snapshot(&world, "s0", 100..102);
        world.fs.sync().unwrap();
        append_without_names(&world, &disk, "s1");
        let cut = disk.cut_at(disk.op_count(), seed);
        world.close().unwrap();
        let world = World::open(&cut, &config()).unwrap();
        assert!(is_whole(&world, "s0", 100..102), "seed {seed}");
        assert!(world.check().is_clean(), "seed {seed}");
        // The bytes that nobody names may be there; the same content once more, and a cycle.
        write_snapshot(&world, "s2", 0..FILES);
        world.fs.sync().unwrap();
        world.collector.run_cycle(false).unwrap();
        assert!(is_whole(&world, "s2", 0..FILES) && is_whole(&world, "s0", 100..102), "seed {seed}");
        assert!(world.check().is_clean(), "seed {seed}");
        world.close().unwrap();
    }
}

/// A store with something to mark, to sweep, to move and to remove.
fn store_for_a_cycle() -> SimMedia {
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    write_snapshot(&world, "s0", 0..FILES);
    write_snapshot(&world, "garbage", 100..140);
    world.fs.sync().unwrap();
    let dir = world.find("garbage").unwrap();
    // All but one, so that a pack is left with little in it.
    for number in 100..139 {
        world.remove(dir, &format!("f{number}"));
    }
    world.fs.sync().unwrap();
    world.close().unwrap();
    disk.cut_at(disk.op_count(), 0)
}

/// What a cycle did in which one query failed.
struct Failed {
    /// The cycle said so.
    ended: bool,
    /// Packs were removed or punched after the failure, although it came before the sweep had ended.
    freed: bool,
    /// The query was asked.
    failed: bool,
}

/// Runs a cycle in which the `n`th query of the disk fails with EIO.
fn fail_query(disk: &SimMedia, n: u64) -> Failed {
    let disk = disk.cut_at(disk.op_count(), 0);
    let world = World::open(&disk, &config()).unwrap();
    let (asked, failed, freed) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)), Arc::default());
    let swept = Arc::new(AtomicBool::new(false));
    let (also_failed, also_freed, also_swept) = (failed.clone(), Arc::clone(&freed), swept.clone());
    disk.set_fault(Box::new(move |op| {
        let frees = matches!(op.kind, OpKind::Remove | OpKind::Punch) && op.path.starts_with("packs/");
        if frees && also_failed.load(Ordering::SeqCst) {
            AtomicBool::store(&also_freed, true, Ordering::SeqCst);
        }
        let is_query = !op.kind.is_change();
        if is_query && asked.fetch_add(1, Ordering::SeqCst) == n {
            also_failed.store(!also_swept.load(Ordering::SeqCst), Ordering::SeqCst);
            return Some(libc::EIO);
        }
        None
    }));
    let reached = swept.clone();
    world.collector.set_hook(Some(Arc::new(move |at| {
        reached.fetch_or(at == Point::Swept, Ordering::SeqCst);
    })));
    let ended = world.collector.run_cycle(false).is_err();
    world.collector.set_hook(None);
    disk.clear_faults();
    // A store that has seen such an error may refuse to close; what it holds is looked at in the next process.
    let _ = world.close();
    let world = World::open(&disk, &config()).unwrap();
    assert!(is_whole(&world, "s0", 0..FILES), "query {n}: something that was needed is gone");
    assert!(is_whole(&world, "garbage", 139..140), "query {n}");
    let report = world.check();
    assert!(report.is_clean(), "query {n}: {:?}", report.findings);
    world.collector.run_cycle(false).unwrap();
    assert!(is_whole(&world, "s0", 0..FILES) && world.check().is_clean(), "query {n}: the next cycle");
    world.close().unwrap();
    Failed { ended, freed: freed.load(Ordering::SeqCst), failed: failed.load(Ordering::SeqCst) }
}

#[test]
fn class_08_an_error_at_any_read_of_a_cycle_frees_nothing() {
    let _all = protected();
    let disk = store_for_a_cycle();
    let queries = {
        let disk = disk.cut_at(disk.op_count(), 0);
        let world = World::open(&disk, &config()).unwrap();
        let before = disk.query_count();
        let record = world.collector.run_cycle(false).unwrap();
        assert!(record.condemned > 0 && record.packs_removed > 0, "{record:?}");
        let queries = disk.query_count() - before;
        world.close().unwrap();
        queries
    };
    assert!(queries > 10, "only {queries} queries");
    let (mut ended, mut early) = (0, 0);
    for n in 0..queries {
        let cycle = fail_query(&disk, n);
        ended += u64::from(cycle.ended);
        if cycle.failed {
            early += 1;
            assert!(!cycle.freed, "query {n} failed before the end of the sweep, and space was freed");
        }
    }
    println!(
        "{queries} queries failed, one at a time: {ended} ended the cycle, {early} before the sweep had ended"
    );
    assert!(ended > 0 && early > 0, "the cycle reads something");
}

#[test]
fn class_08_a_part_of_a_region_is_never_a_short_read() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let bytes = random::content(9, 300_000);
    let ino = world.create(ROOT_INO, "f");
    world.fs.write(ino, 0, &bytes, false).unwrap();
    world.fs.sync().unwrap();
    world.close().unwrap();
    let (pack, len) = disk.files().into_iter().find(|(path, _)| path.ends_with(".pack")).unwrap();
    for left in [len / 2, len / 3, 100] {
        disk.open(&pack, true).unwrap().set_len(left).unwrap();
        let world = World::open(&disk, &config()).unwrap();
        let ino = world.find("f").unwrap();
        let (mut whole, mut refused) = (0, 0);
        for at in (0..bytes.len()).step_by(10_000) {
            let end = (at + 10_000).min(bytes.len());
            match world.fs.read(ino, at as u64, 10_000) {
                Ok(found) => {
                    assert!(found == bytes[at..end], "a read at {at} gave {} of {}", found.len(), end - at);
                    whole += 1;
                }
                Err(error) => {
                    assert_eq!(error.errno(), libc::EIO, "{error}");
                    refused += 1;
                }
            }
        }
        println!("{left} of {len} bytes of the pack are left: {whole} reads whole, {refused} refused");
        assert!(refused > 0);
        assert!(!world.check().is_clean());
        world.close().unwrap();
    }
}

/// Class 8, the other way round: what cannot be read for a moment is not missing, and not free.
#[test]
fn class_08_a_region_that_cannot_be_read_is_not_missing() {
    let _all = protected();
    let disk = store_for_a_cycle();
    let world = World::open(&disk, &config()).unwrap();
    disk.set_fault(Box::new(|op| {
        let read = op.kind == OpKind::Read && op.path.starts_with("packs/");
        read.then_some(libc::EIO)
    }));
    let record = world.collector.run_cycle(false).unwrap();
    println!(
        "{} packs removed, {} moved while no pack could be read",
        record.packs_removed, record.packs_compacted
    );
    assert!(!is_whole(&world, "s0", 0..1), "an error, not old bytes");
    disk.clear_faults();
    assert!(is_whole(&world, "s0", 0..FILES) && is_whole(&world, "garbage", 139..140));
    assert!(world.check().is_clean());
    world.collector.run_cycle(false).unwrap();
    assert!(is_whole(&world, "s0", 0..FILES) && is_whole(&world, "garbage", 139..140));
    world.close().unwrap();
}

#[test]
fn reads_at_every_point_of_a_cycle_find_what_was_written() {
    let _all = protected();
    for point in Point::ALL {
        // Opened anew: nothing is in anybody's memory.
        let world = Arc::new(World::open(&store_for_a_cycle(), &config()).unwrap());
        let (inside, read) = (Arc::downgrade(&world), Arc::new(AtomicU64::new(0)));
        let counted = read.clone();
        world.collector.set_hook(Some(Arc::new(move |at| {
            if at == point {
                let world = inside.upgrade().unwrap();
                assert!(is_whole(&world, "s0", 0..FILES) && is_whole(&world, "garbage", 139..140), "at {at}");
                counted.fetch_add(1, Ordering::SeqCst);
            }
        })));
        let record = world.collector.run_cycle(false).unwrap();
        world.collector.set_hook(None);
        assert!(read.load(Ordering::SeqCst) > 0, "the cycle came to {point}");
        assert!(record.packs_removed + record.packs_compacted > 0, "{record:?}");
        Arc::into_inner(world).expect("the hook is gone").close().unwrap();
    }
}

/// Looks every name up, from the root down, and reads every file; counts them.
fn walk(world: &World) -> Result<u64, String> {
    let mut dirs = vec![(ROOT_INO, String::new())];
    let mut seen = 0;
    while let Some((dir, path)) = dirs.pop() {
        let mut names: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let add = &mut |entry: &cairnfs::fs::DirEntry<'_>| {
            names.insert(entry.name.to_vec(), entry.ino);
            true
        };
        world.fs.readdir(dir, 0, add).map_err(|error| format!("{path}: {error}"))?;
        for (name, ino) in names {
            if name == b"." || name == b".." {
                continue;
            }
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            let failed = |error: cairnfs::Error| format!("{path}: {error}");
            let attr = world.fs.lookup(dir, &name).map_err(failed)?;
            world.fs.forget(attr.ino, 1);
            if attr.ino != ino {
                return Err(format!("{path} is {} and {ino}", attr.ino));
            }
            seen += 1;
            if attr.mode & libc::S_IFMT == libc::S_IFDIR {
                dirs.push((ino, path));
            } else {
                let found = world.read(ino).map_err(failed)?;
                if found.len() as u64 != attr.size {
                    return Err(format!("{path} has {} of {} bytes", found.len(), attr.size));
                }
            }
        }
    }
    Ok(seen)
}

/// Class 9: the power is cut at `point`, after snapshots were made, moved and pruned there.
fn cut_at(point: Point, seed: u64) -> Result<u64, String> {
    let disk = new_disk();
    let world = Arc::new(World::open(&disk, &config()).unwrap());
    let group = world.mkdir(ROOT_INO, "group");
    write_snapshot(&world, "s0", 0..FILES);
    write_snapshot(&world, "old", 300..301);
    world.fs.sync().unwrap();
    let state = Arc::new(Mutex::new(None));
    let (inside, cut, on) = (Arc::downgrade(&world), state.clone(), disk.clone());
    world.collector.set_hook(Some(Arc::new(move |at| {
        let mut cut = cut.lock().unwrap();
        if at != point || cut.is_some() {
            return;
        }
        let world = inside.upgrade().unwrap();
        write_snapshot(&world, "s1", 0..FILES);
        let (source, dir) = (world.find("old/f300").unwrap(), world.mkdir(ROOT_INO, "s2"));
        let clone = world.create(dir, "clone");
        world.fs.copy_file_range(source, 0, clone, 0, 1 << 30).unwrap();
        world.fs.rename(ROOT_INO, b"s2", group, b"s2", RenameFlags::default()).unwrap();
        world.fs.sync().unwrap();
        prune(&world, "s0");
        *cut = Some(on.cut_at(on.op_count(), seed));
    })));
    let ended = world.collector.run_cycle(false);
    world.collector.set_hook(None);
    let after = Arc::into_inner(world).expect("the hook is gone");
    let now = walk(&after);
    // What a sabotaged run leaves may not close.
    let _ = after.close();
    let cut = state.lock().unwrap().take().expect("the cycle came to the point");
    let world = World::open(&cut, &config()).map_err(|error| error.to_string())?;
    let seen = walk(&world);
    let clean = world.check().is_clean();
    world.close().map_err(|error| error.to_string())?;
    ended.map_err(|error| error.to_string())?;
    let (now, seen) = (now?, seen?);
    if clean { Ok(now + seen) } else { Err("the check found damage".to_owned()) }
}

#[test]
fn class_09_every_name_that_can_be_looked_up_has_all_below_it() {
    let _all = protected();
    let mut seen = 0;
    for point in Point::ALL {
        for seed in 0..3 {
            seen += cut_at(point, seed).unwrap_or_else(|lost| panic!("at {point}, seed {seed}: {lost}"));
        }
    }
    println!("{seen} names looked up, during cycles and after power cuts in them");
}

#[test]
fn without_both_halves_a_name_stays_whose_file_is_gone() {
    let _out = without(&[Protection::MarkOnHit, Protection::OneSnapshot]);
    let noticed = Point::ALL.into_iter().find_map(|point| Some((point, cut_at(point, 0).err()?)));
    let (point, lost) = noticed.expect("a walk that could not see the loss would be no walk");
    println!("caught: MarkOnHit, OneSnapshot: at {point}: {lost}");
}
