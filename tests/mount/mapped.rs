//! write(2) beside a shared mapping of the same file.
//!
//! Keeps true: whatever way a descriptor was opened, what goes through it and what is stored through a mapping are one
//! content, to the byte. A write that passed the page cache by would be lost with the rest of its page as soon as the
//! page is written out.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use crate::sys::Mapped;
use crate::world::World;

const PAGE: usize = 4096;

/// The ways in which a program may make a file: for writing and reading or for writing alone, with O_EXCL or without.
fn ways() -> [OpenOptions; 4] {
    let made = |read: bool, excl: bool| {
        let mut options = OpenOptions::new();
        options.read(read).write(true).create(true).create_new(excl);
        options
    };
    [made(true, true), made(true, false), made(false, true), made(false, false)]
}

/// A new file and a mapping of it, through the same descriptor where that can be read, else through one of its own.
fn made_and_mapped(path: &Path, way: &OpenOptions, len: usize) -> (File, Mapped) {
    let file = way.open(path).unwrap();
    file.set_len(len as u64).unwrap();
    let mapped = Mapped::new(&file, len)
        .or_else(|_| Mapped::new(&File::options().read(true).write(true).open(path).unwrap(), len));
    (file, mapped.unwrap())
}

#[test]
fn no_write_beside_stores_to_the_same_pages_is_lost() {
    let Some(world) = World::usual() else { return };
    const PAGES: usize = 256;
    for (n, way) in ways().iter().enumerate() {
        for round in 0..10 {
            let path = world.mnt.join(format!("f{n}.{round}"));
            let (file, mut mapped) = made_and_mapped(&path, way, PAGES * PAGE);
            let together = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    for page in 0..PAGES {
                        file.write_all_at(b"w", (page * PAGE + 100) as u64).unwrap();
                    }
                });
                together.wait();
                for page in 0..PAGES {
                    mapped.store(page * PAGE + 3000, b'm');
                }
            });
            let bytes = mapped.bytes();
            let lost = (0..PAGES).filter(|p| bytes[p * PAGE + 100] != b'w' || bytes[p * PAGE + 3000] != b'm');
            assert_eq!(lost.count(), 0, "way {n}, round {round}");
        }
    }
    world.close();
}
