//! kill -9 of the daemon (classes 5 and 11), and what is there when the store is mounted again at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

#[cfg(feature = "sim")]
use crate::data::Tree;
use crate::data::{Numbers, noise};
#[cfg(feature = "sim")]
use crate::pause::POINTS;
use crate::world::{World, wait_for};

/// What a writer did until the daemon was gone.
#[derive(Default)]
struct Written {
    /// Contents that were fsynced.
    synced: BTreeMap<PathBuf, Vec<u8>>,
    /// Contents that may be there, as a whole or in part.
    other: BTreeMap<PathBuf, Vec<u8>>,
}

/// Writes files, every fourth with fsync, until that fails.
fn write_until_the_end(dir: &Path, seed: u64, count: &AtomicU64) -> Written {
    let mut numbers = Numbers::new(seed);
    let mut written = Written::default();
    if fs::create_dir(dir).is_err() {
        return written;
    }
    for n in 0.. {
        let path = dir.join(format!("f{n}"));
        let bytes = noise(seed << 20 | n, numbers.below(200_000) as usize);
        let stored = File::create(&path).and_then(|mut file| {
            // In several pieces, so that the end comes inside a file as well.
            bytes.chunks(30_000).try_for_each(|piece| file.write_all(piece))?;
            if n % 4 == 0 { file.sync_all() } else { Ok(()) }
        });
        match stored {
            Ok(()) if n % 4 == 0 => written.synced.insert(path, bytes),
            _ => written.other.insert(path, bytes),
        };
        if stored.is_err() {
            break;
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    written
}

fn assert_kept(written: &Written) {
    for (path, bytes) in &written.synced {
        let found = fs::read(path).unwrap_or_else(|error| panic!("{} was fsynced: {error}", path.display()));
        assert!(found == *bytes, "{} was fsynced and has other bytes", path.display());
    }
    for (path, bytes) in &written.other {
        let Ok(found) = fs::read(path) else {
            assert!(!path.exists(), "{} cannot be read", path.display());
            continue;
        };
        assert!(bytes.starts_with(&found), "{} has bytes that were never in it", path.display());
    }
}

/// Class 5: what was in the store, or only half, is written again.
fn write_again(written: &Written) {
    for (path, bytes) in written.synced.iter().chain(&written.other) {
        fs::write(path, bytes).unwrap();
    }
}

fn assert_whole(written: &Written) {
    for (path, bytes) in written.synced.iter().chain(&written.other) {
        assert!(fs::read(path).unwrap() == *bytes, "{} has other bytes", path.display());
    }
}

#[test]
fn class_11_killed_in_the_middle_of_a_copy() {
    let Some(world) = World::usual() else { return };
    let mut rounds = Vec::new();
    for round in 0..6 {
        let dir = world.mnt.join(format!("round{round}"));
        let count = AtomicU64::new(0);
        let written = thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|n| {
                    let (dir, count) = (dir.with_extension(n.to_string()), &count);
                    scope.spawn(move || write_until_the_end(&dir, round * 2 + n + 1, count))
                })
                .collect();
            wait_for("files", || count.load(Ordering::Relaxed) > 10 + round * 17);
            world.kill();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        let said = world.mount();
        assert!(said.contains("daemon is gone; it was unmounted"), "round {round}: {said}");
        written.iter().for_each(assert_kept);
        world.assert_clean();
        written.iter().for_each(write_again);
        world.sync();
        rounds.extend(written);
        println!("round {round}: killed after {} files", count.load(Ordering::Relaxed));
    }
    world.gc();
    world.remount();
    rounds.iter().for_each(assert_whole);
    world.close();
}

/// Half of the garbage of a cycle shares its packs with what lives.
#[cfg(feature = "sim")]
fn mixed(world: &World, live: &Tree, garbage: &Tree, at: &str) -> (PathBuf, PathBuf) {
    let (keep, drop) = (world.mnt.join(format!("keep-{at}")), world.mnt.join(format!("drop-{at}")));
    for (tree, dir) in [(live, &keep), (garbage, &drop)] {
        tree.write(dir);
    }
    world.sync();
    fs::remove_dir_all(&drop).unwrap();
    world.deletions_done();
    (keep, drop)
}

#[cfg(feature = "sim")]
#[test]
fn class_05_killed_at_each_point_of_a_cycle_and_written_again() {
    let Some(world) = World::usual() else { return };
    let mut all = Vec::new();
    for (n, point) in POINTS.iter().enumerate() {
        let (live, garbage) = (Tree::small(900 + n as u64), Tree::small(950 + n as u64));
        let (keep, again) = mixed(&world, &live, &garbage, point);
        let mut cycle = world.hold_cycle(point);
        // Written beside the cycle, and durable.
        let beside = world.mnt.join(format!("beside-{point}"));
        let new = noise(n as u64, 500_000);
        let mut file = File::create(&beside).unwrap();
        file.write_all(&new).and_then(|()| file.sync_all()).unwrap();
        drop(file);
        world.kill();
        cycle.go_on();
        drop(cycle);
        world.mount();
        world.assert_clean();
        live.assert_at(&keep);
        assert!(fs::read(&beside).unwrap() == new, "{point}: what was fsynced beside the cycle");
        // The same content as what the cycle was about to free, and half of it once more in the next cycle.
        garbage.write(&again);
        let next = world.start_cycle();
        garbage.write(&again.with_extension("twice"));
        next.finish();
        world.remount();
        garbage.assert_at(&again);
        garbage.assert_at(&again.with_extension("twice"));
        live.assert_at(&keep);
        world.assert_clean();
        all.push((live, keep));
    }
    world.gc();
    world.remount();
    for (live, keep) in &all {
        live.assert_at(keep);
    }
    world.close();
}

#[test]
fn a_killed_mount_can_be_unmounted_and_asked() {
    let Some(world) = World::usual() else { return };
    let bytes = noise(1, 100_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    world.sync();
    let pid = world.pid();
    world.kill();
    wait_for("the end of the daemon", || !crate::sys::is_alive(pid));
    // Asked through the store and through the dead mount point.
    world.assert_clean();
    for (word, code) in [("status", 8), ("check", 0), ("gc", 0), ("status", 8)] {
        let said = crate::world::cairnfs(&[word.as_ref(), world.mnt.as_os_str()]);
        assert_eq!(said.code, code, "{word} of a dead mount point: {}", said.said());
    }
    let status = world.ask_json(&["status"]);
    assert_eq!(status["problems"][0]["kind"], "killed", "{status}");
    // Both would promise with 0 that everything is durable (P6), and nobody has made it so.
    for (word, path) in [("sync", &world.mnt), ("sync", &world.store), ("umount", &world.mnt)] {
        let said = crate::world::cairnfs(&[word.as_ref(), path.as_os_str()]);
        assert_eq!(said.code, 7, "{word} after a kill: {}", said.said());
        assert!(said.err.contains("ended without closing it"), "{word}: {}", said.said());
    }
    assert!(!crate::world::is_mounted(&world.mnt));
    world.mount();
    assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    world.umount();
    for word in ["sync", "status"] {
        assert_eq!(world.ask(&[word]).code, 0, "{word}: it was closed in order");
    }
    world.assert_clean();
}
