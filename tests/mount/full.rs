//! A full disk: told at write or fsync and never later, and deletes and cycles work on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::data::noise;
use crate::skip::need_root;
use crate::sys;
use crate::world::{Setup, World, cairnfs, tool};

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where that takes root and this is not root.
    fn new() -> Option<Self> {
        if !need_root("a small disk") {
            return None;
        }
        let dir = TempDir::with_prefix("cairnfs-disk-").unwrap();
        tool!("mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", dir.path());
        Some(Self(dir))
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    /// Another program fills the disk to its last byte.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("other");
        let mut file = File::create(&path).unwrap();
        let bytes = vec![1; 64 << 10];
        while file.write_all(&bytes).is_ok() {}
        while file.write_all(&bytes[..512]).is_ok() {}
        path
    }

    fn free(&self) -> u64 {
        let found = sys::statvfs(&self.path()).unwrap();
        found.f_bavail * found.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// A store on a small disk. The world goes first when both are dropped.
fn on_small_disk() -> Option<(World, SmallDisk)> {
    let disk = SmallDisk::new()?;
    let setup = Setup {
        mkfs: &["--reserve", "8M"],
        options: "gc=off,commit=1,cache=16M",
        below: Some(disk.path()),
        ..Setup::default()
    };
    Some((World::new(setup)?, disk))
}

/// Files that the store has said it has.
#[derive(Default)]
struct Kept(BTreeMap<PathBuf, u64>);

const FILE: usize = 2 << 20;
const RESERVE: u64 = 8 << 20;

impl Kept {
    fn assert_whole(&self) {
        for (path, seed) in &self.0 {
            let found = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(found == noise(*seed, FILE), "{} has other bytes", path.display());
        }
    }
}

fn store_file(path: &Path, seed: u64, sync: bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&noise(seed, FILE))?;
    if sync { file.sync_all() } else { Ok(()) }
}

/// Writes files until that fails, which it must with ENOSPC, at write or fsync.
fn fill(dir: &Path, first: u64, sync: bool) -> Kept {
    fs::create_dir_all(dir).unwrap();
    let mut kept = Kept::default();
    for seed in first.. {
        assert!(seed < first + 200, "this disk cannot hold 400 MiB");
        let path = dir.join(format!("f{seed}"));
        match store_file(&path, seed, sync) {
            Ok(()) => kept.0.insert(path, seed),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                // As programs do that copy; to make the file may have been refused already.
                if path.exists() {
                    fs::remove_file(path).unwrap();
                }
                break;
            }
        };
    }
    kept
}

/// After the disk was filled: what was promised is there; deleting and collecting give space; writing goes on.
fn goes_on(world: &World, disk: &SmallDisk, mut kept: Kept) {
    kept.assert_whole();
    let before = disk.free();
    let names: Vec<PathBuf> = kept.0.keys().cloned().collect();
    let (gone, _) = names.split_at(names.len() / 2);
    for path in gone {
        tool!("rm", "-rf", path);
        kept.0.remove(path);
    }
    world.deletions_done();
    let record = world.gc();
    // The store takes its reserve back first.
    let freed = disk.free() + RESERVE - before;
    println!("{} files went, {} MiB came back", gone.len(), freed >> 20);
    let expected = (gone.len() * FILE) as u64 * 3 / 4;
    assert!(freed > expected, "only {freed} of {expected} bytes came back: {record}");
    let new = world.mnt.join("new");
    store_file(&new, 999, true).unwrap();
    kept.0.insert(new, 999);
    world.remount();
    kept.assert_whole();
    world.assert_clean();
}

#[test]
fn filled_with_fsync_after_each_file() {
    let Some((world, disk)) = on_small_disk() else { return };
    let kept = fill(&world.mnt.join("a"), 1, true);
    println!("{} files of 2 MiB on 160 MiB", kept.0.len());
    assert!(kept.0.len() > 40, "only {} files", kept.0.len());
    goes_on(&world, &disk, kept);
    drop(world);
}

#[test]
fn filled_without_fsync_what_was_acknowledged_is_stored() {
    let Some((world, disk)) = on_small_disk() else { return };
    let kept = fill(&world.mnt.join("a"), 1, false);
    println!("{} files of 2 MiB on 160 MiB", kept.0.len());
    assert!(kept.0.len() > 40, "only {} files", kept.0.len());
    // ENOSPC is told at write; what was taken finds its place.
    world.sync();
    world.remount();
    goes_on(&world, &disk, kept);
    drop(world);
}

#[test]
fn no_byte_is_free_because_of_others() {
    let Some((world, disk)) = on_small_disk() else { return };
    let mut kept = Kept::default();
    for seed in 1..20 {
        let path = world.mnt.join(format!("f{seed}"));
        store_file(&path, seed, true).unwrap();
        kept.0.insert(path, seed);
    }
    let more = world.mnt.join("more");
    fs::create_dir(&more).unwrap();
    world.sync();
    let other = disk.fill();
    assert_eq!(disk.free(), 0);
    // The reserve may take a little; then it is said that there is no room.
    let more = fill(&more, 100, true);
    assert!(more.0.len() < 8, "{} files of 2 MiB on a full disk", more.0.len());
    kept.0.extend(more.0);
    kept.assert_whole();
    let path = world.mnt.join("f1");
    fs::remove_file(&path).unwrap();
    kept.0.remove(&path);
    world.deletions_done();
    world.gc();
    assert!(disk.free() > FILE as u64 / 2, "{} bytes are free", disk.free());
    fs::remove_file(other).unwrap();
    goes_on(&world, &disk, kept);
    drop(world);
}

#[test]
fn mkfs_without_room_says_so_and_leaves_nothing_whatever_was_missing() {
    let Some(disk) = SmallDisk::new() else { return };
    let store = disk.path().join("store");
    let mkfs = |reserve: &str| {
        cairnfs(&["mkfs".as_ref(), "--reserve".as_ref(), reserve.as_ref(), store.as_os_str()])
    };
    let said = mkfs("1G");
    assert!(said.code == 1 && said.err.contains("--reserve"), "{}", said.said());
    assert!(!store.exists(), "what it made is gone");
    fs::create_dir(&store).unwrap();
    assert_eq!(mkfs("1G").code, 1);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "a directory that was there is empty again");
    fs::remove_dir(&store).unwrap();
    let other = disk.fill();
    let file = File::options().write(true).open(&other).unwrap();
    let mut refused = 0;
    // With a little more room each time, until it is enough.
    loop {
        let said = mkfs("1M");
        if said.code == 0 {
            break;
        }
        refused += 1;
        assert!(said.err.contains("No space left on device"), "{}", said.said());
        assert!(!store.exists(), "{}", said.said());
        file.set_len(file.metadata().unwrap().len() - (32 << 10)).unwrap();
    }
    assert!(refused > 10, "{refused}");
    fs::remove_file(other).unwrap();
    let said = cairnfs(&["check".as_ref(), "--data".as_ref(), store.as_os_str()]);
    assert_eq!(said.code, 0, "{}", said.said());
}
