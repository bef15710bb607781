//! Rights, times and attributes where file systems could differ: each case is done in a mount and on the host's file
//! system, and comes out alike.
//!
//! What is expected is what ext4 does, and stands here: where the host has something else, it is the mount that counts.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::calls::{self, errno};
use crate::data::noise;
use crate::skip::need_root;
use crate::sys;
use crate::world::{World, command, run, tool};

/// A user without privilege, and a group.
const USER: u32 = 65_534;
const GROUP: u32 = 4;

/// The mount, and a directory of the host, which is left out where that is no ext4.
fn both(world: &World) -> Vec<PathBuf> {
    let kind = tool!("stat", "--file-system", "--format=%T", world.host());
    let top = world.mnt.parent().unwrap();
    fs::set_permissions(top, PermissionsExt::from_mode(0o755)).unwrap();
    let host = (kind.trim() == "ext2/ext3").then(|| world.host());
    [world.mnt.clone()].into_iter().chain(host).collect()
}

/// Runs a script as the user, in these further groups, `$0` being the directory.
fn as_user(groups: &str, script: &str, dir: &Path) {
    let words = ["--reuid=65534", "--regid=65534", groups, "sh", "-e", "-c", script];
    let said = run(command("setpriv").args(words).arg(dir));
    assert_eq!(said.code, 0, "{script}: {}", said.said());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn set_id_bits_go_with_whoever_may_not_keep_them() {
    let Some(world) = World::usual().filter(|_| need_root("a look as another user")) else { return };
    const ALONE: &str = "--clear-groups";
    const MEMBER: &str = "--groups=4,20";
    let changes = [
        "printf x >> \"$0\"/file",
        "printf x 1<> \"$0\"/file",
        "truncate -s 5 \"$0\"/file",
        "fallocate -l 50000 \"$0\"/file",
        "fallocate -p -o 0 -l 4096 \"$0\"/file",
        "cp --no-preserve=all \"$0\"/other \"$0\"/file",
    ];
    let owner_too = ["perl -e 'chown(-1, -1, shift) or die $!' \"$0\"/file", "chgrp 65534 \"$0\"/file"];
    for dir in both(&world) {
        let file = dir.join("file");
        fs::write(dir.join("other"), noise(2, 20_000)).unwrap();
        let check = |owner: u32, groups: &str, script: &str, before: u32, after: u32| {
            fs::write(&file, noise(1, 20_000)).unwrap();
            chown(&file, Some(owner), Some(GROUP)).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(before)).unwrap();
            as_user(groups, script, &dir);
            assert_eq!(mode(&file), after, "{script} of {before:o} by {groups} in {}", dir.display());
        };
        for script in changes {
            // Set-gid without execute for the group: only somebody outside the group takes it away.
            for (before, groups, after) in [
                (0o6777, ALONE, 0o777),
                (0o6777, MEMBER, 0o777),
                (0o6767, ALONE, 0o767),
                (0o6767, MEMBER, 0o2767),
                (0o2666, ALONE, 0o666),
                (0o2666, MEMBER, 0o2666),
            ] {
                check(0, groups, script, before, after);
            }
        }
        for script in owner_too {
            check(USER, ALONE, script, 0o6767, 0o767);
            check(USER, MEMBER, script, 0o6767, 0o2767);
            check(USER, MEMBER, script, 0o6777, 0o777);
        }
        // Root as well, and never of a directory.
        fs::set_permissions(&file, PermissionsExt::from_mode(0o6755)).unwrap();
        chown(&file, None, None).unwrap();
        assert_eq!(mode(&file), 0o755, "chown(-1, -1) in {}", dir.display());
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o3777)).unwrap();
        chown(&dir, None, None).unwrap();
        assert_eq!(mode(&dir), 0o3777, "chown(-1, -1) of {}", dir.display());
    }
    world.close();
}

#[test]
fn an_acl_takes_set_gid_from_an_owner_outside_the_group() {
    let Some(world) = World::usual().filter(|_| need_root("a look as another user")) else { return };
    for dir in both(&world) {
        for (groups, acl, after) in [
            ("--clear-groups", "u:1:r-x", 0o755),
            ("--clear-groups", "g::r--", 0o745),
            ("--groups=4", "u:1:r-x", 0o2755),
            ("--groups=4", "g::r--", 0o2745),
        ] {
            let file = dir.join("file");
            fs::write(&file, "x").unwrap();
            chown(&file, Some(USER), Some(GROUP)).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o2755)).unwrap();
            as_user(groups, &format!("setfacl -m {acl} \"$0\"/file"), &dir);
            assert_eq!(mode(&file), after, "{acl} by {groups} in {}", dir.display());
            fs::remove_file(&file).unwrap();
        }
    }
    world.close();
}

#[test]
fn an_acl_that_is_not_there_is_as_good_as_removed() {
    let Some(world) = World::usual() else { return };
    const EMPTY: &[u8] = b"\x02\0\0\0";
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    for dir in both(&world) {
        let (file, sub) = (dir.join("file"), dir.join("dir"));
        fs::write(&file, "x").unwrap();
        fs::create_dir(&sub).unwrap();
        for path in [&file, &sub] {
            for name in [access, default] {
                let what = format!("{name} of {}", path.display());
                assert_eq!(errno(sys::set_xattr(path, name, EMPTY)), 0, "an empty {what}");
                let name = CString::new(name).unwrap();
                assert_eq!(errno(calls::remove_xattr(path, &name)), 0, "{what}");
            }
            assert_eq!(errno(calls::remove_xattr(path, c"user.x")), libc::ENODATA);
        }
        tool!("setfacl", "-m", "d:u:1:rwx", sub);
        assert!(tool!("getfacl", "-n", "-d", "--absolute-names", sub).contains("user:1:rwx"));
        assert_eq!(errno(sys::set_xattr(&sub, default, EMPTY)), 0);
        assert!(
            !tool!("getfacl", "-n", "-d", "--absolute-names", sub).contains("user:1:rwx"),
            "an empty one removes"
        );
    }
    world.close();
}

/// Reads a file past the page cache through a descriptor with these flags, and tells its access time then.
fn accessed(path: &Path, flags: i32) -> SystemTime {
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
    sys::forget_pages(&file);
    file.read_to_end(&mut Vec::new()).unwrap();
    drop(file);
    fs::metadata(path).unwrap().accessed().unwrap()
}

#[test]
fn o_noatime_leaves_the_access_time_alone() {
    let Some(world) = World::usual() else { return };
    let old = SystemTime::now() - Duration::from_secs(30 * 3600);
    for dir in both(&world) {
        let path = dir.join("file");
        fs::write(&path, noise(1, 10_000)).unwrap();
        let times = fs::FileTimes::new().set_accessed(old);
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        let before = fs::metadata(&path).unwrap().accessed().unwrap();
        assert_eq!(accessed(&path, libc::O_NOATIME), before, "in {}", dir.display());
        if dir == world.mnt {
            assert_eq!(accessed(&path, libc::O_NOATIME | libc::O_DIRECT), before, "past the page cache");
        }
        assert!(accessed(&path, 0) > before, "in {}", dir.display());
    }
    world.close();
}

#[test]
fn what_is_append_only_takes_no_time_but_now() {
    let Some(world) = World::usual().filter(|_| need_root("a look as another user")) else { return };
    for dir in both(&world) {
        let (file, sub) = (dir.join("file"), dir.join("dir"));
        fs::write(&file, "x").unwrap();
        fs::create_dir(&sub).unwrap();
        for path in [&file, &sub] {
            calls::set_flags(path, calls::APPEND_ONLY).unwrap();
            for (words, fits) in [
                (&["-c"][..], true),
                (&["-c", "-a"], false),
                (&["-c", "-m"], false),
                (&["-c", "-d", "@7"], false),
            ] {
                let done = run(command("touch").args(words).arg(path)).code == 0;
                assert_eq!(done, fits, "touch {words:?} {}", path.display());
            }
            calls::set_flags(path, 0).unwrap();
            tool!("touch", "-d", "@7", path);
            assert_eq!(fs::metadata(path).unwrap().mtime(), 7);
        }
    }
    world.close();
}

#[test]
fn a_shared_mapping_sees_holes_and_truncations() {
    let Some(world) = World::usual() else { return };
    const LEN: usize = 65_536;
    for dir in both(&world) {
        let path = dir.join("file");
        let mut expected = noise(1, LEN);
        fs::write(&path, &expected).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut mapped = sys::Mapped::new(&file, LEN).unwrap();
        // A page that is changed and not written out yet is in the middle of the hole.
        mapped.bytes()[20_000] ^= 1;
        sys::fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 10_000, 30_000)
            .unwrap();
        expected[10_000..40_000].fill(0);
        assert!(mapped.bytes() == expected, "a hole in {}", dir.display());
        file.set_len(50_001).unwrap();
        file.set_len(LEN as u64).unwrap();
        expected[50_001..].fill(0);
        assert!(mapped.bytes() == expected, "cut inside a page and grown again in {}", dir.display());
        mapped.sync().unwrap();
        drop((mapped, file));
        assert!(fs::read(&path).unwrap() == expected);
    }
    world.close();
}
