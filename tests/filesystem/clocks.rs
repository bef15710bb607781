//! Class 6: no clock decides about a chunk.
//!
//! The files' times are whatever somebody set them to; a cycle does the same whatever they are. That the code below
//! the collector reads no clock is a rule about the sources, which `structure.rs` checks; here it is checked that the
//! rule can fail.

use cairnfs::fs::{ROOT_INO, SetAttr, SetTime, Timestamp};
use cairnfs::gc::CycleRecord;

use crate::races::{FILES, clone_snapshot, prune, write_snapshot};
use crate::structure::clock_readings;
use crate::world::{CALLER, World, config, new_disk, protected};

/// Sets all times of a file or directory.
fn set_times(world: &World, path: &str, sec: i64) {
    let time = Timestamp { sec, nsec: 0 };
    let set = SetAttr {
        atime: Some(SetTime::At(time)),
        mtime: Some(SetTime::At(time)),
        ctime: Some(time),
        ..SetAttr::default()
    };
    world.fs.setattr(world.find(path).unwrap(), CALLER, &set).unwrap();
}

/// What a cycle decided. How long it took is nobody's choice, and which region came into which pack the workers'.
fn deeds(record: &CycleRecord) -> [u64; 5] {
    [record.roots, record.extents, record.marked, record.condemned, record.condemned_bytes]
}

/// The same store each time, but for the times of its files and the dates in its names.
fn cycle_with_times(old: i64, new: i64, names: [&str; 2]) -> [u64; 5] {
    let world = World::open(&new_disk(), &config()).unwrap();
    let [first, second] = names;
    write_snapshot(&world, first, 0..FILES);
    clone_snapshot(&world, first, second);
    write_snapshot(&world, "garbage", 100..110);
    for number in 0..FILES {
        set_times(&world, &format!("{first}/f{number}"), old);
        set_times(&world, &format!("{second}/f{number}"), new);
    }
    for number in 100..110 {
        set_times(&world, &format!("garbage/f{number}"), new);
    }
    set_times(&world, first, old);
    set_times(&world, second, new);
    world.fs.sync().unwrap();
    prune(&world, first);
    let garbage = world.find("garbage").unwrap();
    for number in 100..110 {
        world.remove(garbage, &format!("f{number}"));
    }
    world.fs.rmdir(ROOT_INO, b"garbage").unwrap();
    world.fs.forget(garbage, u64::MAX);
    let record = world.collector.run_cycle(false).unwrap();
    for number in 0..FILES {
        world.read(world.find(&format!("{second}/f{number}")).unwrap()).unwrap();
    }
    assert!(world.check().is_clean());
    world.close().unwrap();
    deeds(&record)
}

#[test]
fn class_06_the_times_of_files_change_nothing_that_a_cycle_does() {
    let _all = protected();
    let usual = cycle_with_times(1_700_000_000, 1_750_000_000, ["s0", "s1"]);
    assert!(usual.iter().all(|figure| *figure > 0), "{usual:?}");
    // 1901, 2446, the epoch; both orders; names that say the opposite.
    for (old, new) in [(-2_147_483_648, 15_032_385_535), (15_032_385_535, -2_147_483_648), (0, 0), (1, -1)] {
        for names in [["1970-01-01", "9999-12-31"], ["2999-01-01T00:00:00Z", "0001-01-01"]] {
            assert_eq!(cycle_with_times(old, new, names), usual, "{old}, {new}, {names:?}");
        }
    }
}

#[test]
fn class_06_a_clock_in_the_collector_would_be_seen() {
    for file in [
        "src/gc/sweep.rs",
        "src/store/put.rs",
        "src/pack/reader.rs",
        "src/media/host.rs",
        "src/fs/orphans.rs",
    ] {
        assert_eq!(clock_readings(file, "let live = row.live_bytes();\n"), Vec::<String>::new());
        for line in [
            "if chunk.born + DAY < Timestamp::now() {",
            "let now = std::time::SystemTime::now();",
            "let begin = Instant::now();",
            "let age = rustix::time::clock_gettime(ClockId::Realtime);",
            "let old = file.metadata()?.modified()?;",
            "if row.times.mtime < spared_since {",
            "let now = chrono::Utc::now();",
        ] {
            assert_eq!(clock_readings(file, line).len(), 1, "{file}: {line}");
        }
    }
}
