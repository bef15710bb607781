//! chattr(1) and `cairnfs protect`: what is in a protected subvolume stays, and a group that is append-only loses none.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::calls::{self, errno};
use crate::data::noise;
use crate::skip::need_root;
use crate::subvolumes::made;
use crate::sys;
use crate::world::{Setup, World, cairnfs, tool};

/// A store with a snapshot, and a file that was opened before it was protected.
struct Snapshot {
    world: World,
    bytes: Vec<u8>,
    open: File,
}

/// Without the privilege nobody may set these flags.
fn may_protect() -> bool {
    need_root("chattr +i and +a")
}

impl Snapshot {
    fn new(setup: Setup) -> Option<Self> {
        let world = World::new(setup).filter(|_| may_protect())?;
        let (bytes, mnt) = (noise(1, 300_000), world.mnt.clone());
        for dir in ["plain/deep/er", "plain/empty", "elsewhere", "group"] {
            fs::create_dir_all(mnt.join(dir)).unwrap();
        }
        for name in ["plain/f", "plain/deep/er/f", "elsewhere/f"] {
            fs::write(mnt.join(name), &bytes).unwrap();
        }
        symlink("f", mnt.join("plain/link")).unwrap();
        sys::set_xattr(&mnt.join("plain/f"), "user.there", b"value").unwrap();
        fs::hard_link(mnt.join("plain/deep/er/f"), mnt.join("plain/shared")).unwrap();
        made(&mnt.join("plain"), &mnt.join("group/snap"));
        let open = File::options().read(true).write(true).open(mnt.join("group/snap/deep/er/f")).unwrap();
        Some(Self { world, bytes, open })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.world.mnt.join(name)
    }

    /// Everything that can be known of the snapshot without its access times.
    fn picture(&self) -> String {
        let script = "cd \"$0\" && find . -printf '%p %i %m %u %g %s %T@ %l\\n' | sort && \
            find . -type f -exec md5sum {} + | sort && getfattr -dR -m - . 2>/dev/null; stat -c %Z f";
        tool!("sh", "-c", script, self.at("group/snap"))
    }
}

type Attempt<'a> = (&'a str, Box<dyn Fn() -> io::Result<()> + 'a>);

/// Every way to change something in the snapshot; none is to succeed.
fn attempts<'a>(world: &'a World, open: &'a File) -> Vec<Attempt<'a>> {
    let at = |name: &str| world.mnt.join(name);
    let write = move |name: &str| File::options().write(true).open(at(name));
    fn boxed<'a>(name: &'a str, what: impl Fn() -> io::Result<()> + 'a) -> Attempt<'a> {
        (name, Box::new(what))
    }
    let exchange = libc::RENAME_EXCHANGE;
    vec![
        boxed("write to an open file", || open.write_at(b"x", 5).map(drop)),
        boxed("truncate an open file", || open.set_len(5)),
        boxed("punch a hole into an open file", || sys::fallocate(open, 3, 0, 100_000)),
        boxed("extend an open file", || sys::fallocate(open, 0, 0, 400_000)),
        boxed("clone into an open file", move || {
            sys::copy_range(&File::open(at("elsewhere/f"))?, 0, open, 0, 200_000).map(drop)
        }),
        boxed("chmod an open file", || open.set_permissions(PermissionsExt::from_mode(0o600))),
        boxed("touch an open file", || open.set_modified(std::time::UNIX_EPOCH)),
        boxed("write", move || write("group/snap/f")?.write_all(b"x")),
        boxed("append", move || File::options().append(true).open(at("group/snap/f"))?.write_all(b"x")),
        boxed("open with O_TRUNC", move || File::create(at("group/snap/f")).map(drop)),
        boxed("chmod", move || fs::set_permissions(at("group/snap/f"), PermissionsExt::from_mode(0o600))),
        boxed("chown", move || std::os::unix::fs::chown(at("group/snap/f"), Some(7), None)),
        boxed("chown of a symlink", move || std::os::unix::fs::lchown(at("group/snap/link"), Some(7), None)),
        boxed("set an attribute", move || sys::set_xattr(&at("group/snap/f"), "user.new", b"x")),
        boxed("remove an attribute", move || calls::remove_xattr(&at("group/snap/f"), c"user.there")),
        boxed("set a flag", move || calls::set_flags(&at("group/snap/deep"), calls::NO_DUMP)),
        boxed("chmod of the directory", move || {
            fs::set_permissions(at("group/snap"), PermissionsExt::from_mode(0o700))
        }),
        boxed("chmod of a directory", move || {
            fs::set_permissions(at("group/snap/deep"), PermissionsExt::from_mode(0o700))
        }),
        boxed("create", move || File::create(at("group/snap/new")).map(drop)),
        boxed("create deep below", move || File::create(at("group/snap/deep/er/new")).map(drop)),
        boxed("mkdir", move || fs::create_dir(at("group/snap/deep/new"))),
        boxed("symlink", move || symlink("x", at("group/snap/deep/new"))),
        boxed("mkfifo", move || sys::mkfifo(&at("group/snap/deep/new"))),
        boxed("link within it", move || fs::hard_link(at("group/snap/f"), at("group/snap/deep/new"))),
        boxed("unlink", move || fs::remove_file(at("group/snap/deep/er/f"))),
        boxed("rmdir", move || fs::remove_dir(at("group/snap/empty"))),
        boxed("rename within it", move || fs::rename(at("group/snap/f"), at("group/snap/deep/g"))),
        boxed("rename over it", move || fs::rename(at("group/snap/f"), at("group/snap/deep/er/f"))),
        boxed("exchange", move || sys::rename(&at("group/snap/f"), &at("group/snap/deep/er/f"), exchange)),
        boxed("rename the snapshot", move || fs::rename(at("group/snap"), at("group/other"))),
        boxed("move it into the trash", move || fs::rename(at("group/snap"), at(".cairnfs/trash/snap"))),
        boxed("write by another name", move || write("group/snap/shared")?.write_all(b"x")),
    ]
}

/// What was not refused with EPERM.
fn not_refused(world: &World, open: &File) -> Vec<String> {
    let tried = attempts(world, open).into_iter().map(|(name, attempt)| (name, errno(attempt())));
    tried.filter(|(_, errno)| *errno != libc::EPERM).map(|(name, errno)| format!("{name}: {errno}")).collect()
}

#[test]
fn nothing_in_a_protected_subvolume_changes() {
    let Some(snapshot) = Snapshot::new(Setup::default()) else { return };
    let (world, before) = (&snapshot.world, snapshot.picture());
    said(&["protect"], &snapshot.at("group/snap"), 0);
    assert_eq!(calls::xflags(&snapshot.at("group/snap")).unwrap(), calls::X_IMMUTABLE);
    let wrong = not_refused(world, &snapshot.open);
    assert!(wrong.is_empty(), "not refused: {wrong:?}");
    assert_eq!(snapshot.picture(), before);
    // What is above it moves as ever, and takes it along.
    fs::rename(snapshot.at("group"), snapshot.at("moved")).unwrap();
    fs::rename(snapshot.at("moved"), snapshot.at("group")).unwrap();
    let Snapshot { world, bytes, open } = snapshot;
    drop(open);
    world.remount();
    let open = File::options().read(true).write(true).open(world.mnt.join("group/snap/shared")).unwrap();
    let snapshot = Snapshot { world, bytes, open };
    let wrong = not_refused(&snapshot.world, &snapshot.open);
    assert!(wrong.is_empty(), "not refused after a remount: {wrong:?}");
    assert_eq!(snapshot.picture(), before);
    for words in [&["rm"][..], &["rm", "--dry-run"]] {
        let refusal = said(words, &snapshot.at("group/snap"), 1);
        assert!(refusal.contains("is protected; `cairnfs unprotect"), "{refusal}");
    }
    // A clone of it is free, unless that was not wanted.
    let (snap, free, other) = (snapshot.at("group/snap"), snapshot.at("free"), snapshot.at("group/other"));
    made(&snap, &free);
    fs::write(free.join("f"), "changed").unwrap();
    let clone = ["clone".as_ref(), "--read-only".as_ref(), free.as_os_str(), other.as_os_str()];
    assert_eq!(cairnfs(&clone).code, 0);
    assert_eq!(errno(fs::write(other.join("f"), "x")), libc::EPERM);
    assert_eq!(fs::read(other.join("f")).unwrap(), b"changed");
    said(&["unprotect"], &snapshot.at("group/snap"), 0);
    snapshot.open.write_at(b"x", 0).unwrap();
    assert_eq!(fs::read(snapshot.at("group/snap/deep/er/f")).unwrap()[1..], snapshot.bytes[1..]);
    drop(snapshot.open);
    for path in [&snap, &other] {
        said(&["unprotect"], path, 0);
        said(&["rm"], path, 0);
    }
    snapshot.world.close();
}

/// What the command says about a path, and that it ends with this code.
fn said(words: &[&str], path: &Path, code: i32) -> String {
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
    let outcome = cairnfs(&words);
    assert_eq!(outcome.code, code, "{}", outcome.said());
    outcome.said()
}

#[test]
fn what_is_no_subvolume_is_not_protected_and_it_is_said_how_to_make_one() {
    let Some(world) = World::usual().filter(|_| may_protect()) else { return };
    let (dir, file) = (world.mnt.join("dir"), world.mnt.join("file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "x").unwrap();
    for word in ["protect", "unprotect"] {
        let refusal = said(&[word], &dir, 2);
        assert!(
            refusal.contains("is an ordinary directory") && refusal.contains("cairnfs clone"),
            "{refusal}"
        );
        said(&[word], &file, 2);
        said(&[word], &world.mnt.join("none"), 1);
        said(&[word], &world.host(), 2);
    }
    // As on ext4: the names in it stay, and nothing else.
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(dir.join("f"), "x").unwrap();
    tool!("chattr", "+i", dir);
    fs::write(dir.join("f"), "y").unwrap();
    File::create(dir.join("below/new")).unwrap();
    assert_eq!(errno(File::create(dir.join("new"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(dir.join("f"))), libc::EPERM);
    tool!("chattr", "-i", "+a", dir);
    File::create(dir.join("new")).unwrap();
    assert_eq!(errno(fs::remove_file(dir.join("f"))), libc::EPERM);
    tool!("chattr", "-a", dir);
    tool!("rm", "-r", dir);
    world.close();
}

/// The attempts can succeed: without the protection they do.
#[cfg(feature = "sim")]
#[test]
fn without_asking_by_number_a_snapshot_is_changed() {
    let setup = Setup { sabotage: "protected-by-number", ..Setup::default() };
    let Some(snapshot) = Snapshot::new(setup) else { return };
    let before = snapshot.picture();
    calls::set_flags(&snapshot.at("group/snap"), calls::IMMUTABLE).unwrap();
    let through = not_refused(&snapshot.world, &snapshot.open);
    assert!(through.len() > 15, "{through:?}");
    assert_ne!(snapshot.picture(), before);
}

/// Fills a directory as a backup does: files under temporary names that are renamed, then their attributes.
fn backup_into(dir: &Path, seed: u64) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    for n in 0..5 {
        let (temporary, file) = (dir.join(format!("sub/.{n}.x")), dir.join(format!("sub/{n}")));
        fs::write(&temporary, noise(seed + n, 20_000)).unwrap();
        fs::set_permissions(&temporary, PermissionsExt::from_mode(0o640)).unwrap();
        fs::rename(&temporary, &file).unwrap();
    }
}

#[test]
fn a_group_that_is_append_only_loses_no_snapshot() {
    let Some(world) = World::usual().filter(|_| may_protect()) else { return };
    let (group, at) = (world.mnt.join("group"), |name: &str| world.mnt.join("group").join(name));
    let empty = world.mnt.join("empty");
    fs::create_dir_all(&empty).unwrap();
    fs::create_dir(&group).unwrap();
    for (name, seed) in [("1", 10), ("2", 20)] {
        made(&empty, &at(name));
        backup_into(&at(name), seed);
    }
    tool!("chattr", "+a", group);
    assert_eq!(calls::xflags(&group).unwrap(), calls::X_APPEND);
    for _ in 0..2 {
        // Sealed: 1. The one made last is open, and keeps its name.
        for name in ["1", "2"] {
            assert_eq!(errno(fs::rename(at(name), at("new"))), libc::EPERM);
            assert_eq!(errno(fs::rename(at(name), world.mnt.join("new"))), libc::EPERM);
            assert_eq!(errno(fs::rename(at(name), world.mnt.join(".cairnfs/trash/x"))), libc::EPERM);
            let refusal = said(&["rm"], &at(name), 1);
            assert!(refusal.contains("keeps what is in it; `chattr -a"), "{refusal}");
        }
        let exchange = sys::rename(&at("1"), &at("2"), libc::RENAME_EXCHANGE);
        assert_eq!(errno(exchange), libc::EPERM);
        assert_eq!(errno(fs::remove_file(at("1/sub/0"))), libc::EPERM);
        assert_eq!(errno(fs::write(at("1/sub/0"), "encrypted")), libc::EPERM);
        assert_eq!(errno(File::create(at("1/new"))), libc::EPERM);
        fs::write(at("2/sub/0"), "changed").unwrap();
        world.remount();
    }
    // The next one seals it.
    let old = File::options().write(true).open(at("2/sub/1")).unwrap();
    old.write_at(b"still open", 0).unwrap();
    made(&at("2"), &at("3"));
    assert_eq!(errno(old.write_at(b"x", 0)), libc::EPERM);
    drop(old);
    backup_into(&at("3"), 30);
    assert_eq!(errno(fs::remove_dir_all(at("2"))), libc::EPERM);
    assert!(fs::read(at("2/sub/1")).unwrap().starts_with(b"still open"));
    assert_eq!(fs::read_dir(at("2/sub")).unwrap().count(), 5);
    // One that comes from elsewhere and was made earlier is sealed as it comes.
    let staged = world.mnt.join("staged");
    made(&at("3"), &staged);
    made(&at("3"), &at("4"));
    fs::rename(&staged, at("staged")).unwrap();
    assert_eq!(errno(File::create(at("staged/new"))), libc::EPERM);
    File::create(at("4/new")).unwrap();
    // Files and ordinary directories right in the group keep their names; what is in them is theirs.
    fs::write(at("note"), "one").unwrap();
    fs::write(at("note"), "two").unwrap();
    assert_eq!(errno(fs::remove_file(at("note"))), libc::EPERM);
    fs::create_dir(at("plain")).unwrap();
    fs::write(at("plain/x"), "one").unwrap();
    fs::remove_file(at("plain/x")).unwrap();
    tool!("rm", "-rf", at("4/sub"));
    tool!("chattr", "-a", group);
    tool!("rm", "-r", group);
    world.close();
}

/// Writes in the ways that leave changed pages with the kernel, then protects the subvolume at once. Returns
/// what the file should have and has, without the kernel's help.
fn written_then_held(world: &World) -> [(Vec<u8>, Vec<u8>); 2] {
    let (plain, dir) = (world.mnt.join("plain"), world.mnt.join("dir"));
    fs::create_dir(&plain).unwrap();
    made(&plain, &dir);
    let paths = [dir.join("written"), dir.join("mapped")];
    for path in &paths {
        fs::write(path, noise(1, 200_000)).unwrap();
    }
    world.sync();
    let open = |path| File::options().read(true).write(true).open(path).unwrap();
    let (written, mapped) = (open(&paths[0]), open(&paths[1]));
    let mut map = sys::Mapped::new(&mapped, 200_000).unwrap();
    let mut expected = noise(1, 200_000);
    expected[1000..1010].copy_from_slice(b"acquainted");
    written.write_all_at(b"acquainted", 1000).unwrap();
    map.bytes()[1000..1010].copy_from_slice(b"acquainted");
    calls::set_flags(&dir, calls::IMMUTABLE).unwrap();
    // What comes now is refused, at the latest when it is written out.
    map.bytes()[0] ^= 0xff;
    assert!(map.sync().is_err(), "a page that was changed after chattr was written");
    let _ = written.write_all_at(b"too late", 0);
    let refused = written.sync_all().is_err() || fs::read(&paths[0]).unwrap() == expected;
    assert!(refused, "a write after chattr was accepted");
    drop((map, mapped, written));
    world.remount();
    paths.map(|path| (expected.clone(), fs::read(path).unwrap()))
}

fn with_options(options: &'static str, sabotage: &'static str) -> Option<World> {
    World::new(Setup { options, sabotage, ..Setup::default() }).filter(|_| may_protect())
}

/// On both ways that requests can come, where the kernel has both.
#[test]
fn what_the_kernel_held_before_chattr_is_kept() {
    for options in [
        "gc=off,commit=1,cache=16M",
        "gc=off,commit=1,cache=16M,writeback",
        "gc=off,commit=1,cache=16M,io_uring=off",
        "gc=off,commit=1,cache=16M,writeback,io_uring=off",
        "gc=off,commit=1,cache=16M,writeback,io_uring=off,threads=1",
    ] {
        let Some(world) = with_options(options, "") else { return };
        for (expected, found) in written_then_held(&world) {
            assert!(found == expected, "with {options}");
        }
        world.close();
    }
}

#[cfg(feature = "sim")]
#[test]
fn without_the_writing_out_it_is_lost() {
    let options = "gc=off,commit=1,cache=16M,writeback";
    let Some(world) = with_options(options, "flush-before-protect") else { return };
    assert!(written_then_held(&world).iter().any(|(expected, found)| found != expected));
}

#[test]
fn flags_of_files_and_what_protects_them() {
    let Some(world) = World::usual().filter(|_| may_protect()) else { return };
    let (file, log) = (world.mnt.join("file"), world.mnt.join("log"));
    fs::write(&file, "x").unwrap();
    fs::write(&log, "one\n").unwrap();
    calls::set_flags(&file, calls::IMMUTABLE).unwrap();
    calls::set_xflags(&log, calls::X_APPEND).unwrap();
    world.remount();
    assert_eq!(
        (calls::flags(&file).unwrap(), calls::flags(&log).unwrap()),
        (calls::IMMUTABLE, calls::APPEND_ONLY)
    );
    assert_eq!(errno(fs::write(&file, "y")), libc::EPERM);
    assert_eq!(errno(fs::remove_file(&file)), libc::EPERM);
    assert_eq!(errno(fs::hard_link(&file, world.mnt.join("other"))), libc::EPERM);
    assert_eq!(errno(calls::set_flags(&file, calls::IMMUTABLE | calls::NO_DUMP)), libc::EPERM);
    File::options().append(true).open(&log).unwrap().write_all(b"two\n").unwrap();
    let plain = File::options().write(true).open(&log).unwrap();
    assert_eq!(errno(plain.write_at(b"x", 0)), libc::EPERM);
    assert_eq!(errno(plain.set_len(0)), libc::EPERM);
    assert_eq!(fs::read(&log).unwrap(), b"one\ntwo\n");
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
    assert_eq!(errno(calls::set_flags(&file, 0x4)), libc::EOPNOTSUPP, "compression is not a flag here");
    drop(plain);
    world.close();
}
