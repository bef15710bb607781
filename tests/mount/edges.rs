//! Where POSIX has edges: what is refused and how, special files, set-id bits, locks, access times.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::calls::{self, errno};
use crate::data::noise;
use crate::skip::need_root;
use crate::sys;
use crate::world::{Setup, World, command, mount_table, run, tool};

#[test]
fn what_is_not_there_is_refused_cleanly() {
    let Some(world) = World::usual() else { return };
    let at = |name: &str| world.mnt.join(name);
    fs::write(at("a"), "a").unwrap();
    let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(&world.mnt);
    assert_eq!(errno(unnamed), libc::EOPNOTSUPP);
    for flags in [libc::RENAME_WHITEOUT, libc::RENAME_WHITEOUT | libc::RENAME_NOREPLACE, 1 << 7] {
        assert_eq!(errno(sys::rename(&at("a"), &at("b"), flags)), libc::EINVAL, "flags {flags}");
    }
    let both = libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE;
    assert_eq!(errno(sys::rename(&at("a"), &at("a"), both)), libc::EINVAL);
    assert_eq!(fs::read(at("a")).unwrap(), b"a");
    assert_eq!(fs::read_dir(&world.mnt).unwrap().count(), 1);
    world.close();
}

#[test]
fn each_limit_has_its_errno() {
    let Some(world) = World::usual() else { return };
    let at = |name: &str| world.mnt.join(name);
    const MOST: u64 = 16 << 40;
    let file = File::options().read(true).write(true).create_new(true).open(at("file")).unwrap();
    file.set_len(MOST).unwrap();
    assert_eq!(errno(file.set_len(MOST + 1)), libc::EFBIG);
    file.write_all_at(b"x", MOST - 1).unwrap();
    assert_eq!(errno(file.write_at(b"x", MOST)), libc::EFBIG);
    assert_eq!(errno(sys::fallocate(&file, 0, MOST as i64, 1)), libc::EFBIG);
    assert_eq!(file.metadata().unwrap().len(), MOST);
    assert_eq!(errno(sys::copy_range(&file, 0, &file, MOST as i64, 4096)), libc::EFBIG);
    for name in ["n".repeat(256), "x/".repeat(2100)] {
        assert_eq!(errno(File::create(at(&name))), libc::ENAMETOOLONG);
        assert_eq!(errno(fs::create_dir(at(&name))), libc::ENAMETOOLONG);
        assert_eq!(errno(symlink("x", at(&name))), libc::ENAMETOOLONG);
        assert_eq!(errno(fs::metadata(at(&name))), libc::ENAMETOOLONG);
    }
    symlink("t".repeat(4095), at("long")).unwrap();
    assert_eq!(errno(symlink("t".repeat(4096), at("longer"))), libc::ENAMETOOLONG);
    assert_eq!(errno(sys::set_xattr(&at("file"), "user.large", &[0; 65537])), libc::E2BIG);
    let name = format!("user.{}", "n".repeat(251));
    assert_eq!(errno(sys::set_xattr(&at("file"), &name, b"x")), libc::ERANGE);
    drop(file);
    world.remount();
    assert_eq!(fs::read_link(at("long")).unwrap().as_os_str().len(), 4095);
    world.close();
}

#[test]
fn direct_io() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    let bytes = noise(1, 1 << 20);
    let mut direct = OpenOptions::new();
    direct.read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
    let file = direct.open(&path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    // Pages of a plain reader follow.
    assert!(fs::read(&path).unwrap() == bytes);
    file.write_all_at(b"at an odd place", 12_345).unwrap();
    let mut expected = bytes;
    expected[12_345..12_360].copy_from_slice(b"at an odd place");
    assert!(fs::read(&path).unwrap() == expected);
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == expected);
    drop(file);
    world.close();
}

#[test]
fn locks_hold_inside_a_mount() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    fs::write(&path, "x").unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let (one, other) = (open(), open());
    let again = libc::EWOULDBLOCK;
    sys::flock(&one, libc::LOCK_SH).unwrap();
    sys::flock(&other, libc::LOCK_SH | libc::LOCK_NB).unwrap();
    assert_eq!(errno(sys::flock(&other, libc::LOCK_EX | libc::LOCK_NB)), again);
    sys::flock(&one, libc::LOCK_UN).unwrap();
    sys::flock(&other, libc::LOCK_EX | libc::LOCK_NB).unwrap();
    calls::record_lock(&one, libc::F_WRLCK, 0, 100).unwrap();
    assert_eq!(errno(calls::record_lock(&other, libc::F_RDLCK, 99, 1)), libc::EAGAIN);
    calls::record_lock(&other, libc::F_WRLCK, 100, 1).unwrap();
    drop(one);
    calls::record_lock(&other, libc::F_WRLCK, 0, 0).unwrap();
    // A lock ends with the program that has it; flock(1) takes it from another process.
    assert_eq!(run(command("flock").args(["-n"]).arg(&path).arg("true")).code, 1);
    drop(other);
    assert_eq!(run(command("flock").args(["-n"]).arg(&path).arg("true")).code, 0);
    world.close();
}

/// Runs a script as a user without privilege, `$0` being the mount.
fn as_user(world: &World, script: &str) -> (i32, String) {
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    // The way to the mount is the user's, too.
    let top = world.mnt.parent().unwrap();
    fs::set_permissions(top, PermissionsExt::from_mode(0o755)).unwrap();
    let said = run(command("setpriv").args(user).args(["sh", "-c", script]).arg(&world.mnt));
    (said.code, said.out + &said.err)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn set_id_bits_and_capabilities_go_with_a_change() {
    let Some(world) = World::usual().filter(|_| need_root("a look as another user")) else { return };
    let at = |name: &str| world.mnt.join(name);
    let changes = [
        ("write", "printf x >> \"$0\"/file", 0o777),
        ("write over", "printf x 1<> \"$0\"/file", 0o777),
        ("truncate", "truncate -s 5 \"$0\"/file", 0o777),
        ("fallocate", "fallocate -l 50000 \"$0\"/file", 0o777),
        ("punch", "fallocate -p -o 0 -l 4096 \"$0\"/file", 0o777),
        ("copy", "dd if=\"$0\"/other of=\"$0\"/file conv=notrunc status=none", 0o777),
    ];
    for (what, script, rest) in changes {
        fs::write(at("file"), noise(1, 20_000)).unwrap();
        fs::write(at("other"), noise(2, 20_000)).unwrap();
        fs::set_permissions(at("file"), PermissionsExt::from_mode(0o6777)).unwrap();
        let (code, said) = as_user(&world, script);
        assert_eq!(code, 0, "{what}: {said}");
        assert_eq!(mode(&at("file")), rest, "{what}");
        world.remount();
        assert_eq!(mode(&at("file")), rest, "{what}, after a mount");
    }
    // Set-gid without the right to execute goes as well; root keeps all; chown takes both from anybody's file.
    fs::set_permissions(at("file"), PermissionsExt::from_mode(0o6767)).unwrap();
    assert_eq!(as_user(&world, "printf x >> \"$0\"/file").0, 0);
    assert_eq!(mode(&at("file")), 0o767);
    fs::set_permissions(at("file"), PermissionsExt::from_mode(0o6755)).unwrap();
    File::options().append(true).open(at("file")).unwrap().write_all(b"x").unwrap();
    assert_eq!(mode(&at("file")), 0o6755);
    std::os::unix::fs::chown(at("file"), Some(7), Some(7)).unwrap();
    assert_eq!(mode(&at("file")), 0o755);
    // Capabilities are an attribute that the kernel removes.
    tool!("setcap", "cap_net_raw+ep", at("file"));
    world.remount();
    assert!(tool!("getcap", at("file")).contains("cap_net_raw"), "capabilities are kept");
    fs::set_permissions(at("file"), PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(as_user(&world, "printf x >> \"$0\"/file").0, 0);
    assert_eq!(tool!("getcap", at("file")), "", "and go with a write");
    // Who makes a file writes it past the page cache, where the kernel removes nothing.
    let mut made = File::create_new(at("made")).unwrap();
    made.write_all(b"x").unwrap();
    tool!("setcap", "cap_net_raw+ep", at("made"));
    made.write_all(b"y").unwrap();
    assert_eq!(tool!("getcap", at("made")), "", "with each write");
    tool!("setcap", "cap_net_raw+ep", at("made"));
    tool!("chattr", "+i", at("made"));
    assert_eq!(made.write_all(b"z").unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert!(tool!("getcap", at("made")).contains("cap_net_raw"), "and not with one that is refused");
    tool!("chattr", "-i", "+a", at("made"));
    made.write_all(b"z").unwrap();
    assert_eq!(tool!("getcap", at("made")), "", "what is added counts, too");
    tool!("chattr", "-a", at("made"));
    drop(made);
    world.close();
}

#[test]
fn a_sticky_directory_keeps_others_files() {
    let Some(world) = World::usual().filter(|_| need_root("a look as another user")) else { return };
    let dir = world.mnt.join("tmp");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o1777)).unwrap();
    fs::write(dir.join("roots"), "x").unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    let refused =
        "cd \"$0\"/tmp; touch own; mv own mine; rm -f roots || mv roots other || rmdir dir || mv mine roots";
    assert_ne!(as_user(&world, refused).0, 0);
    let names = tool!("ls", dir);
    assert_eq!(names, "dir\nmine\nroots\n");
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(as_user(&world, "cd \"$0\"/tmp && rm -f roots && rmdir dir").0, 0, "without the bit");
    world.close();
}

#[test]
fn special_files_work() {
    let options = "gc=off,commit=1,cache=16M,dev";
    let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
    let at = |name: &str| world.mnt.join(name);
    sys::mkfifo(&at("fifo")).unwrap();
    // It holds the mount as long as somebody listens.
    let mut listener = Some(UnixListener::bind(at("socket")).unwrap());
    if need_root("devices") {
        calls::mknod(&at("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
        calls::mknod(&at("block"), libc::S_IFBLK | 0o600, libc::makedev(259, 70_000)).unwrap();
    }
    for _ in 0..2 {
        std::thread::scope(|scope| {
            let fifo = at("fifo");
            scope.spawn(move || fs::write(fifo, "through").unwrap());
            assert_eq!(fs::read(at("fifo")).unwrap(), b"through");
        });
        if let Some(listener) = listener.take() {
            let mut client = UnixStream::connect(at("socket")).unwrap();
            client.write_all(b"hello").unwrap();
            drop(client);
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
        assert!(fs::symlink_metadata(at("socket")).unwrap().file_type().is_socket());
        if need_root("devices") {
            fs::write(at("null"), "nowhere").unwrap();
            assert_eq!(fs::read(at("null")).unwrap(), b"");
            let meta = fs::metadata(at("block")).unwrap();
            assert!(meta.file_type().is_block_device());
            assert_eq!(meta.rdev(), libc::makedev(259, 70_000));
        }
        world.remount();
    }
    world.close();
}

/// A program that is set-uid root and a device node are data, unless the mount is told otherwise; and data is what comes
/// back with the copy out of it.
#[test]
fn set_id_programs_and_devices_need_an_option() {
    if !need_root("set-uid files of root and devices") {
        return;
    }
    let defaults = Setup::default().options;
    for (options, works) in [("defaults", false), ("suid,dev", true), ("suid,dev,nosuid,nodev", false)] {
        let all = format!("{defaults},{options}");
        let Some(world) = World::new(Setup { options: Box::leak(all.into()), ..Setup::default() }) else {
            return;
        };
        let at = |name: &str| world.mnt.join(name);
        fs::copy("/usr/bin/id", at("id")).unwrap();
        fs::set_permissions(at("id"), PermissionsExt::from_mode(0o4755)).unwrap();
        calls::mknod(&at("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
        for _ in 0..2 {
            let (code, said) = as_user(&world, "\"$0\"/id -u");
            assert_eq!((code, said.trim()), (0, if works { "0" } else { "65534" }), "{options}");
            assert_eq!(fs::write(at("null"), "nowhere").is_ok(), works, "{options}");
            world.remount();
        }
        tool!("cp", "-a", at("id"), at("null"), world.host());
        assert_eq!(mode(&world.host().join("id")), 0o4755, "{options}");
        let meta = fs::metadata(world.host().join("null")).unwrap();
        assert!(meta.file_type().is_char_device() && meta.rdev() == libc::makedev(1, 3), "{options}");
        world.close();
    }
}

/// Reads a file past the page cache, and tells its access time then.
fn accessed_by_reading(path: &Path) -> SystemTime {
    let mut file = File::open(path).unwrap();
    sys::forget_pages(&file);
    file.read_to_end(&mut Vec::new()).unwrap();
    drop(file);
    fs::metadata(path).unwrap().accessed().unwrap()
}

#[test]
fn access_times_are_relative() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    fs::write(&path, noise(1, 10_000)).unwrap();
    let old = SystemTime::now() - Duration::from_secs(3 * 3600);
    let very_old = SystemTime::now() - Duration::from_secs(30 * 3600);
    let set =
        |times: fs::FileTimes| File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    // Older than the change: it moves. Then it is younger than that, and stays.
    set(fs::FileTimes::new().set_accessed(very_old).set_modified(old));
    let first = accessed_by_reading(&path);
    assert!(first > old, "an access time from before the last change moves");
    assert_eq!(accessed_by_reading(&path), first, "and then stays");
    fs::write(&path, noise(2, 10_000)).unwrap();
    let second = accessed_by_reading(&path);
    assert!(second > first, "after a change it moves again");
    world.remount();
    assert_eq!(accessed_by_reading(&path), second);
    let dir = world.mnt.join("dir");
    fs::create_dir(&dir).unwrap();
    let before = fs::metadata(&dir).unwrap().accessed().unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!(fs::metadata(&dir).unwrap().accessed().unwrap(), before, "listing is no access");
    tool!("chattr", "+A", path);
    fs::write(&path, noise(3, 10_000)).unwrap();
    assert_eq!(accessed_by_reading(&path), second, "with the flag it stays");
    world.close();
    let options = "gc=off,commit=1,cache=16M,noatime";
    let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
    let path = world.mnt.join("file");
    fs::write(&path, noise(1, 10_000)).unwrap();
    let before = fs::metadata(&path).unwrap().accessed().unwrap();
    fs::write(&path, noise(2, 10_000)).unwrap();
    assert_eq!(accessed_by_reading(&path), before, "with noatime");
    world.close();
    let options = "gc=off,commit=1,cache=16M,strictatime";
    let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
    let path = world.mnt.join("file");
    fs::write(&path, noise(1, 10_000)).unwrap();
    // Also of pages that the kernel has.
    let accessed = || {
        fs::read(&path).unwrap();
        fs::metadata(&path).unwrap().accessed().unwrap()
    };
    let (first, second, third) = (accessed(), accessed(), accessed());
    assert!(first < second && second < third, "with strictatime each time");
    let table = mount_table();
    let line = table.lines().find(|line| line.contains(world.mnt.to_str().unwrap())).unwrap();
    assert!(!line.contains("relatime"), "{line}");
    world.close();
}
