//! A backup is a copy, a prune is a delete: three generations of a tree with everything that trees have in them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::data::{Numbers, noise, text};
use crate::sys;
use crate::world::{Setup, World, run, tool};
use crate::world::{command, wait_for};

/// Small files of the first generation.
const SMALL: u64 = 4_000;
/// Bytes that only the first generation has.
const ONLY_FIRST: usize = 40 << 20;

/// The first generation: small files, large ones, and one of everything else.
fn first_generation(dir: &Path) {
    let mut numbers = Numbers::new(1);
    for n in 0..SMALL {
        let below = dir.join(format!("small/{:02}/{:02}", n % 20, n / 20 % 10));
        if n < 200 {
            fs::create_dir_all(&below).unwrap();
        }
        let len = numbers.below(6_000) as usize;
        fs::write(below.join(format!("file {n}.txt")), text(n, len)).unwrap();
    }
    fs::create_dir(dir.join("large")).unwrap();
    for (name, bytes) in
        [("noise", noise(2, 30 << 20)), ("text", text(3, 30 << 20)), ("only-first", noise(4, ONLY_FIRST))]
    {
        fs::write(dir.join("large").join(name), bytes).unwrap();
    }
    one_of_everything(&dir.join("odd"));
}

fn one_of_everything(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let odd: [&[u8]; 7] =
        [b"new\nline", b" blank ", b"-rf", b"\xff\xfenot UTF-8", "kämpfe 石".as_bytes(), b"*?[x]", b"...."];
    for name in odd {
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(dir.join("n".repeat(255)), "long").unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("nothing"), "").unwrap();
    for n in 0..5 {
        fs::hard_link(dir.join("nothing"), dir.join(format!("link {n}"))).unwrap();
    }
    fs::hard_link(dir.join("-rf"), dir.join("empty/linked from below")).unwrap();
    symlink("../small", dir.join("to a directory")).unwrap();
    symlink("n".repeat(4000), dir.join("to nowhere")).unwrap();
    sys::mkfifo(&dir.join("pipe")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(&noise(5, 100_000), 70 << 20).unwrap();
    sparse.set_len(1 << 30).unwrap();
    for (n, mode) in [0o000, 0o400, 0o755, 0o1777, 0o4755, 0o2755].into_iter().enumerate() {
        let path = dir.join(format!("mode {n}"));
        fs::write(&path, "m").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    sys::set_xattr(&dir.join("nothing"), "user.colour", b"grey\0stone").unwrap();
    sys::set_xattr(&dir.join("empty"), "user.large", &noise(6, 3_000)).unwrap();
    if command("setfacl").output().is_ok_and(|said| said.status.code() != Some(127)) {
        run(command("setfacl").args(["-m", "u:1234:rw"]).arg(dir.join("mode 1")));
        run(command("setfacl").args(["-d", "-m", "g:77:r"]).arg(dir.join("empty")));
    }
}

/// What changes from one generation to the next.
fn next_generation(dir: &Path, number: u64) {
    let mut numbers = Numbers::new(number);
    for _ in 0..300 {
        let n = numbers.below(SMALL);
        let path = dir.join(format!("small/{:02}/{:02}/file {n}.txt", n % 20, n / 20 % 10));
        match numbers.below(3) {
            0 => drop(fs::remove_file(path)),
            1 => fs::write(path, text(number << 20 | n, 3_000)).unwrap(),
            _ => drop(fs::rename(&path, path.with_extension(format!("moved{number}")))),
        }
    }
    let _ = fs::remove_file(dir.join("large/only-first"));
    let noise_file = File::options().write(true).open(dir.join("large/noise")).unwrap();
    noise_file.write_all_at(&noise(number, 1 << 20), number << 20).unwrap();
    let moved = dir.join("large/text");
    let mut bytes = fs::read(&moved).unwrap();
    bytes.splice(1_000_000..1_000_000, *b"put in, so that all that follows moves");
    fs::write(moved, bytes).unwrap();
    fs::rename(dir.join("small/07"), dir.join(format!("odd/moved {number}"))).unwrap();
    fs::create_dir(dir.join("small/07")).unwrap();
    for n in 0..10 {
        fs::create_dir(dir.join(format!("small/07/{n:02}"))).unwrap();
    }
}

fn with_slash(dir: &Path) -> String {
    format!("{}/", dir.display())
}

fn backup(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    tool!("rsync", "-aHAX", with_slash(from), with_slash(to));
}

/// Contents, kinds, owners, modes, times, hard links, ACLs and xattrs.
fn assert_same(source: &Path, snapshot: &Path) {
    let (from, to) = (with_slash(source), with_slash(snapshot));
    let said = tool!("rsync", "-n", "-c", "-aHAX", "--delete", "--itemize-changes", from, to);
    assert_eq!(said, "", "rsync finds differences in {}", snapshot.display());
    // Of two pipes diff can only say that it cannot compare them.
    let said = tool!("diff", "-r", "--no-dereference", "-x", "pipe", source, snapshot);
    assert_eq!(said, "", "diff finds differences in {}", snapshot.display());
}

/// Runs cycles one after the other beside `work`; returns how many.
fn beside_cycles(world: &World, work: impl FnOnce()) -> u64 {
    let done = AtomicBool::new(false);
    let before = world.figure("generation");
    thread::scope(|scope| {
        let cycles = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                world.gc();
            }
        });
        // The work begins when cycles do.
        wait_for("a cycle", || world.figure("generation") > before);
        work();
        done.store(true, Ordering::Relaxed);
        cycles.join().unwrap();
    });
    world.figure("generation") - before
}

#[test]
fn three_generations_and_a_prune_while_cycles_run() {
    // The usual chunks, and an interval so long that fsync, closing and cycles are what commits.
    let setup = Setup { mkfs: &["--reserve", "1M"], options: "gc=off,commit=5,acl", ..Setup::default() };
    let Some(world) = World::new(setup) else { return };
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(|name| world.host().join(name));
    let [s1, s2, s3] = ["1", "2", "3"].map(|name| world.mnt.join("group").join(name));
    fs::create_dir(&v1).unwrap();
    first_generation(&v1);
    backup(&v1, &s1);
    assert_same(&v1, &s1);

    tool!("cp", "-a", v1, v2);
    next_generation(&v2, 2);
    tool!("cp", "-a", v2, s2);
    assert_same(&v2, &s2);

    tool!("cp", "-a", v2, v3);
    next_generation(&v3, 3);
    world.sync();
    let before = world.disk_usage();
    let cycles = beside_cycles(&world, || {
        thread::scope(|scope| {
            scope.spawn(|| tool!("rm", "-rf", s1));
            backup(&v3, &s3);
        });
    });
    world.gc();
    let after = world.disk_usage();
    println!("{cycles} cycles beside it; the store takes {} MiB, before {} MiB", after >> 20, before >> 20);
    assert!(!s1.exists());
    assert!(after + (ONLY_FIRST as u64) * 3 / 4 < before, "the store takes {after} bytes, before {before}");

    world.remount();
    assert_same(&v2, &s2);
    assert_same(&v3, &s3);
    world.assert_clean();
    let back = world.host().join("restored");
    tool!("rsync", "-aHAX", with_slash(&s3), with_slash(&back));
    assert_same(&v3, &back);
    world.close();
}
