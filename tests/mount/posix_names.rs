//! What programs rely on: names, directories, attributes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::skip::need_root;
use crate::sys;
use crate::world::{Setup, World, command, mount_table, run, tool};

fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().expect("an errno"),
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn renaming() {
    let Some(world) = World::usual() else { return };
    let at = |name: &str| world.mnt.join(name);
    for name in ["a", "b", "c"] {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir_all(at("d/e")).unwrap();
    assert_eq!(errno(sys::rename(&at("a"), &at("b"), libc::RENAME_NOREPLACE)), libc::EEXIST);
    sys::rename(&at("a"), &at("new"), libc::RENAME_NOREPLACE).unwrap();
    sys::rename(&at("new"), &at("b"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!((text(&at("new")), text(&at("b"))), ("b".into(), "a".into()));
    // A file with a directory, in different directories.
    sys::rename(&at("c"), &at("d/e"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(text(&at("d/e")), "c");
    assert!(at("c").is_dir());
    assert_eq!(errno(sys::rename(&at("c"), &at("none"), libc::RENAME_EXCHANGE)), libc::ENOENT);
    assert_eq!(errno(fs::rename(at("d"), at("d/below"))), libc::EINVAL);
    fs::rename(at("b"), at("new")).unwrap();
    assert_eq!(text(&at("new")), "a");
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/x"), "x").unwrap();
    assert_eq!(errno(fs::rename(at("c"), at("full"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(at("c"), at("new"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(at("new"), at("c"))), libc::EISDIR);
    assert_eq!(fs::metadata(&world.mnt).unwrap().nlink(), 2 + 3, "the directories are c, d and full");
    world.remount();
    assert_eq!((text(&at("new")), text(&at("d/e"))), ("a".into(), "c".into()));
    assert_eq!(fs::metadata(&world.mnt).unwrap().nlink(), 2 + 3);
    world.close();
}

#[test]
fn links_and_kinds() {
    let Some(world) = World::usual() else { return };
    let at = |name: &str| world.mnt.join(name);
    fs::write(at("file"), "x").unwrap();
    fs::create_dir(at("dir")).unwrap();
    for n in 0..20 {
        fs::hard_link(at("file"), at(&format!("dir/l{n}"))).unwrap();
    }
    assert_eq!(fs::metadata(at("file")).unwrap().nlink(), 21);
    assert_eq!(errno(fs::hard_link(at("dir"), at("other"))), libc::EPERM);
    fs::remove_file(at("file")).unwrap();
    fs::write(at("dir/l3"), "changed").unwrap();
    assert_eq!(text(&at("dir/l7")), "changed");
    sys::mkfifo(&at("pipe")).unwrap();
    std::os::unix::fs::symlink("dir/l1", at("link")).unwrap();
    assert_eq!(errno(fs::remove_dir(at("dir"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::create_dir(at("dir"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_file(at("none"))), libc::ENOENT);
    world.remount();
    assert_eq!(text(&at("link")), "changed");
    assert_eq!(fs::metadata(at("link")).unwrap().nlink(), 20);
    let mode = fs::symlink_metadata(at("pipe")).unwrap().mode();
    assert_eq!(mode & libc::S_IFMT, libc::S_IFIFO);
    world.close();
}

#[test]
fn long_names() {
    let Some(world) = World::usual() else { return };
    let longest = "ñ".repeat(127) + "x";
    assert_eq!(longest.len(), 255);
    let dir = world.mnt.join(&longest);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(&longest), "deep").unwrap();
    assert_eq!(errno(fs::write(world.mnt.join("n".repeat(256)), "")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(&dir, world.mnt.join("n".repeat(256)))), libc::ENAMETOOLONG);
    world.remount();
    assert_eq!(text(&dir.join(&longest)), "deep");
    assert_eq!(sys::statvfs(&world.mnt).unwrap().f_namemax, 255);
    world.close();
}

#[test]
fn times_to_the_nanosecond() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    fs::write(&path, "x").unwrap();
    let cases = [(0, 1), (1_234_567_890, 123_456_789), (4_000_000_000, 999_999_999)];
    for (n, (seconds, nanos)) in cases.into_iter().enumerate() {
        let accessed = UNIX_EPOCH + Duration::new(seconds, nanos);
        let modified = UNIX_EPOCH + Duration::new(seconds + 1, nanos - 1);
        let times = FileTimes::new().set_accessed(accessed).set_modified(modified);
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        world.remount();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.accessed().unwrap(), meta.modified().unwrap()), (accessed, modified), "case {n}");
    }
    // Before 1970.
    tool!("touch", "-d", "1905-03-04 05:06:07.123456789 UTC", path);
    world.remount();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-2_045_847_233, 123_456_789));
    world.close();
}

#[test]
fn owners_modes_and_xattrs() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    fs::write(&path, "x").unwrap();
    for n in 0..30 {
        sys::set_xattr(&path, &format!("user.n{n}"), format!("value {n}").as_bytes()).unwrap();
    }
    if need_root("files of others") {
        tool!("chown", "12345:54321", path);
    }
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4751)).unwrap();
    world.remount();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o4751);
    if need_root("files of others") {
        assert_eq!((meta.uid(), meta.gid()), (12345, 54321));
    }
    let said = tool!("getfattr", "-d", "--absolute-names", path);
    assert_eq!(said.lines().filter(|line| line.starts_with("user.n")).count(), 30, "{said}");
    assert!(said.contains("user.n29=\"value 29\""), "{said}");
    // Writing takes the set-id bits away, even for root's file where the kernel asks for it.
    fs::write(&path, "changed").unwrap();
    assert_eq!(text(&path), "changed");
    world.close();
}

#[test]
fn without_default_permissions_nobody_checks() {
    if !need_root("a look as another user") {
        return;
    }
    for (options, may) in [("gc=off", false), ("gc=off,nodefault_permissions", true)] {
        let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
        fs::set_permissions(world.mnt.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = world.mnt.join("file");
        fs::write(&path, "root's own").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "cat"];
        let said = run(command("setpriv").args(user).arg(&path));
        assert_eq!(said.code == 0, may, "{options}: {}", said.said());
        let table = mount_table();
        let line = table.lines().find(|line| line.contains(world.mnt.to_str().unwrap())).unwrap();
        assert_eq!(line.contains("default_permissions"), !may, "{line}");
        world.close();
    }
}

#[test]
fn free_space_is_that_of_the_host() {
    let Some(world) = World::usual() else { return };
    let host = sys::statvfs(&world.store).unwrap();
    let here = sys::statvfs(&world.mnt).unwrap();
    let bytes = |found: &libc::statvfs| (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
    let ((host_all, host_free), (all, free)) = (bytes(&host), bytes(&here));
    assert_eq!(all, host_all);
    // Others write to the host's disk meanwhile.
    assert!(free.abs_diff(host_free) < 2 << 30, "{free} bytes free, {host_free} on the host");
    let before = here.f_files - here.f_ffree;
    for n in 0..100 {
        fs::write(world.mnt.join(n.to_string()), "").unwrap();
    }
    let after = sys::statvfs(&world.mnt).unwrap();
    assert_eq!(after.f_files - after.f_ffree, before + 100, "inodes in use");
    world.close();
}

fn listed(dir: &Path) -> BTreeSet<OsString> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        assert!(found.insert(entry.unwrap().file_name()), "a name comes twice");
    }
    found
}

#[test]
fn twenty_thousand_entries_are_read_and_deleted() {
    let Some(world) = World::usual() else { return };
    let dir = world.mnt.join("dir");
    fs::create_dir(&dir).unwrap();
    let names: BTreeSet<OsString> = (0..20_000).map(|n| format!("entry number {n}").into()).collect();
    for name in &names {
        File::create(dir.join(name)).unwrap();
    }
    assert!(listed(&dir) == names);
    world.remount();
    assert!(listed(&dir) == names);
    // Each second one goes while the directory is read; all others must come, none twice.
    let mut seen = BTreeSet::new();
    for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name();
        if n % 2 == 0 {
            fs::remove_file(dir.join(&name)).unwrap();
        }
        assert!(seen.insert(name), "a name comes twice");
    }
    assert!(seen == names);
    assert_eq!(listed(&dir).len(), 10_000);
    tool!("rm", "-rf", dir);
    assert!(!dir.exists());
    world.deletions_done();
    assert_eq!(world.figure("inodes"), 1, "the root");
    world.close();
}
