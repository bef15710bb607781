//! Bad neighbours: what others do to a store's directory, and names and trees that are meant to hurt.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use tempfile::TempDir;

use crate::data::noise;
use crate::skip::{need, need_root};
use crate::world::{Outcome, World, cairnfs, command, is_mounted, program, run, tool};

fn ask(word: &str, store: &Path) -> Outcome {
    run(command(program()).arg(word).arg(store))
}

/// A sentence, a documented code, no panic.
fn refused(outcome: &Outcome, codes: &[i32], said: &str) {
    assert!(codes.contains(&outcome.code), "{}", outcome.said());
    assert!(outcome.err.contains(said), "it does not say `{said}`: {}", outcome.said());
    assert!(!outcome.said().contains("panicked"), "{}", outcome.said());
}

#[test]
fn foreign_files_in_the_store_are_left_alone() {
    let Some(world) = World::usual() else { return };
    let outside = world.host().join("outside");
    fs::write(&outside, "outside").unwrap();
    let mut foreign = Vec::new();
    for dir in ["", "packs", "packs/001", "meta"] {
        let dir = world.store.join(dir);
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in
            [("lost+found.txt", "text"), ("000000000000.pack.bak", "no pack"), (".hidden", "")]
        {
            fs::write(dir.join(name), text).unwrap();
            foreign.push((dir.join(name), text));
        }
        symlink(&outside, dir.join("a link")).unwrap();
    }
    let bytes = noise(5, 400_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    fs::write(world.mnt.join("garbage"), noise(6, 400_000)).unwrap();
    world.sync();
    fs::remove_file(world.mnt.join("garbage")).unwrap();
    world.deletions_done();
    world.gc();
    world.remount();
    assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    for (path, text) in foreign {
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{}", path.display());
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "outside");
    world.close();
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_followed() {
    let Some(world) = World::usual() else { return };
    let bytes = noise(7, 300_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    world.umount();
    for name in ["meta/cairnfs.redb", "meta", "packs", "lock"] {
        let (there, away) = (world.store.join(name), world.host().join("away"));
        fs::rename(&there, &away).unwrap();
        symlink(&away, &there).unwrap();
        let outcome = run(command(program()).args(["check", "--data"]).arg(&world.store));
        refused(&outcome, &[1, 6], "");
        assert!(
            outcome.err.contains("symbolic links")
                || outcome.err.contains("Not a directory")
                || outcome.code == 6,
            "{name}: {}",
            outcome.said()
        );
        fs::remove_file(&there).unwrap();
        fs::rename(&away, &there).unwrap();
    }
    world.mount();
    assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    world.close();
}

/// `cp -a` of a store that is mounted and written to: the copy opens soundly or is refused, and the original never knows.
#[test]
fn a_copy_made_while_the_store_is_in_use() {
    let Some(world) = World::usual() else { return };
    let settled = noise(8, 600_000);
    fs::write(world.mnt.join("settled"), &settled).unwrap();
    world.sync();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut sound, mut refusals) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0u64.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let path = world.mnt.join(format!("file{}", number % 20));
                fs::write(&path, noise(1000 + number, 50_000)).unwrap();
                fs::File::open(&path).unwrap().sync_all().unwrap();
            }
        });
        for number in 0..6 {
            let copy = world.host().join(format!("copy{number}"));
            // A socket cannot be copied on some file systems; its copy would be dead anyway.
            let copied = Command::new("cp").arg("-a").args([&world.store, &copy]).output().unwrap();
            assert!(copied.status.success() || !copied.stderr.is_empty());
            let outcome = run(command(program()).args(["check", "--data"]).arg(&copy));
            match outcome.code {
                0 => sound += 1,
                _ => {
                    refused(&outcome, &[6], "");
                    refusals += 1;
                }
            }
            // Whatever the copy is, collecting it is nothing to the original.
            let collected = ask("gc", &copy);
            assert!(!collected.said().contains("panicked"), "{}", collected.said());
            fs::remove_dir_all(&copy).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    println!("{sound} copies were sound, {refusals} were refused or damage was told");
    world.gc();
    world.remount();
    assert!(fs::read(world.mnt.join("settled")).unwrap() == settled);
    world.close();
}

/// A store is a directory: moved to another file system it is the same store.
#[test]
fn a_store_moved_to_another_file_system() {
    let Some(world) = World::usual() else { return };
    let bytes = noise(9, 500_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    world.umount();
    let other = TempDir::with_prefix_in("cairnfs-moved-", "/dev/shm");
    if !need(other.is_ok(), "no /dev/shm") {
        return;
    }
    let other = other.unwrap();
    let moved = other.path().join("store");
    tool!("mv", world.store, moved);
    assert_eq!(run(command(program()).args(["check", "--data"]).arg(&moved)).code, 0);
    assert_eq!(ask("gc", &moved).code, 0);
    tool!("mv", moved, world.store);
    world.mount();
    assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    world.close();
}

/// Lazily unmounted when dropped.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_store_on_a_read_only_file_system_is_refused_with_a_sentence() {
    let Some(world) = World::usual() else { return };
    if !need_root("a bind mount") {
        return;
    }
    let bytes = noise(10, 100_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    world.umount();
    let place = world.host().join("read-only");
    fs::create_dir(&place).unwrap();
    tool!("mount", "--bind", world.store, place);
    let bound = Bound(place.clone());
    tool!("mount", "-o", "remount,bind,ro", place);
    for word in ["status", "gc", "check"] {
        refused(&ask(word, &place), &[7], "read-only file system");
    }
    let outcome = cairnfs(&[OsStr::new("mount"), place.as_os_str(), world.mnt.as_os_str()]);
    refused(&outcome, &[7], "read-only file system");
    assert!(!is_mounted(&world.mnt));
    drop(bound);
    world.mount();
    assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    world.close();
}

#[test]
fn a_store_that_others_may_enter_is_warned_of() {
    let Some(world) = World::usual() else { return };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&world.store), 0o700);
    for name in ["meta", "packs", "meta/cairnfs.redb", "cairnfs.toml", "reserve", "lock"] {
        assert_eq!(mode(&world.store.join(name)) & 0o077, 0, "{name}");
    }
    world.umount();
    assert!(!world.mount().contains("chmod"));
    world.umount();
    fs::set_permissions(&world.store, fs::Permissions::from_mode(0o755)).unwrap();
    let said = world.mount();
    assert!(said.contains("can be entered by others") && said.contains("chmod 700"), "{said}");
    world.close();
}

const LEVELS: usize = 10_000;

/// Not for the programs that other tests start meanwhile: they would keep the mount in use.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn opened(dir: &Path) -> OwnedFd {
    rustix::fs::open(dir, DIRECTORY, Mode::empty()).unwrap()
}

fn down(dir: &OwnedFd, name: &str) -> OwnedFd {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()).unwrap()
}

/// Ten thousand directories in each other: made, walked, checked, renamed at both ends, and removed.
#[test]
fn a_tree_of_ten_thousand_levels() {
    let Some(world) = World::usual() else { return };
    let top = opened(&world.mnt);
    let mut dir = top.try_clone().unwrap();
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = down(&dir, "d");
    }
    let file = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&dir, "deepest", file, Mode::RUSR).unwrap());
    // Not into itself, however deep; and the deepest to the top and back.
    let first = down(&top, "d");
    let wrong = rustix::fs::renameat(&top, "d", &dir, "e").unwrap_err();
    assert_eq!(wrong, rustix::io::Errno::INVAL);
    rustix::fs::mkdirat(&dir, "moved", Mode::RWXU).unwrap();
    rustix::fs::renameat(&dir, "moved", &top, "moved").unwrap();
    rustix::fs::renameat(&top, "moved", &dir, "moved").unwrap();
    rustix::fs::renameat_with(&first, "d", &top, "half", RenameFlags::NOREPLACE).unwrap();
    rustix::fs::renameat(&top, "half", &first, "d").unwrap();
    drop((dir, first, top));
    world.sync();
    world.assert_clean();
    world.remount();
    let mut dir = opened(&world.mnt);
    for _ in 0..LEVELS {
        dir = down(&dir, "d");
    }
    rustix::fs::statat(&dir, "deepest", AtFlags::empty()).unwrap();
    drop(dir);
    tool!("rm", "-rf", world.mnt.join("d"));
    assert_eq!(fs::read_dir(&world.mnt).unwrap().count(), 0);
    world.deletions_done();
    world.gc();
    world.close();
}

#[test]
fn hostile_names_and_attributes() {
    let Some(world) = World::usual() else { return };
    use std::os::unix::ffi::OsStrExt;
    let names: [&[u8]; 9] = [
        b"\xff\xfe\x80",
        b"new\nline",
        b"\x1b[31mred",
        b" ",
        b"...",
        b"-rf",
        b"*",
        &[b'x'; 255],
        b"\xe2\x80\xae\x01\x7f",
    ];
    for (number, name) in names.iter().enumerate() {
        let path = world.mnt.join(OsStr::from_bytes(name));
        fs::write(&path, noise(number as u64, 5_000)).unwrap();
    }
    let long = world.mnt.join(OsStr::from_bytes(&[b'x'; 256]));
    assert_eq!(fs::write(long, "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    let file = world.mnt.join("...");
    let set =
        |name: &str, value: &[u8]| rustix::fs::setxattr(&file, name, value, rustix::fs::XattrFlags::empty());
    for len in [0, 1, 4096, 65_536] {
        set(&format!("user.{len}"), &vec![7; len]).unwrap();
    }
    assert_eq!(set("user.more", &vec![7; 65_537]), Err(rustix::io::Errno::TOOBIG));
    assert_eq!(set(&format!("user.{}", "n".repeat(251)), b""), Err(rustix::io::Errno::RANGE));
    world.sync();
    let outcome = world.ask(&["check", "--data", "--json"]);
    assert_eq!(outcome.code, 0, "{}", outcome.said());
    world.remount();
    for (number, name) in names.iter().enumerate() {
        let path = world.mnt.join(OsStr::from_bytes(name));
        assert!(fs::read(&path).unwrap() == noise(number as u64, 5_000), "{}", path.display());
    }
    let mut value = vec![0; 65_536];
    let len = rustix::fs::getxattr(&file, "user.65536", &mut value[..]).unwrap();
    assert!(len == 65_536 && value.iter().all(|byte| *byte == 7));
    world.close();
}

/// A mount point whose daemon is gone: umount and mount both mend it and say so.
#[test]
fn a_stale_mount_point_is_mended() {
    let Some(world) = World::usual() else { return };
    let bytes = noise(11, 100_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    world.sync();
    for _ in 0..3 {
        world.kill();
        crate::world::wait_for("the end of the connection", || {
            fs::metadata(world.mnt.join("file"))
                .is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
        });
        let said = world.mount();
        assert!(said.contains("was a mount whose daemon is gone"), "{said}");
        assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    }
    world.kill();
    let outcome = cairnfs(&[OsStr::new("umount"), world.mnt.as_os_str()]);
    // It is unmounted, and not claimed that everything is durable.
    refused(&outcome, &[7], "ended without closing it");
    assert!(!is_mounted(&world.mnt));
    world.mount();
    world.close();
}
