//! The control directory, the generation where the kernel shows it, signals, and what umount waits for.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::data::{Tree, noise};
use crate::skip::need_root;
use crate::sys;
use crate::world::{Setup, World, is_mounted, tool, wait_for};

fn control(world: &World, name: &str) -> std::path::PathBuf {
    world.mnt.join(".cairnfs").join(name)
}

/// Read by a process of its own, as a person would.
fn cat(path: &Path) -> String {
    tool!("cat", path)
}

fn generation(world: &World) -> u64 {
    cat(&control(world, "generation")).trim().parse().expect("a number")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_control_directory_is_hidden_fresh_and_guarded() {
    let Some(world) = World::usual() else { return };
    fs::write(world.mnt.join("file"), "x").unwrap();
    assert_eq!(names(&world.mnt), ["file"], "it is not listed");
    assert_eq!(tool!("ls", "-A", world.mnt), "file\n");
    assert_eq!(names(&world.mnt.join(".cairnfs")), ["gc", "generation", "status", "trash"]);

    let status = |world: &World| -> Value { serde_json::from_str(&cat(&control(world, "status"))).unwrap() };
    let before = status(&world);
    assert_eq!(before["store"]["path"], world.store.to_str().unwrap());
    assert_eq!(before["holder"]["pid"], world.pid());
    let inodes = before["store"]["inodes"].as_u64().unwrap();
    for n in 1..=5 {
        fs::write(world.mnt.join(format!("more{n}")), "x").unwrap();
        assert_eq!(status(&world)["store"]["inodes"], inodes + n, "fresh at each look");
    }

    for path in [control(&world, "generation"), control(&world, "status"), world.mnt.join(".cairnfs")] {
        assert!(File::options().write(true).open(&path).and_then(|mut f| f.write_all(b"1")).is_err());
        assert!(fs::remove_file(&path).is_err() && fs::remove_dir_all(&path).is_err(), "{}", path.display());
        assert!(fs::rename(&path, world.mnt.join("away")).is_err());
    }
    assert!(fs::create_dir(world.mnt.join(".cairnfs")).is_err());
    assert!(fs::write(control(&world, "new"), "x").is_err());
    assert!(control(&world, "status").exists());
    world.close();
}

#[test]
fn writing_to_gc_starts_a_cycle_and_the_generation_shows_it() {
    let Some(world) = World::usual() else { return };
    let first = generation(&world);
    assert_eq!(world.figure("generation"), first);
    for n in 1..=3 {
        tool!("sh", "-c", "echo start > \"$0\"", control(&world, "gc"));
        wait_for("the next generation", || generation(&world) == first + n);
    }
    wait_for("the end of the cycle", || {
        let gc: Value = serde_json::from_str(&cat(&control(&world, "gc"))).unwrap();
        gc["stage"] == "idle" && gc["last_cycle"]["generation"] == first + 3
    });
    world.remount();
    assert_eq!(generation(&world), first + 3, "it is kept");
    world.gc();
    assert_eq!(generation(&world), first + 4);
    world.close();
}

#[test]
fn files_carry_the_generation_they_were_born_in() {
    let Some(world) = World::usual() else { return };
    let lsattr = |name: &str| -> u64 {
        let said = tool!("lsattr", "-d", "-v", world.mnt.join(name));
        said.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    };
    let first = generation(&world);
    fs::write(world.mnt.join("old"), "x").unwrap();
    fs::create_dir(world.mnt.join("old dir")).unwrap();
    world.gc();
    fs::write(world.mnt.join("new"), "x").unwrap();
    world.gc();
    for _ in 0..2 {
        assert_eq!(lsattr("old"), first);
        assert_eq!(lsattr("old dir"), first);
        assert_eq!(lsattr("new"), first + 1);
        world.remount();
    }
    world.close();
}

/// Ends the daemon with a signal in the middle of everything; all of it has to be there afterwards.
#[test]
fn signals_unmount_cleanly() {
    let Some(world) = World::usual() else { return };
    for (n, signal) in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].into_iter().enumerate() {
        let tree = Tree::small(n as u64 + 1);
        let dir = world.mnt.join(format!("s{n}"));
        tree.write(&dir);
        sys::kill(world.pid(), signal);
        world.forget_daemon();
        assert!(!is_mounted(&world.mnt), "signal {signal}");
        world.assert_clean();
        world.mount();
        tree.assert_at(&dir);
    }
    world.close();
}

#[test]
fn a_signal_while_a_file_is_open_keeps_what_was_written() {
    let Some(world) = World::usual() else { return };
    let (path, bytes) = (world.mnt.join("open"), noise(5, 3 << 20));
    let mut file = File::create(&path).unwrap();
    file.write_all(&bytes).unwrap();
    sys::kill(world.pid(), libc::SIGTERM);
    wait_for("the mount point to be free", || !is_mounted(&world.mnt));
    file.write_all(b"and more").unwrap();
    drop(file);
    world.forget_daemon();
    world.mount();
    let found = fs::read(&path).unwrap();
    assert!(found.len() == bytes.len() + 8 && found.starts_with(&bytes) && found.ends_with(b"and more"));
    world.close();
}

#[test]
fn umount_returns_when_the_lock_is_free_and_mounting_again_works_at_once() {
    let Some(world) = World::usual() else { return };
    let mut trees = Vec::new();
    for n in 0..5 {
        let (tree, dir) = (Tree::small(40 + n), world.mnt.join(format!("t{n}")));
        tree.write(&dir);
        let said = crate::world::cairnfs(&["umount".as_ref(), world.mnt.as_os_str()]);
        let lock = File::open(world.store.join("lock")).unwrap();
        let free = sys::flock(&lock, libc::LOCK_EX | libc::LOCK_NB);
        assert_eq!(said.code, 0, "{}", said.said());
        assert!(free.is_ok(), "umount returned while the daemon holds the lock");
        drop(lock);
        world.forget_daemon();
        world.mount();
        trees.push((tree, dir));
    }
    for (tree, dir) in &trees {
        tree.assert_at(dir);
    }
    // Without the helper umount(8) does not wait: then the mount that follows does.
    tool!("umount", "-i", world.mnt);
    world.take_daemon();
    world.mount();
    for (tree, dir) in &trees {
        tree.assert_at(dir);
    }
    world.close();
}

/// `umount -f` of a mount whose daemon is stopped, so that it answers nothing and holds the store.
#[test]
fn forced_umount_does_not_wait_for_a_daemon_that_does_not_answer() {
    let Some(world) = World::usual() else { return };
    if !need_root("umount -f") {
        return;
    }
    fs::write(world.mnt.join("file"), "kept").unwrap();
    world.sync();
    let pid = world.pid();
    sys::kill(pid, libc::SIGSTOP);
    wait_for("the daemon to stop", || sys::is_stopped(pid));
    let said = crate::world::cairnfs(&["umount".as_ref(), "-f".as_ref(), world.mnt.as_os_str()]);
    let is_gone = !is_mounted(&world.mnt);
    sys::kill(pid, libc::SIGCONT);
    assert_eq!(said.code, 7, "{}", said.said());
    assert!(said.err.contains("has not answered") && said.err.contains("may be lost"), "{}", said.said());
    assert!(is_gone, "the mount is still there");
    // Awake again, it finds its mount gone and closes the store.
    world.forget_daemon();
    world.mount();
    assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
    let said = crate::world::cairnfs(&["umount".as_ref(), "-f".as_ref(), world.mnt.as_os_str()]);
    assert_eq!(said.code, 0, "a daemon that answers is waited for: {}", said.said());
    world.forget_daemon();
    world.assert_clean();
}

/// All that the store takes is in the figures, and the reserve is missed where it is gone.
#[test]
fn the_status_has_all_that_the_store_takes() {
    let Some(world) = World::usual() else { return };
    Tree::small(0x57a7).write(&world.mnt.join("s0"));
    fs::write(world.mnt.join("noise"), noise(3, 5 << 20)).unwrap();
    world.umount();
    let status = world.ask_json(&["status"]);
    let figure = |name: &str| status["store"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {status}"));
    let takes = |name: &str| -> u64 {
        let said = tool!("du", "-s", "--block-size=1", world.store.join(name));
        said.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    };
    // It is a little shorter or longer each time it was closed.
    let database = (figure("database_bytes"), takes("meta/cairnfs.redb"));
    assert!(database.0 > 0 && database.0.abs_diff(database.1) < 1 << 20, "{database:?}");
    assert_eq!(figure("reserve_bytes"), takes("reserve"));
    assert!(figure("backup_bytes") > 0 && figure("backup_bytes") <= takes("meta-backups"));
    let names = ["stored_bytes", "database_bytes", "backup_bytes", "reserve_bytes"];
    let sum: u64 = names.iter().map(|name| figure(name)).sum();
    let all = world.disk_usage();
    assert!(sum <= all + (1 << 20) && sum * 10 > all * 9, "{sum} of {all}");

    fs::remove_file(world.store.join("reserve")).unwrap();
    let without = world.ask(&["status"]);
    assert!(without.code == 0 && without.out.contains("reserve given up"), "{}", without.said());
    assert!(without.out.contains("comes back by itself"), "{}", without.said());
    world.mount();
    assert_eq!(world.ask_json(&["status"])["store"]["reserve_given_up"], false, "there is room for it again");
    world.close();
}

/// A cycle counts what was copied a moment ago, and its record outlives the mount.
#[test]
fn a_cycle_counts_what_was_just_copied_and_is_remembered() {
    let options = "gc=off,commit=3600,cache=16M";
    let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
    fs::write(world.mnt.join("small"), "x").unwrap();
    let mut open = File::create(world.mnt.join("grows")).unwrap();
    open.write_all(&noise(4, 100_000)).unwrap();
    let record = world.gc();
    assert_eq!(record["roots"], 2, "{record}");
    assert!(record["marked"].as_u64() > Some(1), "{record}");
    drop(open);
    for mounted in [true, false] {
        if mounted {
            world.remount();
        } else {
            world.umount();
        }
        let status = world.ask_json(&["status"]);
        assert_eq!(status["last_cycle"], record, "{status}");
        let text = world.ask(&["status"]).out;
        let line = text.lines().find(|line| line.starts_with("last cycle")).unwrap();
        assert!(line.contains("just now") && line.contains("freed"), "{line}");
    }
    world.mount();
    world.close();
}
