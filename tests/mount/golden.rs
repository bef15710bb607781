//! A store that was made once and is kept: `tests/golden`. Every later program opens it, and finds in it what was put in.
//!
//! Keeps true: whoever changes a byte of the format sees it here, or in `tests/filesystem/golden.rs`, which compares the
//! rows. When the format gets another number, the store is made anew, in the place of the old one:
//!
//! ```text
//! CAIRNFS_GOLDEN=make cargo test --features sim --test mount golden
//! ```

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::calls;
use crate::data::{noise, text};
use crate::programs::script;
use crate::skip::{need_programs, need_root};
use crate::sys;
use crate::world::{Setup, World, cairnfs, run, tool};

const MKFS: &[&str] = &["--chunk-size", "4K", "--reserve", "512K"];

/// Files whose bytes the recipe knows.
fn known() -> Vec<(&'static str, Vec<u8>)> {
    let mut changed = noise(2, 50_000);
    changed[20_000..20_100].fill(b'x');
    vec![
        ("text", text(1, 90_000)),
        ("changed", changed.clone()),
        ("clone", changed),
        ("held/immutable", text(3, 20_000)),
        ("survivor", noise(4, 20_000)),
        ("short", b"short".to_vec()),
        ("empty", Vec::new()),
    ]
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Puts in at least one of everything that has a row of its own kind.
fn fill(world: &World) {
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir_all(at("held/below")).unwrap();
    fs::create_dir(at("grows")).unwrap();
    fs::write(at("gone"), noise(5, 60_000)).unwrap();
    for (name, bytes) in known().into_iter().filter(|(name, _)| *name != "clone") {
        fs::write(at(name), bytes).unwrap();
    }
    // Stored once, then changed inside a chunk.
    fs::write(at("changed"), noise(2, 50_000)).unwrap();
    world.sync();
    File::options().write(true).open(at("changed")).unwrap().write_all_at(&[b'x'; 100], 20_000).unwrap();
    tool!("cp", "--sparse=never", at("changed"), at("clone"));
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"behind a hole", 5 << 30).unwrap();
    sparse.set_len(6 << 30).unwrap();
    fs::hard_link(at("text"), at("held/linked")).unwrap();
    fs::hard_link(at("text"), at("linked too")).unwrap();
    symlink("held/immutable", at("symlink")).unwrap();
    symlink("t".repeat(300), at("long symlink")).unwrap();
    sys::mkfifo(&at("fifo")).unwrap();
    calls::mknod(&at("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
    calls::mknod(&at("block"), libc::S_IFBLK | 0o600, libc::makedev(259, 70_000)).unwrap();
    fs::write(at("odd \n name \u{fc}"), "odd").unwrap();
    script(&world.mnt, "touch \"$(printf 'not UTF-8 \\377')\"");
    fs::write(at(&"n".repeat(255)), "the longest name").unwrap();
    sys::set_xattr(&at("text"), "user.comment", b"stones").unwrap();
    sys::set_xattr(&at("short"), "user.large", &[b'v'; 5_000]).unwrap();
    // A subvolume and a clone of it, which has a row of its own of each kind, and a whiteout.
    script(&world.mnt, "mkdir -p original/dir && cp text original/dir && touch original/one original/two");
    sys::set_xattr(&at("original/one"), "user.comment", b"stones").unwrap();
    for (source, target) in [("original", "subvolume"), ("subvolume", "clone of it")] {
        let said = cairnfs(&["clone".as_ref(), at(source).as_os_str(), at(target).as_os_str()]);
        assert_eq!(said.code, 0, "{}", said.said());
    }
    File::options()
        .append(true)
        .open(at("clone of it/dir/text"))
        .unwrap()
        .write_all_at(b"more", 90_000)
        .unwrap();
    script(
        &world.mnt,
        "cd 'clone of it' && rm two && echo three > three && setfattr -n user.comment -v x one",
    );
    tool!("setfacl", "-m", "u:12345:r,g:54321:rw", at("short"));
    tool!("setfacl", "-d", "-m", "u:12345:rwx", at("held"));
    fs::set_permissions(at("changed"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("grows"), PermissionsExt::from_mode(0o1770)).unwrap();
    std::os::unix::fs::chown(at("clone"), Some(12_345), Some(54_321)).unwrap();
    // One of the two files of a region goes, and a cycle passes.
    fs::remove_file(at("gone")).unwrap();
    world.deletions_done();
    world.gc();
    script(&world.mnt, "find . -depth -exec touch -hd '2020-01-02 03:04:05.678901234' {} +");
    tool!("touch", "-d", "1901-12-31 23:59:59.123456789", at("text"));
    tool!("touch", "-d", "2200-12-31 23:59:59.5", at("short"));
    tool!("chattr", "+i", at("held"));
    tool!("chattr", "+a", at("grows"));
}

/// All that is in it, line by line.
fn picture(dir: &Path) -> String {
    let listing = r"
        find . -printf '%P %y %m %U %G %n %s %T@ %l\n' | sort
        find . -type f ! -name sparse -exec md5sum {} + | sort
        stat -c '%n %t %T' null block
        find . ! -type l -print0 | sort -z | xargs -0 getfacl -np
        find . -print0 | sort -z | xargs -0 getfattr -hdm '^user'
        lsattr -d held grows text
        tail -c 1073741824 sparse | head -c 13 | od -c";
    script(dir, listing)
}

/// Makes the store of this program's format, and notes what is in it.
fn make() {
    let world = World::new(Setup { mkfs: MKFS, ..Setup::default() }).expect("a mount");
    fill(&world);
    world.remount();
    fs::write(golden("contents.txt"), picture(&world.mnt)).unwrap();
    world.umount();
    world.assert_clean();
    let (tar, parent) = (world.host().join("store.tar"), world.store.parent().unwrap());
    let mut pack = crate::world::command("tar");
    pack.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "-S",
        "--exclude=cairnfs.log",
        "-cf",
    ]);
    let said = run(pack.arg(&tar).arg("-C").arg(parent).arg("store"));
    assert_eq!(said.code, 0, "{}", said.said());
    let packed = zstd::encode_all(&*fs::read(tar).unwrap(), 19).unwrap();
    assert!(packed.len() < 400_000, "{} bytes are too many to keep", packed.len());
    fs::write(golden("store.tar.zst"), packed).unwrap();
}

/// A world that has the golden store instead of its own, unmounted.
fn opened() -> Option<World> {
    let has_all = || need_root("files of others") && need_programs(&["getfacl", "getfattr", "lsattr", "tar"]);
    let world = World::usual().filter(|_| has_all())?;
    world.umount();
    unpack(&world);
    Some(world)
}

/// Puts the golden store in the place of what is there.
fn unpack(world: &World) {
    let tar = world.host().join("store.tar");
    fs::write(&tar, zstd::decode_all(File::open(golden("store.tar.zst")).unwrap()).unwrap()).unwrap();
    fs::remove_dir_all(&world.store).unwrap();
    tool!("tar", "--no-same-owner", "-xf", tar, "-C", world.store.parent().unwrap());
}

/// Mounts and compares.
fn assert_whole(world: &World, what: &str) {
    world.mount();
    let (found, expected) = (picture(&world.mnt), fs::read_to_string(golden("contents.txt")).unwrap());
    let different = expected.lines().zip(found.lines()).find(|(a, b)| a != b);
    assert!(found == expected, "{what}: was and is: {different:#?}");
    for (name, bytes) in known() {
        assert!(fs::read(world.mnt.join(name)).unwrap() == bytes, "{what}: {name} has other bytes");
    }
    assert!(fs::write(world.mnt.join("held/new"), "").is_err(), "{what}: the directory is immutable");
    world.umount();
    world.assert_clean();
}

#[test]
fn the_golden_store_is_read_checked_and_repaired() {
    if std::env::var("CAIRNFS_GOLDEN").is_ok_and(|word| word == "make") {
        make();
    }
    let Some(world) = opened() else { return };
    world.assert_clean();
    assert_whole(&world, "as it was kept");
    // What was put in a second time is there already.
    world.mount();
    let chunks = world.figure("chunks");
    fs::write(world.mnt.join("again"), text(1, 90_000)).unwrap();
    world.sync();
    assert_eq!(world.figure("chunks"), chunks, "the cutting is the same, and so are the digests");
    fs::remove_file(world.mnt.join("again")).unwrap();
    tool!("touch", "-d", "2020-01-02 03:04:05.678901234", world.mnt);
    world.deletions_done();
    world.gc();
    world.umount();
    assert_whole(&world, "after a cycle");
    for lost in ["", "meta/cairnfs.redb"] {
        unpack(&world);
        if !lost.is_empty() {
            fs::remove_file(world.store.join(lost)).unwrap();
        }
        let said = cairnfs(&["repair".as_ref(), "--yes".as_ref(), world.store.as_os_str()]);
        assert_eq!(said.code, 0, "{}", said.said());
        assert_whole(&world, &format!("repaired, lost: {lost:?}"));
    }
    assert!(fs::metadata(golden("store.tar.zst")).unwrap().size() < 400_000);
}

/// A byte of the kept store that is another one is seen.
#[test]
fn a_golden_store_with_another_byte_is_seen() {
    let Some(world) = opened() else { return };
    let pack = script(&world.store, "find packs -name '*.pack' -size +8k | sort | head -1");
    let file = File::options().read(true).write(true).open(world.store.join(pack.trim())).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 64 + 2_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 64 + 2_000).unwrap();
    assert_ne!(world.damage(), "", "the check reads all of it");
}
