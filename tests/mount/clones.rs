//! copy_file_range(2) on a mount: the copy refers to the same chunks (P17), whoever else copies at that moment.

use std::fs::{self, File};
use std::sync::Barrier;
use std::thread;

use crate::data::noise;
use crate::sys;
use crate::world::{Setup, World};

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
