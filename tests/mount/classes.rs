//! Ways in which stores of this kind have lost data, on the real mount: garbage that is found again (2), a writer that
//! stands still (3), a lock that is ignored (7), a name whose file is gone (9), chunks that are shared in odd ways (10).
//! Each with the protection taken out as well. The advisory itself (1) is in `advisory.rs`, crashes (5, 11) in
//! `crash.rs`, and what needs a disk that can be told to fail (4, 6, 8) in `tests/filesystem`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::data::{Tree, noise};
use crate::pause::POINTS;
use crate::sabotage::{base, lost_only_without};
use crate::sys;
use crate::world::{Setup, World, run, tool, wait_for};

/// Writes a snapshot and deletes it: its chunks are garbage from here on.
fn make_garbage(world: &World, tree: &Tree, name: &str) {
    let dir = world.mnt.join(name);
    tree.write(&dir);
    world.sync();
    tool!("rm", "-rf", dir);
    world.deletions_done();
}

#[test]
fn class_02_garbage_is_found_again_at_every_point_of_the_cycle() {
    let Some(world) = World::usual() else { return };
    Tree::of(1, 8).write(&world.mnt.join("lives"));
    let mut written = Vec::new();
    for (n, point) in POINTS.iter().enumerate() {
        let tree = Tree::of(20 + n as u64, 8);
        make_garbage(&world, &tree, "garbage");
        let cycle = world.hold_cycle(point);
        let snapshot = world.mnt.join(format!("in-{point}"));
        tree.write(&snapshot);
        world.sync();
        let record = cycle.finish();
        // And once more when the cycle has ended, into another file.
        let after = world.mnt.join(format!("after-{point}"));
        tree.write(&after);
        println!("{point:>12}: {} condemned, {} marked", record["condemned"], record["marked"]);
        written.extend([(tree.clone(), snapshot), (tree, after)]);
    }
    world.gc();
    world.remount();
    for (tree, snapshot) in &written {
        tree.assert_at(snapshot);
    }
    world.close();
}

/// A program that copies a snapshot and stops in the middle of a file, as SIGSTOP does; killed when dropped.
struct Writer(Child);

impl Writer {
    /// Returns when it stands still: the first half of the directories is written, and half of one file.
    fn start(from: &Path, to: &Path, half: &Path, bytes: usize) -> Self {
        let script = r#"
            set -e
            mkdir -p "$2/d2" "$2/d3"
            cp -r "$1/d0" "$1/d1" "$2/"
            exec 3>"$2/$3"
            head -c "$4" "$1/$3" >&3
            kill -STOP $$
            tail -c "+$(($4 + 1))" "$1/$3" >&3
            exec 3>&-
            for file in $(cd "$1" && find d2 d3 -type f); do
                [ "$file" = "$3" ] || cp "$1/$file" "$2/$file"
            done
        "#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "writer"]).args([from, to, half]).arg(bytes.to_string());
        let writer = Self(command.stdin(Stdio::null()).spawn().expect("sh can be started"));
        wait_for("a writer that stands still", || sys::is_stopped(writer.0.id() as i32));
        writer
    }

    /// Lets it go on to its end.
    fn finish(mut self) {
        sys::kill(self.0.id() as i32, libc::SIGCONT);
        let ended = self.0.wait().unwrap();
        assert!(ended.success(), "the writer: {ended}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A writer of `tree` that stands still, and what it writes to.
fn writer(world: &World, tree: &Tree) -> (Writer, PathBuf) {
    let (source, to) = (world.host().join("source"), world.mnt.join("s1"));
    tree.write(&source);
    let half = tree.names().into_iter().find(|name| name.starts_with("d2")).unwrap();
    let bytes = tree.0[&half].len() / 2;
    (Writer::start(&source, &to, &half, bytes), to)
}

/// Class 3: what was written goes through the barrier, then its base is pruned; the writer sleeps through two cycles.
fn writer_begins_in_the_cycle(world: &World, tree: &Tree) -> PathBuf {
    let base = base(world, tree);
    let cycle = world.hold_cycle("flipped");
    let (writer, snapshot) = writer(world, tree);
    // What it has written so far has found its chunks.
    world.sync();
    tool!("rm", "-rf", base);
    world.deletions_done();
    cycle.finish();
    world.gc();
    writer.finish();
    snapshot
}

/// Class 3: the same with new data, written between the mark and the sweep.
fn writer_of_new_data(world: &World, tree: &Tree) -> PathBuf {
    base(world, &Tree::of(5, 4));
    let cycle = world.hold_cycle("marked");
    let (writer, snapshot) = writer(world, tree);
    world.sync();
    cycle.finish();
    world.gc();
    writer.finish();
    snapshot
}

#[test]
fn class_03_a_writer_that_stands_still_while_its_base_is_pruned() {
    lost_only_without("mark-on-hit,one-snapshot", Setup::default, writer_begins_in_the_cycle);
}

#[test]
fn class_03_a_writer_of_new_data_that_stands_still() {
    lost_only_without("watermark", Setup::default, writer_of_new_data);
}

#[test]
fn class_03_a_writer_that_stands_still_at_every_point() {
    for (n, point) in POINTS.iter().enumerate() {
        let Some(world) = World::usual() else { return };
        let tree = Tree::of(40 + n as u64, 12);
        let base = base(&world, &tree);
        // Stopped before the cycle begins, with half of a file in memory; woken while it is held.
        let (writer, snapshot) = writer(&world, &tree);
        let cycle = world.hold_cycle(point);
        tool!("rm", "-rf", base);
        world.deletions_done();
        writer.finish();
        cycle.finish();
        world.gc();
        world.remount();
        tree.assert_at(&snapshot);
        world.close();
    }
}

#[test]
fn without_the_lock_a_second_process_opens_the_store() {
    let Some(world) = World::new(Setup { sabotage: "store-lock", ..Setup::default() }) else { return };
    world.umount();
    let lock = File::options().read(true).write(true).open(world.store.join("lock")).unwrap();
    sys::flock(&lock, libc::LOCK_EX | libc::LOCK_NB).unwrap();
    // What `class_07_a_lock_that_somebody_holds` sees refused.
    let outcome = run(&mut world.mount_command());
    assert_eq!(outcome.code, 0, "{}", outcome.said());
    world.adopt_daemon();
    println!("caught: store-lock: the store was opened although its lock was held");
}

/// Reads every file below the mount; the first thing that was refused, or nothing.
fn walk(world: &World) -> String {
    let script = r#"find "$0" -type f -exec cat {} + 2>&1 >/dev/null | head -n 1"#;
    run(Command::new("sh").args(["-c", script]).arg(&world.mnt)).out
}

#[test]
fn class_09_after_a_kill_every_name_has_all_below_it() {
    let Some(world) = World::usual() else { return };
    for (n, point) in POINTS.iter().enumerate() {
        let tree = Tree::of(60 + n as u64, 12);
        let group = world.mnt.join(format!("group-{point}"));
        fs::create_dir(&group).unwrap();
        tree.write(&group.join("s0"));
        make_garbage(&world, &Tree::of(80 + n as u64, 4), "garbage");
        let mut cycle = world.hold_cycle(point);
        tree.write(&group.join("s1"));
        tool!("cp", "-a", "--reflink=auto", group.join("s0"), group.join("s2"));
        world.sync();
        tool!("rm", "-rf", group.join("s0"));
        fs::rename(&group, group.with_extension("renamed")).unwrap();
        world.kill();
        cycle.go_on();
        drop(cycle);
        world.mount();
        assert_eq!(walk(&world), "", "killed at {point}");
        world.assert_clean();
        let renamed = group.with_extension("renamed");
        let group = if renamed.exists() { renamed } else { group };
        tree.assert_at(&group.join("s1"));
        tree.assert_at(&group.join("s2"));
    }
    world.gc();
    assert_eq!(walk(&world), "");
    world.close();
}

#[test]
fn class_10_odd_ways_of_sharing_on_the_mount() {
    let Some(world) = World::usual() else { return };
    let at = |name: &str| world.mnt.join(name);
    let one = noise(10, 200_000);
    fs::write(at("base"), &one).unwrap();
    fs::write(at("twice"), [&one[..], &one].concat()).unwrap();
    fs::hard_link(at("base"), at("link")).unwrap();
    tool!("cp", "--reflink=auto", at("base"), at("clone"));
    tool!("cp", "--reflink=auto", at("clone"), at("clone2"));
    tool!("cp", "--reflink=auto", at("clone2"), at("cut"));
    tool!("truncate", "-s", "77777", at("cut"));
    world.sync();
    let mut left: Vec<(&str, Vec<u8>)> = vec![
        ("base", one.clone()),
        ("twice", [&one[..], &one].concat()),
        ("link", one.clone()),
        ("clone", one.clone()),
        ("clone2", one.clone()),
        ("cut", one[..77_777].to_vec()),
    ];
    while !left.is_empty() {
        let (gone, _) = left.remove(0);
        fs::remove_file(at(gone)).unwrap();
        world.deletions_done();
        world.gc();
        world.remount();
        for (name, bytes) in &left {
            assert!(fs::read(at(name)).unwrap() == *bytes, "{name} without {gone}");
        }
        world.assert_clean();
    }
    for figure in ["chunks", "plain_bytes", "stored_bytes", "referenced_bytes", "deletion_queue"] {
        assert_eq!(world.figure(figure), 0, "{figure} when everything is gone");
    }
    world.close();
}
