//! The schedules that lost data on a store whose collector was held at a pause point, one by one.
//!
//! Each runs twice. With everything in place the cycle is held at the flip, and then once at every step of the mark,
//! and nothing may be lost. With both halves of the protection taken out (no mark on a hit, and a mark that lists the
//! files once and reads each when it reaches it) the cycle is held where the schedule says, and exactly the files must
//! be lost that the schedule names: so it is the schedule that does it, and the controls, which must stay clean, prove
//! that the harness does not.

use std::ops::Bound;
use std::sync::{Arc, Mutex};

use cairnfs::fs::{ROOT_INO, RenameFlags};
use cairnfs::gc::Point;
use cairnfs::meta::Table;
use cairnfs::meta::rows::ino_of;
use cairnfs::sabotage::Protection;

use crate::races::{FILES, clone_snapshot, content, prune, write_snapshot};
use crate::world::{Setting, World, config, new_disk, protected, without};

/// Where the cycle is held.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    /// Right after the list of files was taken.
    Flip,
    /// In the instant before the first file of the base is read.
    BeforeBase,
    /// At the `n`th step of the mark.
    Step(usize),
    /// Right after the last file of the base was read.
    AfterBase,
}

struct Schedule {
    name: &'static str,
    at: At,
    /// After the base was written, before the cycle.
    before: fn(&World),
    /// While the cycle is held.
    inside: fn(&World),
    /// When it has ended.
    after: fn(&World),
    /// The files of the new snapshot that a collector without the protections loses.
    lost: &'static [u64],
}

const ALL: &[u64] = &[0, 1, 2, 3, 4, 5];
const NOTHING: fn(&World) = |_| {};

fn copy(world: &World, numbers: std::ops::Range<u64>) {
    write_snapshot(world, "s1", numbers);
    world.fs.sync().unwrap();
}

fn copy_and_prune(world: &World) {
    copy(world, 0..FILES);
    prune(world, "s0");
}

const SCHEDULES: [Schedule; 13] = [
    Schedule {
        name: "new snapshot and prune right after the list was taken",
        at: At::Flip,
        before: NOTHING,
        inside: copy_and_prune,
        after: NOTHING,
        lost: ALL,
    },
    Schedule {
        name: "in the instant before the base is opened",
        at: At::BeforeBase,
        before: NOTHING,
        inside: copy_and_prune,
        after: NOTHING,
        lost: ALL,
    },
    Schedule {
        name: "two prunes in a row with a snapshot between them",
        at: At::BeforeBase,
        before: NOTHING,
        inside: |world| {
            write_snapshot(world, "middle", 0..FILES);
            world.fs.sync().unwrap();
            prune(world, "s0");
            copy(world, 0..FILES);
            prune(world, "middle");
        },
        after: NOTHING,
        lost: ALL,
    },
    Schedule {
        name: "begun before the cycle, finished in it, then the base pruned",
        at: At::BeforeBase,
        before: |world| copy(world, 0..FILES / 2),
        inside: |world| {
            copy(world, FILES / 2..FILES);
            prune(world, "s0");
        },
        after: NOTHING,
        lost: &[3, 4, 5],
    },
    Schedule {
        name: "two files, one of them closed when the mark began",
        at: At::Flip,
        before: |world| copy(world, 0..1),
        inside: |world| {
            copy(world, 1..FILES);
            prune(world, "s0");
        },
        after: NOTHING,
        lost: &[1, 2, 3, 4, 5],
    },
    Schedule {
        name: "the group renamed, then the new snapshot and the prune",
        at: At::BeforeBase,
        before: NOTHING,
        inside: |world| {
            world.fs.rename(ROOT_INO, b"s0", ROOT_INO, b"renamed", RenameFlags::default()).unwrap();
            copy(world, 0..FILES);
            prune(world, "renamed");
        },
        after: NOTHING,
        lost: ALL,
    },
    Schedule {
        name: "half of the chunks shared with another group",
        at: At::BeforeBase,
        before: |world| {
            write_snapshot(world, "other", 0..FILES / 2);
            world.fs.sync().unwrap();
        },
        inside: copy_and_prune,
        after: NOTHING,
        lost: &[3, 4, 5],
    },
    Schedule {
        name: "cloned, then the base pruned",
        at: At::BeforeBase,
        before: NOTHING,
        inside: |world| {
            clone_snapshot(world, "s0", "s1");
            prune(world, "s0");
        },
        after: NOTHING,
        // A clone is asked of the barrier as well, and that is still in place.
        lost: &[],
    },
    Schedule {
        name: "begun before, finished in it, the base pruned after it",
        at: At::BeforeBase,
        before: |world| copy(world, 0..FILES / 2),
        inside: |world| copy(world, FILES / 2..FILES),
        after: |world| prune(world, "s0"),
        lost: &[],
    },
    Schedule {
        name: "control: nothing happens",
        at: At::Flip,
        before: |world| copy(world, 0..FILES),
        inside: NOTHING,
        after: |world| prune(world, "s0"),
        lost: &[],
    },
    Schedule {
        name: "control: no prune",
        at: At::BeforeBase,
        before: NOTHING,
        inside: |world| copy(world, 0..FILES),
        after: NOTHING,
        lost: &[],
    },
    Schedule {
        name: "control: everything is written anew",
        at: At::BeforeBase,
        before: |world| {
            prune(world, "s0");
            world.collector.run_cycle(false).unwrap();
        },
        inside: |world| copy(world, 0..FILES),
        after: NOTHING,
        lost: &[],
    },
    Schedule {
        name: "control: the base was read already",
        at: At::AfterBase,
        before: NOTHING,
        inside: copy_and_prune,
        after: NOTHING,
        lost: &[],
    },
];

/// The inodes of the store in the order in which the mark comes to them.
fn inodes(world: &World) -> Vec<u64> {
    let mut inodes = Vec::new();
    let all = Bound::Unbounded;
    let take = |key: &[u8], _: &[u8]| {
        inodes.push(ino_of(key)?);
        Ok(true)
    };
    world.store.layers().scan(Table::Inodes, all, all, take).unwrap();
    inodes
}

/// What a run came to.
struct Run {
    /// Files of the new snapshot that are not what was written.
    lost: Vec<u64>,
    /// The check found nothing.
    clean: bool,
    /// The cycle came to where it was to be held.
    held: bool,
}

/// Runs a schedule with the cycle held at `at`, with another cycle behind it.
fn run(schedule: &Schedule, at: At) -> Run {
    let world =
        Arc::new(World::with(&new_disk(), &config(), Setting { step: 1, ..Setting::default() }).unwrap());
    // A file before the base and one behind it, so that the mark has something to do at either side.
    write_snapshot(&world, "first", 100..101);
    write_snapshot(&world, "s0", 0..FILES);
    write_snapshot(&world, "last", 101..102);
    write_snapshot(&world, "garbage", 200..202);
    world.fs.sync().unwrap();
    prune_all(&world, "garbage", 200..202);
    let base: Vec<u64> = (0..FILES).filter_map(|number| world.find(&format!("s0/f{number}")).ok()).collect();
    (schedule.before)(&world);
    world.fs.drain_orphans().unwrap();
    world.fs.sync().unwrap();
    let order = inodes(&world);
    let place = |ino: Option<&u64>| ino.and_then(|ino| order.iter().position(|other| other == ino));
    let step = match at {
        At::Flip => None,
        At::Step(n) => Some(n),
        At::BeforeBase => Some(place(base.first()).unwrap_or(0)),
        At::AfterBase => Some(place(base.last()).map_or(0, |at| at + 1)),
    };
    let state = Arc::new(Mutex::new((0, false)));
    let (inside, seen, act) = (Arc::downgrade(&world), state.clone(), schedule.inside);
    world.collector.set_hook(Some(Arc::new(move |point| {
        let here = {
            let mut seen = seen.lock().unwrap();
            let here = match (point, step) {
                (Point::Flipped, None) => true,
                (Point::MidMark, Some(step)) => seen.0 == step,
                _ => false,
            };
            seen.0 += usize::from(point == Point::MidMark);
            seen.1 |= here;
            here
        };
        if here {
            act(&inside.upgrade().unwrap());
        }
    })));
    world.collector.run_cycle(false).unwrap();
    world.collector.set_hook(None);
    let held = state.lock().unwrap().1;
    (schedule.after)(&world);
    // The second cycle of a sound collector must not mind either; one over damage may end early.
    let _ = world.collector.run_cycle(false);
    world.fs.sync().unwrap();
    let whole = |number: u64| {
        let ino = world.find(&format!("s1/f{number}")).ok()?;
        world.read(ino).ok().filter(|bytes| *bytes == content(number))
    };
    let lost = (0..FILES).filter(|&number| held && whole(number).is_none()).collect();
    let clean = world.check().is_clean();
    Arc::into_inner(world).expect("the hook is gone").close().unwrap();
    Run { lost, clean, held }
}

fn prune_all(world: &World, name: &str, numbers: std::ops::Range<u64>) {
    let dir = world.find(name).unwrap();
    for number in numbers {
        world.remove(dir, &format!("f{number}"));
    }
}

#[test]
fn class_01_the_schedules_that_lost_data_lose_none() {
    let _all = protected();
    for schedule in &SCHEDULES {
        let at_flip = run(schedule, At::Flip);
        assert!(at_flip.held && at_flip.clean, "{}", schedule.name);
        assert_eq!(at_flip.lost, [0; 0], "{} at the flip", schedule.name);
        let mut steps = 0;
        loop {
            let run = run(schedule, At::Step(steps));
            if !run.held {
                break;
            }
            assert_eq!(run.lost, [0; 0], "{} at step {steps}", schedule.name);
            assert!(run.clean, "{} at step {steps}", schedule.name);
            steps += 1;
        }
        assert!(steps > 1, "{}: the mark has steps", schedule.name);
        println!("{:<62} kept at the flip and at {steps} steps of the mark", schedule.name);
    }
}

#[test]
fn without_both_halves_exactly_the_schedules_lose_what_they_say() {
    let _out = without(&[Protection::MarkOnHit, Protection::OneSnapshot]);
    for schedule in &SCHEDULES {
        let run = run(schedule, schedule.at);
        assert!(run.held, "{}: the cycle never came to {:?}", schedule.name, schedule.at);
        println!("{:<62} {:?}: lost {:?}", schedule.name, schedule.at, run.lost);
        assert_eq!(run.lost, schedule.lost, "{}", schedule.name);
        assert_eq!(run.clean, schedule.lost.is_empty(), "{}: the check sees what is lost", schedule.name);
    }
}

/// The step of the mark decides: as long as a file of the base was not read when it is pruned, it is lost.
#[test]
fn without_both_halves_each_step_of_the_mark_loses_what_it_has_not_read() {
    let _out = without(&[Protection::MarkOnHit, Protection::OneSnapshot]);
    let first = run(&SCHEDULES[0], At::BeforeBase);
    assert_eq!(first.lost, ALL);
    let mut losses = Vec::new();
    for step in 0.. {
        let run = run(&SCHEDULES[0], At::Step(step));
        if !run.held {
            break;
        }
        losses.push(run.lost);
    }
    println!("lost by the step at which the cycle was held: {losses:?}");
    for (before, after) in losses.iter().zip(&losses[1..]) {
        let read_meanwhile: Vec<u64> = before.iter().copied().filter(|f| !after.contains(f)).collect();
        assert!(after.iter().all(|f| before.contains(f)), "what was read is safe");
        assert!(read_meanwhile.len() <= 1, "a step reads one file");
    }
    assert_eq!(losses.first().unwrap(), ALL);
    assert!(losses.last().unwrap().is_empty(), "everything was read by then");
}
