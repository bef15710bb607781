//! Several programs at one file, and the times that changes leave behind.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::calls;
use crate::data::Numbers;
use crate::skip::need;
use crate::sys;
use crate::world::{Setup, World};

const RECORD: usize = 256 << 10;
const RECORDS: u64 = 8;

/// A record says in each of its words who wrote it when.
fn record(tag: u64) -> Vec<u8> {
    tag.to_le_bytes().repeat(RECORD / 8)
}

/// True if a record is of one piece.
fn is_whole(record: &[u8]) -> bool {
    record.chunks(8).all(|word| *word == record[..8])
}

fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// Writers and readers of the same records at the same time; returns how many reads were not of one piece.
fn torn_reads(path: &Path, write_size: usize) -> usize {
    let file = File::create(path).unwrap();
    (0..RECORDS).for_each(|n| file.write_all_at(&record(n), n * RECORD as u64).unwrap());
    drop(file);
    let ended = AtomicBool::new(false);
    let place = |numbers: &mut Numbers| numbers.below(RECORDS) * RECORD as u64;
    thread::scope(|scope| {
        let writer = |seed: u64, flags: i32| {
            let ended = &ended;
            move || {
                let (file, mut numbers, mut written) = (open(path, flags), Numbers::new(seed), 0);
                while !ended.load(Ordering::Relaxed) {
                    let (at, bytes) = (place(&mut numbers), record(seed << 32 | written));
                    for (n, part) in bytes.chunks(write_size).enumerate() {
                        file.write_all_at(part, at + (n * write_size) as u64).unwrap();
                    }
                    written += 1;
                }
            }
        };
        scope.spawn(writer(1, libc::O_DIRECT));
        scope.spawn(writer(2, 0));
        let reader = |seed: u64| {
            move || {
                let (file, mut numbers) = (open(path, libc::O_DIRECT), Numbers::new(seed));
                let mut found = vec![0; RECORD];
                let mut torn = 0;
                for _ in 0..400 {
                    let read = file.read_at(&mut found, place(&mut numbers)).unwrap();
                    assert_eq!(read, RECORD, "a short read before the end");
                    torn += usize::from(!is_whole(&found));
                }
                torn
            }
        };
        let readers = [scope.spawn(reader(3)), scope.spawn(reader(4))];
        let torn = readers.map(|reader| reader.join());
        ended.store(true, Ordering::Relaxed);
        torn.into_iter().map(|torn| torn.unwrap()).sum()
    })
}

#[test]
fn a_read_sees_a_write_whole_or_not_at_all() {
    let Some(world) = World::usual() else { return };
    assert_eq!(torn_reads(&world.mnt.join("file"), RECORD), 0);
    // Two writes are not one: what is found out here can be seen.
    assert!(torn_reads(&world.mnt.join("other"), RECORD / 2) > 0);
    world.close();
}

#[test]
fn no_read_is_short_before_the_end() {
    let Some(world) = World::usual() else { return };
    let path = world.mnt.join("file");
    let mut numbers = Numbers::new(5);
    let file = open_new(&path);
    let mut len = 0_u64;
    for n in 0..120 {
        // Data and holes, some of it still staged while it is read.
        let at = len + numbers.below(3) * 10_000;
        let bytes = crate::data::noise(n, 1 + numbers.below(40_000) as usize);
        file.write_all_at(&bytes, at).unwrap();
        len = at + bytes.len() as u64;
        if n % 30 == 0 {
            file.sync_all().unwrap();
        }
        for flags in [0, libc::O_DIRECT] {
            let (from, size) = (numbers.below(len), 1 + numbers.below(2 << 20) as usize);
            let mut found = vec![0; size];
            let read = open(&path, flags).read_at(&mut found, from).unwrap();
            assert_eq!(read, size.min((len - from) as usize), "{size} bytes from {from} of {len}");
        }
    }
    drop(file);
    world.close();
}

fn open_new(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

/// Times of the files that the script works on.
fn times(dir: &Path) -> Vec<[(i64, i64); 2]> {
    let of = |name: &str| match fs::symlink_metadata(dir.join(name)) {
        Ok(meta) => [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())],
        Err(_) => [(0, 0); 2],
    };
    ["", "f", "g", "l", "d", "d/f"].map(of).to_vec()
}

/// Waits until the clock that the file system takes its times from has moved on.
fn tick(dir: &Path) {
    let probe = dir.join("d/probe");
    fs::write(&probe, "x").unwrap();
    let begin = fs::metadata(&probe).unwrap().modified().unwrap();
    while fs::metadata(&probe).unwrap().modified().unwrap() <= begin {
        fs::write(&probe, "y").unwrap();
    }
}

type Step<'a> = (&'a str, Box<dyn Fn() + 'a>);

fn steps(dir: &Path) -> Vec<Step<'_>> {
    let at = |name: &str| dir.join(name);
    let file = move |name: &str| File::options().read(true).write(true).open(at(name)).unwrap();
    fn step<'a>(name: &'a str, what: impl Fn() + 'a) -> Step<'a> {
        (name, Box::new(what))
    }
    let mode = |mode| fs::Permissions::from_mode(mode);
    vec![
        step("create", move || drop(File::create(at("f")).unwrap())),
        step("open with O_TRUNC what is empty", move || drop(File::create(at("f")).unwrap())),
        step("write", move || file("f").write_all(&[1; 100_000]).unwrap()),
        step("write nothing", move || assert_eq!(file("f").write(&[]).unwrap(), 0)),
        step("write over", move || file("f").write_all_at(&[2; 5000], 3000).unwrap()),
        step("read", move || assert_eq!(fs::read(at("f")).unwrap().len(), 100_000)),
        step("ftruncate to the same size", move || file("f").set_len(100_000).unwrap()),
        step("truncate to the same size", move || calls::truncate(&at("f"), 100_000).unwrap()),
        step("truncate", move || calls::truncate(&at("f"), 90_000).unwrap()),
        step("extend", move || file("f").set_len(120_000).unwrap()),
        step("fallocate", move || sys::fallocate(&file("f"), 0, 0, 130_000).unwrap()),
        step("punch", move || sys::fallocate(&file("f"), 3, 0, 8192).unwrap()),
        step("write through memory", move || {
            let file = file("f");
            let mut map = sys::Mapped::new(&file, 100_000).unwrap();
            map.bytes()[50_000] = 7;
            map.sync().unwrap();
        }),
        step("chmod", move || fs::set_permissions(at("f"), mode(0o600)).unwrap()),
        step("chmod to the same", move || fs::set_permissions(at("f"), mode(0o600)).unwrap()),
        step("set an attribute", move || sys::set_xattr(&at("f"), "user.a", b"x").unwrap()),
        step("remove an attribute", move || calls::remove_xattr(&at("f"), c"user.a").unwrap()),
        step("link", move || fs::hard_link(at("f"), at("l")).unwrap()),
        step("rename", move || fs::rename(at("l"), at("g")).unwrap()),
        step("rename to another of its names", move || fs::rename(at("f"), at("g")).unwrap()),
        step("unlink a name", move || fs::remove_file(at("g")).unwrap()),
        step("create another", move || fs::write(at("g"), "g").unwrap()),
        step("rename over it", move || fs::rename(at("g"), at("f")).unwrap()),
        step("rename to another directory", move || fs::rename(at("f"), at("d/f")).unwrap()),
        step("and back", move || fs::rename(at("d/f"), at("f")).unwrap()),
        step("symlink", move || symlink("f", at("l")).unwrap()),
        step("exchange", move || sys::rename(&at("l"), &at("f"), libc::RENAME_EXCHANGE).unwrap()),
        step("exchange again", move || sys::rename(&at("l"), &at("f"), libc::RENAME_EXCHANGE).unwrap()),
        step("mkdir", move || fs::create_dir(at("d/f")).unwrap()),
        step("rmdir", move || fs::remove_dir(at("d/f")).unwrap()),
        step("touch", move || file("f").set_modified(std::time::SystemTime::now()).unwrap()),
        step("set a time", move || file("f").set_modified(std::time::UNIX_EPOCH).unwrap()),
        step("write after that", move || file("f").write_all(b"x").unwrap()),
        step("copy a part of it", move || {
            let file = file("f");
            fs::write(at("g"), vec![1; 4096]).unwrap();
            sys::copy_range(&File::open(at("g")).unwrap(), 0, &file, 0, 1).unwrap();
        }),
        step("make a fifo", move || sys::mkfifo(&at("d/f")).unwrap()),
        step("unlink", move || fs::remove_file(at("f")).unwrap()),
    ]
}

/// Which times each step changes.
fn changes(dir: &Path) -> Vec<String> {
    fs::create_dir_all(dir.join("d")).unwrap();
    let names = ["the directory", "f", "g", "l", "d", "d/f"];
    let mut said = Vec::new();
    for (name, step) in steps(dir) {
        tick(dir);
        let before = times(dir);
        step();
        let after = times(dir);
        let mut line = format!("{name}:");
        for (n, (before, after)) in before.iter().zip(&after).enumerate() {
            let changed =
                [(0, "mtime"), (1, "ctime")].into_iter().filter(|(time, _)| before[*time] != after[*time]);
            changed.for_each(|(_, time)| line += &format!(" {time} of {}", names[n]));
        }
        said.push(line);
    }
    said
}

#[test]
fn times_change_as_on_the_host() {
    let host = tempfile::tempdir().unwrap();
    let kind = crate::world::run_tool("stat", &["-f".as_ref(), "-c%T".as_ref(), host.path().as_os_str()]);
    let is_known = ["ext", "btrfs", "xfs"].iter().any(|name| kind.contains(name));
    if !need(is_known, format_args!("temporary files on ext4, btrfs or xfs; here it is {}", kind.trim())) {
        return;
    }
    let expected = changes(&host.path().join("dir"));
    assert!(expected.iter().any(|line| line.contains("mtime of f")), "{expected:?}");
    for options in ["gc=off,commit=1,cache=16M", "gc=off,commit=1,cache=16M,writeback"] {
        let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
        let found = changes(&world.mnt.join("dir"));
        // With the writeback cache the kernel keeps the times itself, and does so by POSIX, which wants none here.
        let kernels = if options.contains("writeback") { "truncate to the same size:" } else { "" };
        let pairs = expected.iter().zip(&found);
        let differences: Vec<_> = pairs.filter(|(host, here)| host != here && *here != kernels).collect();
        assert!(differences.is_empty(), "with {options}: host, here: {differences:#?}");
        let before = times(&world.mnt.join("dir"));
        world.remount();
        assert_eq!(times(&world.mnt.join("dir")), before, "after a mount, with {options}");
        world.close();
    }
}
