//! Negative controls: with a protection taken out, the same schedules do lose data on the mount.
//!
//! Each schedule runs twice, with the protection and without. A test that could not see the loss would be no test.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::PathBuf;

use crate::data::{Tree, noise};
use crate::sys;
use crate::world::{Setup, World, tool, wait_for};

/// What a schedule leaves behind: a snapshot that has to be whole.
pub type Schedule = fn(&World, &Tree) -> PathBuf;

/// Runs a schedule with everything in place and with `sabotage`; the first must keep all data, the second must not,
/// and `check --data` must say so.
pub fn lost_only_without(sabotage: &'static str, setup: fn() -> Setup, schedule: Schedule) {
    let tree = Tree::small(0x5ab0);
    let Some(world) = World::new(setup()) else { return };
    let snapshot = schedule(&world, &tree);
    world.remount();
    tree.assert_at(&snapshot);
    world.assert_clean();
    drop(world);

    let Some(world) = World::new(Setup { sabotage, ..setup() }) else { return };
    let snapshot = schedule(&world, &tree);
    world.remount();
    let wrong = tree.differences(&snapshot);
    let found = world.ask(&["check", "--data"]);
    assert!(!wrong.is_empty(), "without {sabotage} nothing was lost: the schedule proves nothing");
    assert_eq!(
        found.code,
        6,
        "without {sabotage} {} files are lost, but check: {}",
        wrong.len(),
        found.said()
    );
    println!("caught: {sabotage}: {} of {} files lost", wrong.len(), tree.0.len());
}

/// S0 in the store, durable.
pub fn base(world: &World, tree: &Tree) -> PathBuf {
    let base = world.mnt.join("s0");
    tree.write(&base);
    world.sync();
    base
}

/// Writes a snapshot while a cycle is held at `point`, and does `then` before the cycle goes on.
fn written_at(world: &World, tree: &Tree, point: &str, then: impl FnOnce()) -> PathBuf {
    let cycle = world.hold_cycle(point);
    let snapshot = world.mnt.join("s1");
    tree.write(&snapshot);
    then();
    cycle.finish();
    snapshot
}

/// Class 2: what was garbage at the flip is found by its digest between mark and sweep.
fn garbage_is_hit_after_the_mark(world: &World, tree: &Tree) -> PathBuf {
    tool!("rm", "-rf", base(world, tree));
    world.deletions_done();
    written_at(world, tree, "marked", || world.sync())
}

/// Class 1, the four steps of the advisory.
fn base_is_pruned_after_the_flip(world: &World, tree: &Tree) -> PathBuf {
    let base = base(world, tree);
    written_at(world, tree, "flipped", || {
        tool!("rm", "-rf", base);
        world.deletions_done();
    })
}

/// Class 3: new data is written and committed while a cycle runs.
fn new_data_between_mark_and_sweep(world: &World, tree: &Tree) -> PathBuf {
    base(world, &Tree::small(1));
    written_at(world, tree, "marked", || world.sync())
}

/// Class 3: new data is in the open batch when the flip comes, and nothing but the flip commits it.
fn new_data_in_the_batch_at_the_flip(world: &World, tree: &Tree) -> PathBuf {
    base(world, &Tree::small(1));
    let written = world.mnt.join("s1");
    let snapshot = world.mnt.join("s2");
    let cycle = world.hold_cycle("before-flip");
    tree.write(&written);
    // A clone has the bytes of its source cut and put into the batch.
    for name in tree.names() {
        let to = snapshot.join(&name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(written.join(&name), to).unwrap();
    }
    cycle.finish();
    snapshot
}

/// Class 5: a remembered answer from before the cycle is used after it.
fn content_comes_again_after_the_cycle(world: &World, tree: &Tree) -> PathBuf {
    let base = base(world, tree);
    // A second copy is found, and that is remembered.
    let again = world.mnt.join("again");
    tree.write(&again);
    world.sync();
    tool!("rm", "-rf", base, again);
    world.deletions_done();
    let record = world.gc();
    assert!(record["condemned"].as_u64().unwrap() > 0, "{record}");
    let snapshot = world.mnt.join("s1");
    tree.write(&snapshot);
    snapshot
}

/// Nothing is committed but by sync and by the flip.
fn never_by_itself() -> Setup {
    Setup { options: "gc=off,commit=3600,cache=16M", ..Setup::default() }
}

#[test]
fn without_the_mark_on_a_hit_garbage_that_is_hit_is_lost() {
    lost_only_without("mark-on-hit", Setup::default, garbage_is_hit_after_the_mark);
}

#[test]
fn without_mark_on_a_hit_and_one_snapshot_the_advisory_loses_data() {
    lost_only_without("mark-on-hit,one-snapshot", Setup::default, base_is_pruned_after_the_flip);
}

#[test]
fn without_the_watermark_new_data_is_lost() {
    lost_only_without("watermark", Setup::default, new_data_between_mark_and_sweep);
}

#[test]
fn without_the_drain_before_the_snapshot_the_open_batch_is_lost() {
    lost_only_without("drain-before-snapshot", never_by_itself, new_data_in_the_batch_at_the_flip);
}

#[test]
fn without_forgetting_what_comes_again_is_lost() {
    lost_only_without("clear-digest-cache", Setup::default, content_comes_again_after_the_cycle);
}

/// A file is open and has no name while its chunks are collected, or its rows removed; true if it still reads right.
fn survives_without_a_name(sabotage: &'static str) -> Option<bool> {
    let world = World::new(Setup { sabotage, ..Setup::default() })?;
    let path = world.mnt.join("open");
    let bytes = noise(77, 300_000);
    fs::write(&path, &bytes).unwrap();
    world.sync();
    // Mounted anew, so that nothing of it is in anybody's memory.
    world.remount();
    let mut file = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    world.sync();
    if sabotage == "wait-for-forget" {
        wait_for("an empty deletion queue", || world.figure("deletion_queue") == 0);
    } else {
        assert_eq!(world.figure("deletion_queue"), 1, "it waits for the program that has it open");
    }
    world.gc();
    sys::forget_pages(&file);
    let mut found = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut found));
    Some(read.is_ok() && found == bytes)
}

#[test]
fn without_marking_open_files_they_lose_their_data() {
    for (sabotage, survives) in [("", true), ("mark-orphans", false), ("wait-for-forget", false)] {
        let Some(found) = survives_without_a_name(sabotage) else { return };
        assert_eq!(found, survives, "with `{sabotage}` taken out");
    }
}
