//! A check of the data that is ended by a signal, a kill or an unmount goes on where it stopped; and the scrub of a
//! mount finds damage by itself.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::data::{Tree, noise};
use crate::heal::damage;
use crate::sys;
use crate::world::{Setup, World, program, wait_for};

/// A store with `bytes` of data that no two chunks of are the same.
fn fill(world: &World, bytes: usize) {
    fs::write(world.mnt.join("data"), noise(0x5eed, bytes)).unwrap();
    world.sync();
}

/// A check that would take half a minute, at the moment at which it has noted how far it is.
fn slow_check(world: &World) -> Child {
    let mut check = Command::new(program());
    check.args(["check", "--data", "--limit", "1M"]).arg(&world.store);
    let child = check.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the note of a check", || world.store.join("check.position").exists());
    child
}

fn resume(world: &World) -> Value {
    world.ask_json(&["check", "--data", "--resume"])
}

/// The check went on and was the rest of the whole.
fn assert_rest(report: &Value, all: u64) {
    let (before, now) = (report["resumed"]["bytes"].as_u64(), report["bytes_read"].as_u64());
    assert!(before.is_some_and(|before| before > 0), "{report}");
    assert_eq!(before.zip(now).map(|(before, now)| before + now), Some(all), "{report}");
}

#[test]
fn a_check_of_a_closed_store_goes_on_after_a_signal_and_after_a_kill() {
    let Some(world) = World::usual() else { return };
    fill(&world, 32 << 20);
    let all = world.figure("plain_bytes");
    world.umount();
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let child = slow_check(&world);
        sys::kill(child.id() as i32, signal);
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.signal(), Some(signal));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(said.contains("--resume"), signal == libc::SIGINT, "{said}");
        assert_rest(&resume(&world), all);
        assert!(!world.store.join("check.position").exists());
    }
    let again = world.ask(&["check", "--data", "--resume"]);
    assert!(again.code == 0 && again.out.contains("no check had been interrupted"), "{}", again.said());
    world.mount();
    world.close();
}

#[test]
fn a_check_that_an_unmount_ended_goes_on_closed_or_mounted() {
    let Some(world) = World::usual() else { return };
    fill(&world, 32 << 20);
    let all = world.figure("plain_bytes");
    for is_mounted in [true, false] {
        let child = slow_check(&world);
        world.umount();
        assert_ne!(child.wait_with_output().unwrap().status.code(), Some(0));
        if is_mounted {
            world.mount();
        }
        assert_rest(&resume(&world), all);
    }
    world.mount();
    world.close();
}

#[test]
fn the_scrub_of_a_mount_finds_damage_by_itself() {
    let options = "gc=off,commit=1,cache=16M,scrub=1s";
    let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
    Tree::small(0x5c2b).write(&world.mnt.join("s0"));
    world.umount();
    damage(&world);
    world.mount();
    let log = || fs::read_to_string(world.store.join("cairnfs.log")).unwrap_or_default();
    wait_for("a line of the scrub", || log().contains("not read back"));
    let log = log();
    let line = log.lines().find(|line| line.contains("not read back")).unwrap();
    assert!(line.contains("scrub: ") && line.contains("s0/d0/"), "{line}");
    wait_for("the figures of the scrub", || {
        let status = world.ask_json(&["status"]);
        let bad = |name: &str| status["scrub"][name].as_u64().unwrap();
        bad("bad").max(bad("last_bad")) > 0 && status["store"]["bad_chunks"].as_u64() > Some(0)
    });
    world.umount();
}
