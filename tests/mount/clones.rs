//! copy_file_range(2) on a mount: the copy refers to the same chunks (P17), whoever else copies at that moment, and works
//! also while the file is being written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::data::noise;
use crate::sys;
use crate::world::{Setup, World, tool, wait_for};

/// Programs that make the first copies of a mount, all at once.
const PROGRAMS: usize = 4;
const LEN: usize = 60_000;

/// Bytes that committed files refer to, after an fsync of another file. What a copy wrote as data is staged then; what
/// it wrote as references is in the same commit.
fn referenced(world: &World) -> u64 {
    File::create(world.mnt.join("other")).and_then(|other| other.sync_all()).unwrap();
    world.figure("referenced_bytes")
}

#[test]
fn the_first_copies_of_a_mount_move_no_data() {
    // Nothing is committed but by fsync.
    let Some(world) = World::new(Setup { options: "gc=off,commit=3600,cache=16M", ..Setup::default() })
    else {
        return;
    };
    fs::write(world.mnt.join("source"), noise(1, LEN)).unwrap();
    for round in 0..8 {
        world.remount();
        let before = referenced(&world);
        let begin = Barrier::new(PROGRAMS);
        thread::scope(|scope| {
            for program in 0..PROGRAMS {
                let (world, begin) = (&world, &begin);
                scope.spawn(move || {
                    let from = File::open(world.mnt.join("source")).unwrap();
                    let to = File::create(world.mnt.join(format!("copy-{round}-{program}"))).unwrap();
                    begin.wait();
                    assert_eq!(sys::copy_range(&from, 0, &to, 0, LEN).unwrap(), LEN);
                });
            }
        });
        let copied = (PROGRAMS * LEN) as u64;
        assert_eq!(referenced(&world), before + copied, "mount {round}: a copy was read and written");
    }
    world.close();
}

#[test]
fn a_file_that_is_being_written_can_be_copied() {
    const WRITERS: u64 = 4;
    let Some(world) = World::usual() else { return };
    let (source, copy) = (world.mnt.join("source"), world.mnt.join("copy"));
    let bytes = noise(2, LEN);
    fs::write(&source, &bytes).unwrap();
    let (ended, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (source, bytes, ended, writes) = (&source, &bytes, &ended, &writes);
            scope.spawn(move || {
                // The same bytes again: whatever a copy meets, it is these.
                let file = File::options().write(true).open(source).unwrap();
                let at = writer as usize * 10_000;
                while !ended.load(Ordering::Relaxed) {
                    file.write_all_at(&bytes[at..at + 1000], at as u64).unwrap();
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_for("the writers", || writes.load(Ordering::Relaxed) > 100);
        let copied: std::io::Result<Vec<_>> = (0..200)
            .map(|_| {
                let (from, to) = (File::open(&source)?, File::create(&copy)?);
                let copied = sys::copy_range(&from, 0, &to, 0, LEN)?;
                Ok((copied, fs::read(&copy)?))
            })
            .collect();
        ended.store(true, Ordering::Relaxed);
        for (copied, found) in copied.expect("copy_file_range of a file that is being written") {
            assert!(found == bytes[..copied] && copied > 0, "{copied} bytes were copied, others were found");
        }
    });
    tool!("cp", source, copy);
    assert!(fs::read(&copy).unwrap() == bytes);
    world.close();
}
