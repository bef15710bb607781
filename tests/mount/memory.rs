//! The daemon's memory stays within the bound that `docs/architecture.md` adds up, whatever is asked of it at once.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::thread;

use crate::data::noise;
use crate::world::{Setup, World};

const MIB: usize = 1 << 20;
/// With `cache=16M`: 64 MiB staged, 32 that wait to be written, of four flushes a part each that is cut and one that
/// waits, two batches of 16 MiB of rows, the caches, the remembered digests, a request of each thread, the program itself
/// and the contexts of zstd are 256; and a quarter of that for what an allocator cannot give back.
const BOUND: usize = 320 * MIB;
const STREAMS: u64 = 4;
/// Of each stream: together more than twice the bound, and written faster than it can be stored.
const STREAM: usize = 192 * MIB;
const SMALL_FILES: u64 = 4000;

/// Bytes of which no chunk is like another, made as fast as they can be written.
fn stream(path: &Path, seed: u64) {
    let mut block = noise(seed, MIB);
    let mut file = File::create(path).unwrap();
    for number in 0..(STREAM / MIB) as u64 {
        for part in block.chunks_mut(4096) {
            part[..8].copy_from_slice(&(seed << 32 | number).to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
}

fn small_files(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for number in 0..SMALL_FILES {
        fs::write(dir.join(number.to_string()), noise(number << 8, 2000 + (number % 7) as usize * 1000))
            .unwrap();
    }
}

fn read_all(path: &Path) {
    let (mut file, mut block) = (File::open(path).unwrap(), vec![0; MIB]);
    while file.read(&mut block).unwrap() > 0 {}
}

fn peak(pid: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: usize = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap();
    kib << 10
}

/// The most memory that the daemon had under streams, small files, reads, clones, deletions and cycles.
fn peak_under_load(sabotage: &'static str) -> Option<usize> {
    let world = World::new(Setup { mkfs: &["--reserve", "1M"], sabotage, ..Setup::default() })?;
    let of = |number: u64| world.mnt.join(format!("stream{number}"));
    thread::scope(|scope| {
        for number in 0..STREAMS {
            let path = of(number);
            scope.spawn(move || stream(&path, number + 1));
        }
        scope.spawn(|| small_files(&world.mnt.join("small")));
    });
    world.sync();
    thread::scope(|scope| {
        for number in 0..2 {
            let path = of(number);
            scope.spawn(move || read_all(&path));
        }
        scope.spawn(|| {
            // By copy_file_range(2).
            assert_eq!(fs::copy(of(2), world.mnt.join("clone")).unwrap(), STREAM as u64);
        });
        scope.spawn(|| fs::remove_dir_all(world.mnt.join("small")).unwrap());
    });
    fs::remove_file(of(3)).unwrap();
    world.gc();
    let peak = peak(world.pid());
    world.close();
    Some(peak)
}

#[test]
fn memory_stays_within_its_bound_and_without_the_limit_of_staging_it_does_not() {
    let Some(with) = peak_under_load("") else { return };
    let without = peak_under_load("staging-limit").unwrap();
    println!("peak {} MiB, without the limit {} MiB", with / MIB, without / MIB);
    assert!(with <= BOUND, "{} MiB, more than {}", with / MIB, BOUND / MIB);
    assert!(without > BOUND, "{} MiB without the limit: the test would notice nothing", without / MIB);
}
