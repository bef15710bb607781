//! `mount -o remount`: what can be changed of a mount that is there, and what is refused.

use std::fs::{self, File};
use std::path::Path;

use crate::calls::errno;
use crate::skip::need_root;
use crate::world::{Outcome, Setup, World, command, is_mounted, mount_table, program, run};

fn remount(world: &World, words: &str) -> Outcome {
    run(command(program()).args(["mount", "-o", words]).args([&world.store, &world.mnt]))
}

/// The words of the mount table.
fn words(mnt: &Path) -> String {
    let table = mount_table();
    let line = table.lines().find(|line| line.split(' ').nth(1) == mnt.to_str());
    line.and_then(|line| line.split(' ').nth(3)).expect("it is mounted").to_owned()
}

#[test]
fn a_mount_becomes_read_only_and_writable_again() {
    let Some(world) = World::usual().filter(|_| need_root("a look as another user")) else { return };
    let file = world.mnt.join("file");
    let open = File::create(&file).unwrap();
    let said = remount(&world, "remount,ro");
    assert_eq!(said.code, 4, "{}", said.said());
    assert!(said.err.contains("open for writing"), "{}", said.err);
    drop(open);
    fs::write(&file, "before").unwrap();
    // As mount(8) says it: with what the table of mounts has.
    let said =
        remount(&world, "rw,user_id=0,group_id=0,default_permissions,allow_other,remount,ro,nodev,noexec");
    assert_eq!(said.code, 0, "{}", said.said());
    assert!(
        words(&world.mnt).starts_with("ro,") && words(&world.mnt).contains("noexec"),
        "{}",
        words(&world.mnt)
    );
    assert_eq!(errno(fs::write(&file, "after")), libc::EROFS);
    // All that was written is durable by then.
    world.kill();
    world.mount();
    assert_eq!(fs::read(&file).unwrap(), b"before");
    assert_eq!(remount(&world, "remount,ro,noexec").code, 0);
    assert_eq!(remount(&world, "remount,rw").code, 0);
    assert!(words(&world.mnt).contains("noexec"), "what is not said stays: {}", words(&world.mnt));
    fs::write(&file, "after").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"after");
    world.close();
}

#[test]
fn what_cannot_be_changed_is_refused() {
    let options = "ro,gc=off,cache=16M";
    let Some(world) =
        World::new(Setup { options, ..Setup::default() }).filter(|_| need_root("a look as another user"))
    else {
        return;
    };
    let said = remount(&world, "remount,rw");
    assert_eq!(said.code, 2, "{}", said.said());
    assert!(said.err.contains("was mounted read-only"), "{}", said.err);
    assert!(words(&world.mnt).starts_with("ro,"));
    let other =
        run(command(program()).args(["mount", "-o", "remount,ro"]).args([world.host(), world.mnt.clone()]));
    assert_eq!(other.code, 2, "{}", other.said());
    world.umount();
    let said = remount(&world, "remount,ro");
    assert_eq!(said.code, 2, "{}", said.said());
    assert!(said.err.contains("no cairnfs store is mounted") && !is_mounted(&world.mnt), "{}", said.err);
}
