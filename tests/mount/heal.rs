//! Damaged data on a real mount: it is refused, found, and whole again once its content is written again.

use std::fs;
use std::path::PathBuf;

use crate::data::Tree;
use crate::world::World;

/// All packs of a store.
pub fn packs(world: &World) -> Vec<PathBuf> {
    let dirs = fs::read_dir(world.store.join("packs")).unwrap();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Flips a byte every 8 KiB of every pack, behind its header.
fn damage(world: &World) {
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
