//! What subvolumes add to the table of races: references come into being by a clone, by the copy of an ordinary
//! directory, and by the first write to a file that clones share; they vanish by a drop and its reap. Each of them with
//! the cycle held at every one of its points.

use std::sync::Arc;

use cairnfs::fs::SetAttr;
use cairnfs::gc::Point;
use cairnfs::media::sim::SimMedia;
use cairnfs::sabotage::Protection;

use crate::races::{FILES, content, cycle_with, prune, write_snapshot};
use crate::random;
use crate::world::{CALLER, World, config, new_disk, protected, without};

/// What happens while the cycle is held. Before, "plain" is an ordinary directory and "s0" a subvolume; afterwards
/// everything has to be in "s1".
#[derive(Debug, Clone, Copy, PartialEq)]
enum Race {
    /// S1 is cloned from S0, and S0 is dropped and reaped.
    CloneThenDrop,
    /// S1 is cloned from S0, whose files are then truncated and written anew.
    CloneThenOverwrite,
    /// S1 is a copy of the ordinary directory, which is then pruned.
    CopyThenPrune,
    /// S1 was cloned before; its files are written to for the first time, and S0 is dropped and reaped.
    FirstWrite,
    /// S1 was cloned before; S0 is dropped, and reaped in steps.
    Drop,
    /// S0 was dropped before, and is reaped.
    Reap,
    /// S0 was dropped and reaped before, and had rows that each of its two clones hides: an audit finds them.
    Audit,
    /// S0 was dropped before while somebody had a file of it open, who closes it.
    Forget,
    /// S1 was cloned before; its files are deleted, written anew, deleted below the whiteouts and written again.
    Delete,
    /// S1 was cloned before, without the files; those of S0 are cloned into it one by one, and S0 is dropped.
    CloneFiles,
}

const RACES: [Race; 10] = [
    Race::CloneThenDrop,
    Race::CloneThenOverwrite,
    Race::CopyThenPrune,
    Race::FirstWrite,
    Race::Drop,
    Race::Reap,
    Race::Audit,
    Race::Forget,
    Race::Delete,
    Race::CloneFiles,
];

fn drop_now(world: &World, name: &str) {
    world.drop_subvolume(world.find(name).unwrap(), name).unwrap();
    world.reap_subvolumes();
}

/// Appends to all files of a subvolume, which copies what they share.
fn write_first(world: &World, dir: &str) {
    for number in 0..FILES {
        let ino = world.find(&format!("{dir}/f{number}")).unwrap();
        world.fs.write(ino, content(number).len() as u64, b"more", false).unwrap();
    }
    world.fs.sync().unwrap();
}

fn remove_files(world: &World, dir: &str) {
    let dir = world.find(dir).unwrap();
    (0..FILES).for_each(|number| world.remove(dir, &format!("f{number}")));
}

/// What has to be there before; the file that somebody has open.
fn before(world: &World, race: Race) -> Option<u64> {
    let plain = write_snapshot(world, "plain", 0..FILES);
    write_snapshot(world, "garbage", 200..202);
    let s0 = world.clone_dir(plain, "s0").unwrap();
    if race != Race::CopyThenPrune {
        // What refers to the chunks is in subvolumes alone.
        prune(world, "plain");
    }
    if !matches!(race, Race::CloneThenDrop | Race::CloneThenOverwrite | Race::CopyThenPrune) {
        world.clone_dir(s0, "s1").unwrap();
    }
    if race == Race::CopyThenPrune {
        drop_now(world, "s0");
    }
    world.fs.sync().unwrap();
    let garbage = world.find("garbage").unwrap();
    for number in 200..202 {
        world.remove(garbage, &format!("f{number}"));
    }
    match race {
        Race::Reap => world.drop_subvolume(s0, "s0").unwrap(),
        Race::Audit => {
            world.clone_dir(s0, "s2").unwrap();
            ["s1", "s2"].iter().for_each(|name| write_first(world, name));
            world.drop_subvolume(s0, "s0").unwrap();
            // It is noted that nobody uses it; then it is reaped, and the audit is still to come.
            world.fs.reap_subvolumes().unwrap();
            world.fs.sync().unwrap();
            assert!(world.fs.reap_subvolumes().unwrap(), "there is an audit to come");
        }
        Race::Forget => {
            let open = world.fs.lookup(s0, b"f0").unwrap().ino;
            world.drop_subvolume(s0, "s0").unwrap();
            world.reap_subvolumes();
            return Some(open);
        }
        Race::CloneFiles => {
            remove_files(world, "s1");
            world.fs.sync().unwrap();
        }
        _ => {}
    }
    None
}

fn race_at_point(world: &World, race: Race, open: &Option<u64>) {
    match race {
        Race::CloneThenDrop => {
            world.clone_dir(world.find("s0").unwrap(), "s1").unwrap();
            drop_now(world, "s0");
        }
        Race::CloneThenOverwrite => {
            world.clone_dir(world.find("s0").unwrap(), "s1").unwrap();
            for number in 0..FILES {
                let ino = world.find(&format!("s0/f{number}")).unwrap();
                let empty = SetAttr { size: Some(0), ..SetAttr::default() };
                world.fs.setattr(ino, CALLER, &empty).unwrap();
                world.fs.write(ino, 0, &random::content(9000 + number, 20_000), false).unwrap();
            }
            world.fs.sync().unwrap();
        }
        Race::CopyThenPrune => {
            world.clone_dir(world.find("plain").unwrap(), "s1").unwrap();
            prune(world, "plain");
        }
        Race::FirstWrite => {
            write_first(world, "s1");
            drop_now(world, "s0");
        }
        Race::Drop => drop_now(world, "s0"),
        Race::Reap | Race::Audit => world.reap_subvolumes(),
        Race::Forget => {
            let open = open.expect("somebody has a file open");
            assert_eq!(world.read(open).unwrap(), content(0));
            world.fs.forget(open, u64::MAX);
            world.reap_subvolumes();
        }
        Race::Delete => {
            for _ in 0..2 {
                remove_files(world, "s1");
                write_snapshot(world, "s1", 0..FILES);
                world.fs.sync().unwrap();
            }
        }
        Race::CloneFiles => {
            let s1 = world.find("s1").unwrap();
            for number in 0..FILES {
                let source = world.find(&format!("s0/f{number}")).unwrap();
                let target = world.create(s1, &format!("f{number}"));
                world.fs.copy_file_range(source, 0, target, 0, 1 << 30).unwrap();
            }
            drop_now(world, "s0");
        }
    }
}

fn verify(world: &World, race: Race) -> Result<(), String> {
    for number in 0..FILES {
        let ino = world.find(&format!("s1/f{number}")).map_err(|error| format!("f{number}: {error}"))?;
        let got = world.read(ino).map_err(|error| format!("f{number}: {error}"))?;
        let mut wanted = content(number);
        if matches!(race, Race::FirstWrite | Race::Audit) {
            wanted.extend_from_slice(b"more");
        }
        if got != wanted {
            return Err(format!("f{number} has other bytes"));
        }
    }
    let report = world.check();
    if report.is_clean() && report.unfound_chunks == 0 { Ok(()) } else { Err(format!("{report:?}")) }
}

fn cell(race: Race, point: Point) -> Result<(), String> {
    let (disk, config): (SimMedia, _) = (new_disk(), config());
    let world = Arc::new(World::open(&disk, &config).unwrap());
    let open = before(&world, race);
    let ended = cycle_with(&world, point, move |world| race_at_point(world, race, &open));
    ended.and_then(|()| verify(&world, race))?;
    world.collector.run_cycle(false).map_err(|error| format!("the next cycle: {error}"))?;
    verify(&world, race)?;
    world.fs.sync().map_err(|error| error.to_string())?;
    let world = Arc::into_inner(world).expect("the hook is gone");
    world.close().map_err(|error| error.to_string())?;
    let world = World::open(&disk, &config).map_err(|error| error.to_string())?;
    let result = verify(&world, race);
    // And nothing is kept by what is gone.
    if race == Race::Audit {
        drop_now(&world, "s2");
    }
    let kept = world.find("s0").is_ok() || world.find("plain").is_ok();
    if !kept {
        drop_now(&world, "s1");
        world.collector.run_cycle(false).map_err(|error| error.to_string())?;
        let left = world.store.commits.counter(cairnfs::meta::Counter::ReferencedBytes);
        assert_eq!(left, 0, "{race:?} at {point}");
    }
    world.close().map_err(|error| error.to_string())?;
    result
}

#[test]
fn nothing_that_subvolumes_do_at_any_point_of_a_cycle_loses_anything() {
    let _all = protected();
    println!("{:<22}{}", "", Point::ALL.map(|point| format!("{:>13}", point.name())).join(""));
    for race in RACES {
        let mut line = format!("{:<22}", format!("{race:?}"));
        for point in Point::ALL {
            assert_eq!(cell(race, point), Ok(()), "{race:?} at {point}");
            line.push_str(&format!("{:>13}", "kept"));
        }
        println!("{line}");
    }
}

/// The first cell that loses something without a protection.
fn noticed(protection: Protection, race: Race) -> Option<String> {
    let _out = without(&[protection]);
    let lost = Point::ALL.into_iter().find_map(|point| Some((point, cell(race, point).err()?)));
    lost.map(|(point, lost)| format!("without {protection:?}: {race:?} at {point}: {lost}"))
}

#[test]
fn without_marking_subvolumes_what_they_refer_to_is_lost() {
    let lost = noticed(Protection::MarkSubvolumes, Race::Drop).expect("nothing noticed");
    println!("{lost}");
}

/// The end of the name of a directory that was open while it was dropped: what is in it can be read until then.
#[test]
fn what_is_remembered_of_a_dropped_subvolume_can_be_read() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let plain = write_snapshot(&world, "plain", 0..2);
    let root = world.clone_dir(plain, "s0").unwrap();
    prune(&world, "plain");
    // Looked up and not forgotten: somebody has it open.
    let open = world.fs.lookup(root, b"f0").unwrap().ino;
    world.drop_subvolume(root, "s0").unwrap();
    world.reap_subvolumes();
    world.collector.run_cycle(false).unwrap();
    assert_eq!(world.read(open).unwrap(), content(0));
    assert_eq!(world.fs.lookup(root, b"f1").unwrap_err().errno(), libc::ENOENT);
    assert!(world.fs.mkdir(root, b"new", CALLER, 0o755, 0).is_err());
    world.fs.forget(open, u64::MAX);
    world.reap_subvolumes();
    assert_eq!(world.store.commits.counter(cairnfs::meta::Counter::ReferencedBytes), 0);
    assert!(world.find("s0").is_err() && world.check().is_clean());
    world.close().unwrap();
}
