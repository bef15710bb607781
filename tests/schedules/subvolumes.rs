//! Subvolumes: a clone is a cut, whatever is written meanwhile; clones, drops and moves of one exclude each other; and
//! first writes, drops, reaps and cycles go side by side.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::fs::{Caller, IMMEDIATE_REMOVAL_LIMIT, ROOT_INO, RenameFlags};
use crate::meta::Table;
use crate::meta::versions::subvolumes::read_rows;
use crate::sync::Arc;

use super::explore::{Scenario, Threads};
use super::oracle::is_sound;
use super::world::{Outcome, World, broken, content};

const CALLER: Caller = Caller { uid: 0, gid: 0 };

/// All scenarios of subvolumes.
pub const ALL: &[&Scenario] = &[&CUT, &DROPPED, &MOVED, &FIRST_WRITES, &DELETES, &STILL_OPEN, &LOOKED_UP];

fn find(world: &World, parent: u64, name: &str) -> Result<u64> {
    let ino = world.fs.lookup(parent, name.as_bytes())?.ino;
    world.forget(ino);
    Ok(ino)
}

fn clone_dir(world: &World, source: u64, name: &str) -> Result<()> {
    world.fs.wish_clone(ROOT_INO, name.as_bytes(), source, CALLER)?;
    let ino = world.fs.mkdir(ROOT_INO, name.as_bytes(), CALLER, 0o755, 0)?.ino;
    world.forget(ino);
    Ok(())
}

fn drop_dir(world: &World, name: &str) -> Result<()> {
    let root = find(world, ROOT_INO, name)?;
    world.fs.allow_drop(root, CALLER)?;
    world.fs.rmdir_as(ROOT_INO, name.as_bytes(), CALLER).map(drop)
}

fn save(world: &World, dir: u64, name: &str, number: u64) -> Result<()> {
    let ino = world.fs.mknod(dir, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0)?.ino;
    let written = world.fs.write(ino, 0, &content(number), false);
    world.forget(ino);
    written
}

/// Writes over a file; later contents are longer.
fn overwrite(world: &World, dir: u64, name: &str, number: u64) -> Result<()> {
    let ino = world.fs.lookup(dir, name.as_bytes())?.ino;
    let written = world.fs.write(ino, 0, &content(number), false);
    world.forget(ino);
    written
}

fn bytes(world: &World, dir: u64, name: &str) -> Result<Vec<u8>> {
    let ino = world.fs.lookup(dir, name.as_bytes())?.ino;
    let bytes = world.read(ino);
    world.forget(ino);
    bytes
}

fn expect(world: &World, dir: &str, name: &str, number: u64) -> Outcome {
    match find(world, ROOT_INO, dir).and_then(|dir| bytes(world, dir, name)) {
        Ok(found) if found == content(number) => Ok(()),
        Ok(_) => broken(format!("{dir}/{name} has other bytes than content {number}")),
        Err(error) => broken(format!("{dir}/{name}: {error}")),
    }
}

/// A subvolume "s" with a file "a".
fn before(world: &World) -> Outcome {
    let plain = world.fs.mkdir(ROOT_INO, b"plain", CALLER, 0o755, 0)?.ino;
    world.forget(plain);
    save(world, plain, "a", 1)?;
    clone_dir(world, plain, "s")?;
    world.remove_in(plain, "a")?;
    world.fs.rmdir(ROOT_INO, b"plain")?;
    Ok(world.fs.sync()?)
}

impl World {
    fn remove_in(&self, dir: u64, name: &str) -> Result<()> {
        let ino = self.fs.lookup(dir, name.as_bytes())?.ino;
        self.fs.unlink(dir, name.as_bytes())?;
        self.forget(ino);
        Ok(())
    }
}

/// Everything is sound; and once all subvolumes are gone, nothing is left of any.
fn leaves_nothing(world: &World, names: &[&str]) -> Outcome {
    is_sound(world, &[])?;
    for (number, row) in read_rows(&*world.store.layers())? {
        if !row.dropped && !names.iter().any(|name| name.as_bytes() == row.name) {
            return broken(format!("subvolume {number} has no name that anybody knows, and is not dropped"));
        }
    }
    for name in names {
        drop_dir(world, name)?;
    }
    for _ in 0..3 {
        world.fs.sync()?;
        while world.fs.reap_subvolumes()? {}
    }
    for table in [Table::SubInodes, Table::SubDirents, Table::SubExtents, Table::Owned, Table::Subvolumes] {
        let mut rows = 0;
        let all = std::ops::Bound::Unbounded;
        world.store.layers().scan(table, all, all, |_, _| {
            rows += 1;
            Ok(true)
        })?;
        if rows > 0 {
            return broken(format!("{rows} rows of {} stay", table.name()));
        }
    }
    world.cycle()
}

/// A write and two new names one after the other, beside a clone and a cycle: the clone has the names as they were at
/// one moment, and all that had returned before it was asked for. Bytes that are written meanwhile may be in it or not.
pub const CUT: Scenario = Scenario {
    name: "a_clone_is_a_cut",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before,
    race: |world| {
        let s = find(world, ROOT_INO, "s")?;
        let done = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(AtomicU64::new(0));
        let mut threads = Threads::default();
        let written = done.clone();
        threads.start(world, move |world| {
            overwrite(&world, s, "a", 2)?;
            written.store(1, Ordering::SeqCst);
            save(&world, s, "x", 4)?;
            save(&world, s, "b", 3)?;
            written.store(2, Ordering::SeqCst);
            Ok(())
        });
        let (before, noted) = (done.clone(), seen.clone());
        threads.start(world, move |world| {
            noted.store(before.load(Ordering::SeqCst), Ordering::SeqCst);
            Ok(clone_dir(&world, s, "c")?)
        });
        threads.start(world, |world| world.cycle());
        threads.join()?;
        let c = find(world, ROOT_INO, "c")?;
        let a = bytes(world, c, "a")?;
        let b = match bytes(world, c, "b") {
            Err(Error::Posix(libc::ENOENT)) => None,
            other => Some(other?),
        };
        if a != content(1) && a != content(2) {
            return broken("the clone has a mix of two contents");
        }
        if b.is_some() && find(world, c, "x").is_err() {
            return broken("the clone has the second name and not the first");
        }
        if b.as_ref().is_some_and(|b| !b.is_empty() && *b != content(3)) {
            return broken("the clone has a part of a file");
        }
        let (seen, has) = (seen.load(Ordering::SeqCst), [a == content(2), b == Some(content(3))]);
        if seen > 0 && !has[0] || seen > 1 && !has[1] {
            return broken(format!(
                "the clone lacks what had returned before it was asked for: {has:?}, {seen}"
            ));
        }
        expect(world, "s", "a", 2)?;
        expect(world, "s", "b", 3)?;
        leaves_nothing(world, &["s", "c"])
    },
};

/// A subvolume is dropped while it is cloned.
pub const DROPPED: Scenario = Scenario {
    name: "a_subvolume_is_cloned_or_dropped",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before,
    race: |world| {
        let s = find(world, ROOT_INO, "s")?;
        let cloned = Arc::new(AtomicU64::new(0));
        let mut threads = Threads::default();
        let made = cloned.clone();
        threads.start(world, move |world| match clone_dir(&world, s, "c") {
            Ok(()) => {
                made.store(1, Ordering::SeqCst);
                Ok(())
            }
            // It was gone already.
            Err(Error::Posix(libc::ENOENT | libc::ESTALE)) => Ok(()),
            Err(error) => broken(format!("the clone: {error}")),
        });
        threads.start(world, |world| Ok(drop_dir(&world, "s")?));
        threads.start(world, |world| Ok(world.fs.sync()?));
        threads.join()?;
        if cloned.load(Ordering::SeqCst) == 0 {
            return leaves_nothing(world, &[]);
        }
        expect(world, "c", "a", 1)?;
        while world.fs.reap_subvolumes()? {}
        world.cycle()?;
        expect(world, "c", "a", 1)?;
        leaves_nothing(world, &["c"])
    },
};

/// A subvolume gets another name while it is cloned.
pub const MOVED: Scenario = Scenario {
    name: "a_subvolume_is_cloned_while_it_moves",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before,
    race: |world| {
        let s = find(world, ROOT_INO, "s")?;
        let mut threads = Threads::default();
        threads.start(world, move |world| Ok(clone_dir(&world, s, "c")?));
        threads.start(world, |world| {
            Ok(world.fs.rename(ROOT_INO, b"s", ROOT_INO, b"t", RenameFlags::default())?)
        });
        threads.join()?;
        expect(world, "c", "a", 1)?;
        expect(world, "t", "a", 1)?;
        leaves_nothing(world, &["t", "c"])
    },
};

/// Two clones are written to for the first time, while the one that they come from is dropped and reaped beside a
/// cycle.
pub const FIRST_WRITES: Scenario = Scenario {
    name: "first_writes_beside_a_drop_a_reap_and_a_cycle_lose_nothing",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: two_clones,
    race: |world| {
        let (c, d) = (find(world, ROOT_INO, "c")?, find(world, ROOT_INO, "d")?);
        let mut threads = Threads::default();
        threads.start(world, move |world| {
            overwrite(&world, c, "a", 2)?;
            Ok(world.fs.sync()?)
        });
        threads.start(world, move |world| {
            // Appends, so that the beginning is that which all share.
            let ino = find(&world, d, "a")?;
            world.fs.write(ino, content(1).len() as u64, b"more", false)?;
            Ok(world.fs.sync()?)
        });
        threads.start(world, |world| {
            drop_dir(&world, "s")?;
            for _ in 0..3 {
                world.fs.sync()?;
                world.fs.reap_subvolumes()?;
            }
            Ok(())
        });
        threads.start(world, |world| world.cycle());
        threads.join()?;
        world.cycle()?;
        expect(world, "c", "a", 2)?;
        if bytes(world, d, "a")? != [&content(1)[..], b"more"].concat() {
            return broken("d/a has other bytes");
        }
        leaves_nothing(world, &["c", "d"])
    },
};

/// "s" with clones "c" and "d".
fn two_clones(world: &World) -> Outcome {
    before(world)?;
    let s = find(world, ROOT_INO, "s")?;
    clone_dir(world, s, "c")?;
    clone_dir(world, s, "d")?;
    Ok(world.fs.sync()?)
}

/// Drops "s" and goes on until it should be reaped and audited.
fn drop_and_reap(world: &World) -> Outcome {
    drop_dir(world, "s")?;
    for round in 0..4 {
        world.fs.sync()?;
        if let Err(error) = world.fs.reap_subvolumes() {
            return broken(format!("reap, round {round}: {error}"));
        }
    }
    Ok(())
}

/// Lets these go on beside a drop with its reap, and a cycle.
fn beside_a_drop_and_a_cycle(world: &Arc<World>, mut threads: Threads) -> Outcome {
    threads.start(world, |world| drop_and_reap(&world));
    threads.start(world, |world| world.cycle());
    threads.join()
}

/// Deletes in two clones, of what they share and of what stands over it, beside a drop of what they come from, its
/// reap, the audit after it and a cycle.
pub const DELETES: Scenario = Scenario {
    name: "deletes_beside_a_reap_and_an_audit_hide_what_others_see",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: two_clones,
    race: |world| {
        let (c, d) = (find(world, ROOT_INO, "c")?, find(world, ROOT_INO, "d")?);
        let mut threads = Threads::default();
        threads.start(world, move |world| {
            world.remove_in(c, "a")?;
            save(&world, c, "a", 5)?;
            world.fs.sync()?;
            world.remove_in(c, "a")?;
            Ok(world.fs.sync()?)
        });
        threads.start(world, move |world| {
            world.remove_in(d, "a")?;
            Ok(save(&world, d, "a", 3)?)
        });
        beside_a_drop_and_a_cycle(world, threads)?;
        while world.fs.reap_subvolumes()? {}
        match bytes(world, c, "a") {
            Err(Error::Posix(libc::ENOENT)) => {}
            other => return broken(format!("c/a was deleted: {:?}", other.map(|bytes| bytes.len()))),
        }
        expect(world, "d", "a", 3)?;
        leaves_nothing(world, &["c", "d"])
    },
};

/// A file of a subvolume that is dropped and reaped is open, read and written to, and closed at some moment.
pub const STILL_OPEN: Scenario = Scenario {
    name: "an_open_file_of_a_dropped_subvolume_is_whole_until_it_is_closed",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: two_clones,
    race: |world| {
        let s = find(world, ROOT_INO, "s")?;
        let open = world.fs.lookup(s, b"a")?.ino;
        let mut threads = Threads::default();
        threads.start(world, move |world| {
            for number in [1, 2] {
                world.fs.write(open, 0, &content(number), false)?;
                if number == 2 {
                    world.fs.fsync(open)?;
                }
                match world.read(open) {
                    Ok(found) if found == content(number) => {}
                    Ok(_) => return broken("the open file has other bytes"),
                    Err(error) => return broken(format!("the open file: {error}")),
                }
            }
            world.forget(open);
            Ok(())
        });
        beside_a_drop_and_a_cycle(world, threads)?;
        expect(world, "c", "a", 1)?;
        leaves_nothing(world, &["c", "d"])
    },
};

/// A file is looked up and written to while its subvolume is dropped and reaped: it is found whole or not at all, and
/// leaves nothing.
pub const LOOKED_UP: Scenario = Scenario {
    name: "a_lookup_beside_a_drop_and_its_reap_finds_all_or_nothing",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: two_clones,
    race: |world| {
        let s = find(world, ROOT_INO, "s")?;
        let mut threads = Threads::default();
        threads.start(world, move |world| {
            let is_gone = |error: &Error| matches!(error, Error::Posix(libc::ENOENT | libc::ESTALE));
            let open = match world.fs.lookup(s, b"a") {
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return broken(format!("the lookup: {error}")),
                Ok(found) => found.ino,
            };
            let outcome = match world.read(open) {
                Ok(found) if found == content(1) => Ok(()),
                Ok(_) => broken("what was found has other bytes"),
                Err(error) if is_gone(&error) => Ok(()),
                Err(error) => broken(format!("what was found: {error}")),
            };
            match world.fs.write(open, 0, &content(2), false).and_then(|()| world.fs.fsync(open)) {
                Err(error) if !is_gone(&error) => return broken(format!("writing to it: {error}")),
                _ => {}
            }
            world.forget(open);
            outcome
        });
        threads.start(world, |world| drop_and_reap(&world));
        threads.join()?;
        expect(world, "c", "a", 1)?;
        leaves_nothing(world, &["c", "d"])
    },
};
