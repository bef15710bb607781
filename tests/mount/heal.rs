//! Damaged data on a real mount: it is refused, found, and whole again once its content is written again.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::data::Tree;
use crate::world::{World, command, program, run, wait_for};

/// All packs of a store.
pub fn packs(world: &World) -> Vec<PathBuf> {
    let dirs = fs::read_dir(world.store.join("packs")).unwrap();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Flips a byte every 8 KiB of every pack, behind its header.
pub fn damage(world: &World) {
    for pack in packs(world) {
        let mut bytes = fs::read(&pack).unwrap();
        bytes.iter_mut().skip(4096).step_by(8192).for_each(|byte| *byte ^= 0x10);
        fs::write(&pack, bytes).unwrap();
    }
}

#[test]
fn class_12_content_that_is_written_again_heals_every_file() {
    let Some(world) = World::usual() else { return };
    let tree = Tree::small(0x4ea1);
    tree.write(&world.mnt.join("s0"));
    tree.write(&world.mnt.join("s1"));
    world.umount();
    damage(&world);
    world.mount();

    assert_eq!(tree.differences(&world.mnt.join("s0")).len(), tree.0.len(), "nothing reads");
    for name in tree.0.keys() {
        let error = fs::read(world.mnt.join("s0").join(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}: {error}", name.display());
    }
    let found = world.ask(&["check", "--data"]);
    assert_eq!(found.code, 6, "{}", found.said());
    assert!(found.out.contains("s0/d0/f00") && found.out.contains("s1/d0/f00"), "{}", found.said());
    let bad = world.figure("bad_chunks");
    assert!(bad > 0);
    world.remount();
    assert_eq!(world.figure("bad_chunks"), bad, "it is remembered");
    let chunks = world.figure("chunks");

    tree.write(&world.mnt.join("s2"));
    tree.assert_at(&world.mnt.join("s2"));
    world.sync();
    for snapshot in ["s0", "s1", "s2"] {
        tree.assert_at(&world.mnt.join(snapshot));
    }
    assert_eq!((world.figure("bad_chunks"), world.figure("chunks")), (0, chunks));
    world.gc();
    world.remount();
    for snapshot in ["s0", "s1", "s2"] {
        tree.assert_at(&world.mnt.join(snapshot));
    }
    world.close();
}

/// What a repair says, and how it ends.
fn repair(world: &World, words: &[&str]) -> (i32, Value) {
    let outcome = run(command(program()).arg("repair").args(words).arg("--json").arg(&world.store));
    let report = serde_json::from_str(&outcome.out).unwrap_or_else(|_| panic!("{}", outcome.said()));
    (outcome.code, report)
}

#[test]
fn a_store_without_its_database_is_refused_and_repaired() {
    let Some(world) = World::usual() else { return };
    let tree = Tree::small(0x4e9a);
    tree.write(&world.mnt.join("s0"));
    let busy = world.ask(&["repair"]);
    assert_eq!(busy.code, 4, "it is mounted: {}", busy.said());
    world.umount();
    assert_eq!(repair(&world, &[]).0, 0, "nothing to repair");
    let backups = fs::read_dir(world.store.join("meta-backups")).unwrap().count();
    assert_eq!(backups, 1, "closing made one");
    let database = world.store.join("meta/cairnfs.redb");

    for cut in [None, Some(0), Some(10_000)] {
        match cut {
            None => fs::remove_file(&database).unwrap(),
            Some(len) => fs::File::options().write(true).open(&database).unwrap().set_len(len).unwrap(),
        }
        for words in [&["status"][..], &["check"], &["gc"]] {
            let refused = world.ask(words);
            assert_eq!(refused.code, 6, "{words:?}: {}", refused.said());
            assert!(refused.err.contains("cairnfs repair"), "{}", refused.said());
        }
        let (code, report) = repair(&world, &[]);
        assert!(code == 6 && report["done"] == false, "{report}");
        let (code, report) = repair(&world, &["--yes"]);
        assert!(code == 0 && report["done"] == true, "{report}");
        world.mount();
        tree.assert_at(&world.mnt.join("s0"));
        world.remount();
        world.gc();
        tree.assert_at(&world.mnt.join("s0"));
        world.umount();
        world.assert_clean();
    }
    world.mount();
    world.close();
}

#[test]
fn a_lost_pack_costs_its_files_and_no_others() {
    let Some(world) = World::usual() else { return };
    let (first, second) = (Tree::small(1), Tree::small(2));
    first.write(&world.mnt.join("s0"));
    world.remount();
    second.write(&world.mnt.join("s1"));
    world.umount();
    fs::remove_file(&packs(&world)[0]).unwrap();
    assert_eq!(world.ask(&["check"]).code, 6);
    let (code, report) = repair(&world, &["--yes"]);
    assert!(code == 6 && report["done"] == true, "{report}");
    assert_eq!(report["hurt_files"]["total"], first.0.len() as u64, "{report}");
    world.mount();
    second.assert_at(&world.mnt.join("s1"));
    let lost = world.mnt.join("lost+found/s0");
    assert_eq!(first.differences(&lost).len(), first.0.len());
    first.write(&world.mnt.join("again"));
    world.sync();
    first.assert_at(&lost);
    world.close();
}

/// A pack that is gone is damage that the status tells of, of a closed store and of a mounted one, before anything is read.
#[test]
fn a_pack_that_is_gone_is_told_by_the_status() {
    let Some(world) = World::usual() else { return };
    Tree::small(0x90ce).write(&world.mnt.join("s0"));
    world.umount();
    assert_eq!(world.ask(&["status"]).code, 0);
    packs(&world).iter().for_each(|pack| fs::remove_file(pack).unwrap());
    let closed = world.ask(&["status"]);
    assert!(closed.code == 6 && closed.out.contains("DAMAGE"), "{}", closed.said());
    assert!(closed.err.contains("cairnfs check --data"), "{}", closed.said());
    world.mount();
    wait_for("the mount to notice it", || world.ask(&["status"]).code == 6);
    let status = world.ask_json(&["status"]);
    assert_eq!(status["problems"][0]["kind"], "damage", "{status}");
    let log = || fs::read_to_string(world.store.join("cairnfs.log")).unwrap();
    wait_for("a line of the log", || {
        log().contains(".pack is not there, and chunks that are in use were in it")
    });
    world.umount();
}

/// The files that a check lists, copied once more from where they came from, are whole again in every snapshot; and the
/// check is in the log of the mounted store.
#[test]
fn what_a_check_lists_is_copied_again_and_heals() {
    let Some(world) = World::usual() else { return };
    let tree = Tree::small(0x4eb2);
    tree.write(&world.mnt.join("s0"));
    world.umount();
    damage(&world);
    world.mount();
    let list = world.host().join("list");
    let found = world.ask(&["check", "--data", "--list-damaged", list.to_str().unwrap()]);
    assert_eq!(found.code, 6, "{}", found.said());
    let log = fs::read_to_string(world.store.join("cairnfs.log")).unwrap();
    assert!(log.contains("check: ") && log.contains("s0/d0/f00"), "{log}");
    let listed = fs::read_to_string(&list).unwrap();
    let names: Vec<&str> = listed.split_terminator('\0').collect();
    assert_eq!(names.len(), tree.0.len(), "{names:?}");
    fs::create_dir(world.mnt.join("again")).unwrap();
    for (number, name) in names.into_iter().enumerate() {
        let content = &tree.0[&PathBuf::from(name.strip_prefix("s0/").unwrap())];
        fs::write(world.mnt.join(format!("again/{number}")), content).unwrap();
    }
    world.sync();
    tree.assert_at(&world.mnt.join("s0"));
    fs::remove_dir_all(world.mnt.join("again")).unwrap();
    world.gc();
    world.remount();
    tree.assert_at(&world.mnt.join("s0"));
    world.close();
}
