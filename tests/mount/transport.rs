//! The two ways in which requests come: a mount has to behave alike on both.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::data::{Tree, noise};
use crate::skip::need_rings;
use crate::sys;
use crate::world::{Setup, World, cairnfs, tool};

const OVER_DEV_FUSE: &str = "gc=off,commit=1,cache=16M,io_uring=off";
const OVER_IO_URING: &str = "gc=off,commit=1,cache=16M,io_uring=on";

/// A mount whose requests come over io_uring; says why where there can be none.
fn over_io_uring() -> Option<World> {
    if !need_rings() {
        return None;
    }
    World::new(Setup { options: OVER_IO_URING, ..Setup::default() })
}

/// How many threads of the daemon serve queues.
fn ring_threads(world: &World) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", world.pid())).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.starts_with("cairn-ring")).count()
}

/// What programs were told, line by line.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn note(&mut self, what: &str, outcome: std::io::Result<impl Debug>) {
        let outcome = outcome.map_err(|error| error.raw_os_error());
        self.0.push(format!("{what}: {outcome:?}"));
    }

    fn stat(&mut self, what: &str, path: &Path) {
        let shown = fs::symlink_metadata(path).map(|m| {
            (
                m.mode(),
                m.nlink(),
                m.uid(),
                m.gid(),
                m.size(),
                m.rdev(),
                m.blksize(),
                m.mtime(),
                m.mtime_nsec(),
            )
        });
        self.note(what, shown);
    }
}

fn names(told: &mut Told, dir: &Path) {
    let at = |name: &str| dir.join(name);
    told.note("missing", fs::metadata(at("missing")).map(|m| m.len()));
    told.note("mkdir", fs::create_dir(at("d")));
    told.note("mkdir again", fs::create_dir(at("d")));
    told.note("create", fs::write(at("d/f"), b"content"));
    told.note("create below a file", fs::write(at("d/f/x"), b""));
    told.note("too long", fs::write(at(&"n".repeat(256)), b""));
    told.note("longest", fs::write(at(&"n".repeat(255)), b""));
    told.note("not UTF-8", fs::write(dir.join(OsStr::from_bytes(b"\xff\xfe")), b"x"));
    told.note("symlink", symlink("some/where", at("s")));
    told.note("readlink", fs::read_link(at("s")));
    told.note("readlink of a file", fs::read_link(at("d/f")));
    told.note("link", fs::hard_link(at("d/f"), at("l")));
    told.note("fifo", sys::mkfifo(&at("p")));
    told.note("is fifo", fs::symlink_metadata(at("p")).map(|m| m.file_type().is_fifo()));
    told.note("rename", fs::rename(at("l"), at("l2")));
    told.note("noreplace", sys::rename(&at("l2"), &at("d/f"), libc::RENAME_NOREPLACE));
    told.note("exchange", sys::rename(&at("l2"), &at("s"), libc::RENAME_EXCHANGE));
    told.note("whiteout", sys::rename(&at("l2"), &at("w"), libc::RENAME_WHITEOUT));
    told.note("rmdir of a full one", fs::remove_dir(at("d")));
    told.note("unlink of a directory", fs::remove_file(at("d")));
    for name in ["d", "d/f", "l2", "s", "p"] {
        // A time before 1970 with a fraction, which is where signs go wrong.
        tool!("touch", "-h", "-d", "1965-03-04 05:06:07.25 UTC", at(name));
        told.stat(name, &at(name));
    }
    told.note("fsyncdir", File::open(at("d")).and_then(|dir| dir.sync_all()));
    told.note("unlink", fs::remove_file(at("p")));
    let mut listed: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    listed.sort();
    told.note("names", Ok(listed));
}

fn contents(told: &mut Told, dir: &Path) {
    let path = dir.join("file");
    let bytes = noise(5, 3_000_000);
    told.note("write", fs::write(&path, &bytes));
    told.note("read", fs::read(&path).map(|read| read == bytes));
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    told.note("overwrite", file.write_all_at(b"stone", 1_234_567));
    let mut read = [0; 9];
    told.note("read at", file.read_exact_at(&mut read, 1_234_565));
    told.note("bytes", Ok(read));
    told.note("at the end", file.read_at(&mut read, 2_999_998));
    told.note("behind it", file.read_at(&mut read, 4_000_000));
    told.note("punch", sys::fallocate(&file, 3, 65_536, 131_072));
    told.note("hole", sys::seek(&file, 0, libc::SEEK_HOLE));
    told.note("data", sys::seek(&file, 70_000, libc::SEEK_DATA));
    told.note("nothing", sys::seek(&file, 5_000_000, libc::SEEK_DATA));
    told.note("grow", file.set_len(3_100_000));
    told.note("shrink", file.set_len(2_000_000));
    told.note("sync", file.sync_all());
    let copy = File::create(dir.join("copy")).unwrap();
    told.note("copy", sys::copy_range(&file, 10, &copy, 0, 1_500_000));
    told.note(
        "the copy",
        fs::read(dir.join("copy")).map(|copy| copy == fs::read(&path).unwrap()[10..1_500_010]),
    );
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
    told.note("direct", direct.map(drop));
    told.note("chmod", fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)));
    told.note("mode", fs::metadata(&path).map(|m| (m.mode(), m.size(), m.blocks() > 3_000)));
    told.note("xattr", sys::set_xattr(&path, "user.stone", b"grey"));
    told.note("no such namespace", sys::set_xattr(&path, "stone", b"grey"));
    told.note("large xattr", sys::set_xattr(&path, "user.large", &[7; 60_000]));
    let listed = tool!("getfattr", "--absolute-names", "-d", "-m", "-", &path);
    told.note("xattrs", Ok(listed.len()));
    tool!("setfattr", "-x", "user.large", &path);
    told.note("flags", Ok(tool!("lsattr", "-v", "-d", &path).split_whitespace().nth(1).map(str::to_owned)));
    told.note("statvfs", sys::statvfs(dir).map(|s| (s.f_namemax, s.f_bsize)));
}

/// All that programs were told by a mount.
fn transcript(world: &World) -> Vec<String> {
    let mut told = Told::default();
    for (part, name) in [(names as fn(&mut Told, &Path), "names"), (contents, "contents")] {
        let dir = world.mnt.join(name);
        fs::create_dir(&dir).unwrap();
        part(&mut told, &dir);
    }
    told.note(
        "control",
        fs::read_to_string(world.mnt.join(".cairnfs/generation")).map(|text| text.len() > 1),
    );
    told.note("control write", fs::write(world.mnt.join(".cairnfs/generation"), b"9"));
    told.0
}

#[test]
fn both_transports_tell_programs_the_same() {
    let Some(ring) = over_io_uring() else { return };
    let plain = World::new(Setup { options: OVER_DEV_FUSE, ..Setup::default() }).unwrap();
    assert_ne!(ring_threads(&ring), 0, "requests do not come over io_uring");
    assert_eq!(ring_threads(&plain), 0, "requests come over io_uring");
    let (told, expected) = (transcript(&ring), transcript(&plain));
    for (line, expected) in told.iter().zip(&expected) {
        // Paths differ, and only in their temporary directory.
        let strip = |line: &str, world: &World| line.replace(world.mnt.to_str().unwrap(), "");
        assert_eq!(strip(line, &ring), strip(expected, &plain));
    }
    assert_eq!(told.len(), expected.len());
    assert!(told.len() > 50, "hardly anything was asked");
    plain.close();
    ring.close();
}

#[test]
fn a_backup_over_io_uring_survives_a_kill_and_a_second_mount() {
    let Some(world) = over_io_uring() else { return };
    let tree = Tree::small(31);
    tree.write(&world.mnt.join("first"));
    world.sync();
    world.kill();
    // Who comes now gets an error, never an answer that is made up and never silence.
    assert!(fs::read(world.mnt.join("first/d0/f00")).is_err());
    tool!("umount", "-l", &world.mnt);
    world.mount();
    assert_eq!(tree.differences(&world.mnt.join("first")), [""; 0]);
    let copied = tool!("cp", "-a", world.mnt.join("first"), world.mnt.join("second"));
    assert_eq!(copied, "");
    fs::remove_dir_all(world.mnt.join("first")).unwrap();
    world.deletions_done();
    world.gc();
    assert_eq!(tree.differences(&world.mnt.join("second")), [""; 0]);
    world.close();
}

#[test]
fn a_wish_that_cannot_be_granted_is_refused_with_a_sentence() {
    let Some(world) = World::usual() else { return };
    let said = cairnfs(&["mount", "-o", "io_uring=maybe", "/nonexistent", "/nonexistent"]);
    assert_eq!(said.code, 2, "{}", said.said());
    assert!(said.err.contains("io_uring=auto, io_uring=on or io_uring=off"), "{}", said.said());
    world.close();
}

/// fuser does not know the request that asks for it: over `/dev/fuse` there is none, and everything else is told.
#[test]
fn the_time_of_birth_is_told_over_io_uring() {
    let Some(world) = over_io_uring() else { return };
    let path = world.mnt.join("file");
    let early = std::time::SystemTime::now() - std::time::Duration::from_secs(1);
    fs::write(&path, "x").unwrap();
    let born = fs::metadata(&path).unwrap().created().unwrap();
    tool!("touch", "-d", "@7", path);
    fs::write(&path, noise(1, 10_000)).unwrap();
    world.remount();
    let meta = fs::metadata(&path).unwrap();
    assert!(born > early && meta.created().unwrap() == born, "{born:?}");
    assert!(meta.modified().unwrap() > born && meta.len() == 10_000);
    world.close();
    let world = World::new(Setup { options: OVER_DEV_FUSE, ..Setup::default() }).unwrap();
    fs::write(world.mnt.join("file"), "x").unwrap();
    let meta = fs::metadata(world.mnt.join("file")).unwrap();
    assert!(meta.created().is_err() && meta.len() == 1);
    world.close();
}
