//! The log of commits under a store: replayed it says what was seen before, folded it says the same, and damage of it
//! is told.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairnfs::check::repair::repair;
use cairnfs::media::Media;

use cairnfs::fs::{ROOT_INO, RenameFlags, SetAttr};
use cairnfs::media::sim::{Op, OpKind, SimMedia};
use cairnfs::meta::Table;
use cairnfs::meta::log::{FOLDED_KEY, LOG_FILE};
use cairnfs::sabotage::Protection;
use cairnfs::store::StoreConfig;

use crate::random::{self, Random, seeds};
use crate::world::{CALLER, World, config, new_disk, protected, without};

pub const BLOCK: usize = 4096;

/// All rows of a store, however they stand.
fn rows(world: &World) -> BTreeMap<(&'static str, Vec<u8>), Vec<u8>> {
    let (layers, mut rows) = (world.store.layers(), BTreeMap::new());
    for table in Table::ALL {
        let each = |key: &[u8], value: &[u8]| {
            // How far the log is folded is what differs.
            if key != FOLDED_KEY {
                rows.insert((table.name(), key.to_vec()), value.to_vec());
            }
            Ok(true)
        };
        layers.scan(table, Bound::Unbounded, Bound::Unbounded, each).unwrap();
    }
    rows
}

/// Some files come and go, each step durable, and now and then what is in the log is folded.
fn work(world: &World, random: &mut Random) {
    for step in 0..40 {
        let name = format!("f{}", random.below(12));
        match random.below(6) {
            0 => world.store.commits.fold().unwrap(),
            1 if world.find(&name).is_ok() => world.remove(ROOT_INO, &name),
            2 => drop(world.fs.drain_orphans()),
            _ => {
                let ino = world.find(&name).unwrap_or_else(|_| world.create(ROOT_INO, &name));
                let bytes = random::content(step + random.below(5), 1 + random.below(20_000) as usize);
                world.fs.write(ino, 0, &bytes, false).unwrap();
            }
        }
        if random.below(3) > 0 {
            world.fs.sync().unwrap();
        }
    }
    world.fs.sync().unwrap();
}

#[test]
fn a_store_says_the_same_however_much_of_it_is_in_the_log() {
    let _all = protected();
    let mut replayed = 0;
    for seed in seeds("log and fold", 500, 12) {
        let disk = new_disk();
        let world = World::open(&disk, &config()).unwrap();
        work(&world, &mut Random::new(seed));
        let wanted = rows(&world);
        // Killed, so that the log is replayed.
        let killed = disk.cut_at(disk.op_count(), seed);
        world.close().unwrap();

        let world = World::open(&killed, &config()).unwrap();
        replayed += usize::from(!world.store.layers().view.runs().is_empty());
        assert!(rows(&world) == wanted, "seed {seed}: replayed");
        world.store.commits.fold().unwrap();
        assert!(world.store.layers().view.runs().is_empty());
        assert!(rows(&world) == wanted, "seed {seed}: folded");
        let again = killed.cut_at(killed.op_count(), seed);
        world.close().unwrap();

        let world = World::open(&again, &config()).unwrap();
        assert!(world.store.layers().view.runs().is_empty());
        assert!(rows(&world) == wanted, "seed {seed}: opened once more");
        assert!(world.check().is_clean());
        world.close().unwrap();
    }
    assert!(replayed > 6, "the log had something {replayed} times");
}

/// What is durable is not made durable once more; what is not, is.
#[test]
fn fdatasync_of_a_durable_file_costs_nothing() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let ino = world.save("f", b"first");
    world.fs.fdatasync(ino).unwrap();
    // Others have rows in the open batch.
    let other = world.save("other", b"bytes");
    world.fs.setattr(other, CALLER, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    let before = disk.op_count();
    world.fs.fdatasync(ino).unwrap();
    assert_eq!(disk.op_count(), before, "nothing of it is new");
    // An fsync is a point in the order of all changes.
    world.fs.fsync(ino).unwrap();
    assert!(disk.op_count() > before);
    // Each kind of change is seen: bytes, a row, a name; also by one who has it read again.
    let changes: [&dyn Fn(); 4] = [
        &|| world.fs.write(ino, 0, b"other", false).unwrap(),
        &|| {
            world.fs.setattr(ino, CALLER, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
        },
        &|| {
            world.fs.link(ino, ROOT_INO, b"g").unwrap();
        },
        &|| world.fs.rename(ROOT_INO, b"g", ROOT_INO, b"h", RenameFlags::default()).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        change();
        let before = disk.op_count();
        world.fs.fdatasync(ino).unwrap();
        assert!(disk.op_count() > before, "change {number}");
        let killed = disk.cut_at(disk.op_count(), number as u64);
        let world = World::open(&killed, &config()).unwrap();
        assert_eq!(world.read(world.find("f").unwrap()).unwrap(), b"other");
        let names = [world.find("g").is_ok(), world.find("h").is_ok()];
        assert_eq!(names, [number == 2, number == 3]);
        world.close().unwrap();
    }
    world.close().unwrap();
}

pub const FILES: u64 = 6;

pub fn content(number: u64) -> Vec<u8> {
    random::content(number, 2_000 + 2_000 * number as usize)
}

/// A store that was killed with one file in the database and others in entries of the log.
pub fn killed() -> (SimMedia, StoreConfig) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    for number in 0..FILES {
        let ino = world.save(&format!("f{number}"), &content(number));
        world.fs.fsync(ino).unwrap();
        if number == 0 {
            world.store.commits.fold().unwrap();
        }
    }
    let killed = disk.cut_at(disk.op_count(), 1);
    world.close().unwrap();
    (killed, config)
}

/// Which files are there, each as it was written.
pub fn there(world: &World) -> Vec<u64> {
    let is_there = |number: &u64| match world.find(&format!("f{number}")) {
        Ok(ino) => {
            assert!(world.read(ino).unwrap() == content(*number), "f{number} has other bytes");
            true
        }
        Err(_) => false,
    };
    (0..FILES).filter(is_there).collect()
}

/// Every so many bytes of the log are changed, one at a time; how often the store was refused, how often it lost the
/// last file, and how often others.
fn change_bytes(stride: usize) -> (u64, u64, u64) {
    let (disk, config) = killed();
    let log = disk.contents(LOG_FILE).unwrap();
    let blocks: Vec<usize> = (0..log.len())
        .step_by(BLOCK)
        .filter(|at| log[*at..].iter().take(BLOCK).any(|byte| *byte != 0))
        .collect();
    let (mut refused, mut last, mut others) = (0, 0, 0);
    for at in blocks.into_iter().flat_map(|block| (block..block + BLOCK).step_by(stride)) {
        let hurt = disk.cut_at(disk.op_count(), 1);
        hurt.flip_byte(LOG_FILE, at as u64);
        match World::open(&hurt, &config) {
            Err(error) => {
                assert!(error.to_string().contains("cairnfs repair"), "{error}");
                refused += 1;
            }
            Ok(world) => {
                match there(&world).len() as u64 {
                    FILES => {}
                    some if some == FILES - 1 => last += 1,
                    _ => others += 1,
                }
                assert!(world.check().is_clean(), "byte {at}");
                world.close().unwrap();
            }
        }
    }
    (refused, last, others)
}

/// What others follow is refused. What stands last may never have been acknowledged: it is gone, and the log of the
/// daemon says so.
#[test]
fn a_changed_byte_of_the_log_loses_nothing_in_silence() {
    let _all = protected();
    // `CAIRNFS_LOG_STRIDE=1` is each byte.
    let stride = std::env::var("CAIRNFS_LOG_STRIDE").map_or(23, |word| word.parse().unwrap());
    let (refused, last, others) = change_bytes(stride);
    println!("refused {refused} times, the last commit gone {last} times");
    assert!(refused > 20 && last > 5, "{refused}, {last}");
    assert_eq!(others, 0);
}

#[test]
fn without_the_chain_a_changed_byte_of_the_log_loses_what_follows_it() {
    let _out = without(&[Protection::LogIsChained]);
    let (_, _, others) = change_bytes(1_801);
    assert!(others > 0);
}

/// Without its log a store that was in use has lost what was committed last; one that was closed has lost nothing.
#[test]
fn a_log_that_is_gone_is_missed_only_where_it_had_something() {
    let _all = protected();
    let (disk, config) = killed();
    disk.remove(LOG_FILE).unwrap();
    let error = World::open(&disk, &config).err().unwrap();
    assert!(error.to_string().contains("meta/log is missing"), "{error}");

    let (disk, config) = killed();
    World::open(&disk, &config).unwrap().close().unwrap();
    disk.remove(LOG_FILE).unwrap();
    let world = World::open(&disk, &config).unwrap();
    assert_eq!(there(&world).len() as u64, FILES);
    world.close().unwrap();
}

/// What a store has after a repair: all entries before the damaged one, and those behind it as far as they stand by
/// themselves; never other bytes.
pub fn repaired(hurt: &SimMedia, config: &StoreConfig) -> (Vec<u64>, cairnfs::check::repair::RepairReport) {
    let report = repair(&(Arc::new(hurt.clone()) as Arc<dyn Media>), config, true).unwrap();
    let world = World::open(hurt, config).unwrap();
    let files = there(&world);
    assert!(world.check().is_clean());
    world.close().unwrap();
    (files, report)
}

#[test]
fn a_repair_of_a_killed_store_has_what_is_in_its_log() {
    let _all = protected();
    let (disk, config) = killed();
    let copy = || disk.cut_at(disk.op_count(), 1);
    let all: Vec<u64> = (0..FILES).collect();

    // Nothing is damaged: nothing to repair, and the store opens with all of it.
    let (files, report) = repaired(&copy(), &config);
    assert!(files == all && !report.is_needed() && report.log_entries == FILES - 1, "{report:?}");

    // The second entry: the store is refused, and a repair has the first, and those behind as they are.
    let hurt = copy();
    hurt.flip_byte(LOG_FILE, BLOCK as u64 * 2 + 100);
    assert!(World::open(&hurt, &config).is_err());
    let (files, report) = repaired(&hurt, &config);
    assert!(report.done && report.lost_something() && report.log_fault.is_some(), "{report:?}");
    assert!(files.starts_with(&[0]) && files.len() as u64 >= FILES - 2, "{files:?}");

    // The log as a whole.
    let hurt = copy();
    hurt.remove(LOG_FILE).unwrap();
    let (files, report) = repaired(&hurt, &config);
    assert!(report.done && report.log_fault.is_some() && files == [0], "{files:?} {report:?}");
}

#[test]
fn a_repair_without_a_database_has_the_backup_and_the_log() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    for number in 0..FILES {
        let ino = world.save(&format!("f{number}"), &content(number));
        world.fs.fsync(ino).unwrap();
        if number == 2 {
            world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
        }
    }
    let hurt = disk.cut_at(disk.op_count(), 1);
    world.close().unwrap();
    hurt.remove("meta/cairnfs.redb").unwrap();
    let (files, report) = repaired(&hurt, &config);
    assert_eq!((files, report.log_entries), ((0..FILES).collect(), FILES - 3), "{report:?}");
}

/// Lets such operations on the log fail.
fn log_fails(disk: &SimMedia, kind: OpKind, errno: i32) {
    disk.set_fault(Box::new(move |op: &Op| (op.path == LOG_FILE && op.kind == kind).then_some(errno)));
}

/// A killed process may have written an entry without syncing it. Whoever opens the store next shows it, so it is durable by
/// then, also if nothing is written any more.
#[test]
fn what_an_opening_shows_is_durable() {
    let _all = protected();
    for full in [false, true] {
        let (disk, config) = (new_disk(), config());
        let world = World::open(&disk, &config).unwrap();
        world.fs.sync().unwrap();
        let ino = world.save("f", &content(1));
        log_fails(&disk, OpKind::Sync, libc::EIO);
        assert!(world.fs.fsync(ino).is_err());
        drop(world.close());
        match full {
            true => log_fails(&disk, OpKind::Write, libc::ENOSPC),
            false => disk.clear_faults(),
        }
        let world = World::open(&disk, &config).unwrap();
        disk.clear_faults();
        let ino = world.find("f").unwrap();
        world.fs.fsync(ino).unwrap();
        for seed in 0..30 {
            let hurt = disk.cut_at(disk.op_count(), seed);
            let world = World::open(&hurt, &config).unwrap();
            assert!(world.read(world.find("f").unwrap()).unwrap() == content(1), "seed {seed}");
            world.close().unwrap();
        }
        world.close().unwrap();
    }
}

/// The disk has no byte free when records that were acknowledged have to be put back.
#[test]
fn what_the_log_carries_is_put_back_on_a_full_disk() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    for number in 0..FILES {
        world.fs.fsync(world.save(&format!("f{number}"), &content(number))).unwrap();
    }
    // As mkfs leaves it.
    disk.open("reserve", true).unwrap().sync().unwrap();
    disk.sync_dir("").unwrap();
    let mut given_up = 0;
    for seed in 0..20 {
        let full = disk.cut_at(disk.op_count(), seed);
        full.set_capacity(Some(full.used()));
        let world = World::open(&full, &config).unwrap();
        assert_eq!(there(&world).len() as u64, FILES, "seed {seed}");
        given_up += usize::from(!full.exists("reserve").unwrap());
        world.close().unwrap();
    }
    assert!(given_up > 0);
    world.close().unwrap();
}

/// A log that is made anew has a name that survives a power cut.
#[test]
fn a_log_that_was_made_anew_is_found_again() {
    let _all = protected();
    let (disk, config) = killed();
    World::open(&disk, &config).unwrap().close().unwrap();
    disk.remove(LOG_FILE).unwrap();
    disk.sync_dir("meta").unwrap();
    let world = World::open(&disk, &config).unwrap();
    world.fs.fsync(world.save("new", b"bytes")).unwrap();
    for seed in 0..30 {
        let world = World::open(&disk.cut_at(disk.op_count(), seed), &config).unwrap();
        assert_eq!(world.read(world.find("new").unwrap()).unwrap(), b"bytes", "seed {seed}");
        world.close().unwrap();
    }
    world.close().unwrap();
}

/// A panic half-way leaves nobody to say what was done: nothing is changed any more (I8).
#[test]
fn a_fold_that_panics_is_the_last() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let ino = world.save("f0", &content(0));
    world.fs.fsync(ino).unwrap();
    disk.set_fault(Box::new(|op: &Op| {
        assert!(!op.path.starts_with("packs/") || op.kind != OpKind::Sync, "the test wants a panic here");
        None
    }));
    assert!(world.store.commits.fold().is_err());
    disk.clear_faults();
    assert!(world.store.commits.fold().is_err());
    assert!(world.store.batches.writable().is_err());
    assert_eq!(there(&world), [0]);
    drop(world.close());
    let world = World::open(&disk.cut_at(disk.op_count(), 1), &config).unwrap();
    assert_eq!(there(&world), [0]);
    world.close().unwrap();
}

/// A file of several regions, the first of which is in a pack when a sync of that begins, as a cycle does it for regions
/// that moved; fsync of the file is answered before that sync has done anything, and then the power is cut. How often the
/// file was lost.
fn power_cut_under_a_sync_of_packs() -> u64 {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let (bytes, begin) = (random::content(1, 100_000), world.store.packs.append_position());
    let ino = world.save("f", &bytes);
    world.fs.file_closed(ino);
    while world.store.packs.append_position() == begin {
        std::thread::yield_now();
    }
    let answered = Arc::new(AtomicU64::new(0));
    let (fs, noted, watched) = (world.fs.clone(), answered.clone(), disk.clone());
    disk.set_fault(Box::new(move |op: &Op| {
        let is_first = op.path.starts_with("packs/")
            && op.kind == OpKind::Sync
            && noted.fetch_max(1, Ordering::SeqCst) == 0;
        if is_first {
            fs.fsync(ino).unwrap();
            noted.store(watched.op_count(), Ordering::SeqCst);
        }
        None
    }));
    world.store.packs.sync().unwrap();
    disk.clear_faults();
    let at = answered.load(Ordering::SeqCst);
    assert!(at > 1, "the sync of the pack had something to do");
    let is_lost = |seed: &u64| {
        let world = World::open(&disk.cut_at(at, *seed), &config).unwrap();
        let read = world.find("f").and_then(|ino| world.read(ino));
        world.close().unwrap();
        read.map_or(true, |read| read != bytes)
    };
    let lost = (0..20).filter(is_lost).count() as u64;
    world.close().unwrap();
    lost
}

#[test]
fn a_commit_beside_a_sync_of_packs_has_its_bytes() {
    let _all = protected();
    assert_eq!(power_cut_under_a_sync_of_packs(), 0);
}

#[test]
fn without_carrying_what_is_under_a_sync_a_power_cut_loses_it() {
    let _out = without(&[Protection::CarriedUnderSync]);
    assert!(power_cut_under_a_sync_of_packs() > 0);
}

/// While a commit waits for the disk, and then in a fold, whoever wants figures gets them.
#[test]
fn statistics_wait_for_no_commit_and_say_what_is_in_the_log() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    world.fs.fsync(world.save("file", &random::content(1, 1000))).unwrap();
    let before = world.store.status().unwrap().log;
    assert!(before.bytes >= BLOCK as u64 && before.bytes_until_fold > 0, "{before:?}");
    assert!(before.bytes_on_disk >= before.bytes, "{before:?}");
    for held_file in [LOG_FILE, "meta/cairnfs.redb"] {
        world.save(held_file.trim_start_matches("meta/"), b"more");
        let ((held, holding), (release, released)) = (channel(), channel::<()>());
        let released = Mutex::new(released);
        disk.set_fault(Box::new(move |op: &Op| {
            if op.kind == OpKind::Sync && op.path == held_file {
                let _ = held.send(());
                // Until the other end is dropped.
                let _ = released.lock().unwrap().recv();
            }
            None
        }));
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| world.fs.sync().and_then(|()| world.store.commits.fold()));
            holding.recv().unwrap();
            let (answer, answered) = channel();
            let world = &world;
            scope.spawn(move || answer.send((world.fs.statfs().is_ok(), world.store.status().is_ok())));
            let answers = answered.recv_timeout(Duration::from_secs(60));
            drop(release);
            assert_eq!(answers, Ok((true, true)), "they waited for {held_file}");
            commit.join().unwrap().unwrap();
        });
        disk.clear_faults();
    }
    let after = world.store.status().unwrap().log;
    assert_eq!((after.bytes, after.folds), (0, before.folds + 2), "{after:?}");
    assert!(after.last_fold > 0 && after.bytes_until_fold > before.bytes_until_fold, "{after:?}");
    world.close().unwrap();
}
