//! The races.
//!
//! Files are named by what happens to them; the numbers are contents, see `world.rs`. `garbage` below is content whose
//! chunks still have their rows, and that nothing refers to any more: what a cycle is about to free, and what a put of
//! the same bytes finds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Error;
use crate::fs::IMMEDIATE_REMOVAL_LIMIT;
use crate::meta::Table;
use crate::meta::rows::extent_key;
use crate::sync::Arc;

use super::crash::{power_fails, power_fails_beside_folds};
use super::explore::{Scenario, Threads};
use super::oracle::{chunk_reads, references, settles_found};
use super::world::{Outcome, World, broken, content};

/// All scenarios.
pub const ALL: &[&Scenario] = &[
    &ADVISORY,
    &REVIVED,
    &FRESH,
    &REMEMBERED,
    &CLONE,
    &RECUT,
    &OPEN,
    &QUEUED,
    &POWER,
    &FOLD,
    &CLOSE,
    &MOVED,
    &BAD_ROW,
];

/// Makes these contents garbage: their chunks are in the store, and no file has them.
fn garbage(world: &World, numbers: &[u64]) -> Outcome {
    for number in numbers {
        world.save(&format!("g{number}"), *number)?;
    }
    world.fs.sync()?;
    for number in numbers {
        world.remove(&format!("g{number}"))?;
    }
    Ok(world.fs.drain_orphans()?)
}

/// The advisory's four steps in whatever order comes: a cycle begins, S1 is written with the bytes of S0, S0 is
/// pruned, the cycle goes on.
pub const ADVISORY: Scenario = Scenario {
    name: "the_advisory_loses_nothing",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        world.save("s0", 1)?;
        world.save("bystander", 2)?;
        Ok(world.fs.sync()?)
    },
    race: |world| {
        let mut threads = Threads::default();
        threads.start(world, |world| world.cycle());
        threads.start(world, |world| {
            world.save_durably("s1", 1)?;
            world.remove("s0")?;
            Ok(world.fs.drain_orphans()?)
        });
        threads.start(world, |world| world.expect("bystander", 2));
        threads.join()?;
        settles_found(world, &[("s1", 1), ("bystander", 2)])
    },
};

/// Garbage is found by its digest while it is marked, swept and freed: two writers of the same bytes, one of others
/// whose cells are in the same word, and a commit in between.
pub const REVIVED: Scenario = Scenario {
    name: "revived_garbage_stays_or_is_stored_anew",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        world.save("kept", 3)?;
        garbage(world, &[1, 2])
    },
    race: |world| {
        let mut threads = Threads::default();
        threads.start(world, |world| world.cycle());
        threads.start(world, |world| Ok(world.save_durably("one", 1)?));
        threads.start(world, |world| {
            world.save("two", 1)?;
            Ok(world.store.commits.commit()?)
        });
        threads.start(world, |world| Ok(world.save_durably("three", 2)?));
        threads.join()?;
        settles_found(world, &[("kept", 3), ("one", 1), ("two", 1), ("three", 2)])
    },
};

/// Two writers of equal bytes that the store never had, commits, and two cycles.
pub const FRESH: Scenario = Scenario {
    name: "new_chunks_outlive_the_cycles_they_are_born_in",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        world.save("kept", 3)?;
        garbage(world, &[4])
    },
    race: |world| {
        let mut threads = Threads::default();
        threads.start(world, |world| {
            world.cycle()?;
            world.cycle()
        });
        threads.start(world, |world| {
            world.save("one", 5)?;
            Ok(world.save_durably("other", 6)?)
        });
        threads.start(world, |world| {
            world.save("two", 5)?;
            Ok(world.fs.sync()?)
        });
        threads.join()?;
        settles_found(world, &[("kept", 3), ("one", 5), ("two", 5), ("other", 6)])
    },
};

/// Digests that are remembered from before the sweep are not answered after the cycle.
pub const REMEMBERED: Scenario = Scenario {
    name: "what_is_remembered_does_not_outlive_a_sweep",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        // In one region, so that whoever finds one of them remembers all.
        world.save("kept", 3)?;
        garbage(world, &[1, 2])
    },
    race: |world| {
        world.save_durably("again", 3)?;
        let mut threads = Threads::default();
        threads.start(world, |world| {
            world.cycle()?;
            Ok(world.save("after", 1)?)
        });
        threads.start(world, |world| {
            world.save_durably("beside", 2)?;
            Ok(world.save_durably("again too", 3)?)
        });
        threads.join()?;
        settles_found(world, &[("kept", 3), ("again", 3), ("again too", 3), ("after", 1), ("beside", 2)])
    },
};

/// A clone whose source is pruned, and files of many chunks whose batches span flip and end of a cycle.
pub const CLONE: Scenario = Scenario {
    name: "a_clone_outlives_its_source",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        world.save("source", 51)?;
        garbage(world, &[4, 53])
    },
    race: |world| {
        let cloned = Arc::new(AtomicBool::new(false));
        let mut threads = Threads::default();
        threads.start(world, |world| world.cycle());
        let done = cloned.clone();
        threads.start(world, move |world| {
            // An open file, if the prune has not come first.
            let source = match world.lookup("source") {
                Err(Error::Posix(libc::ENOENT)) => return Ok(()),
                other => other?,
            };
            let target = world.create("clone")?;
            world.fs.copy_file_range(source, 0, target, 0, 1 << 20)?;
            world.forget(source);
            world.forget(target);
            done.store(true, Ordering::SeqCst);
            Ok(())
        });
        threads.start(world, |world| {
            world.remove("source")?;
            Ok(world.fs.drain_orphans()?)
        });
        threads.start(world, |world| {
            world.save("large", 53)?;
            Ok(world.save_durably("small", 4)?)
        });
        threads.join()?;
        let mut files = vec![("large", 53), ("small", 4)];
        files.extend(cloned.load(Ordering::SeqCst).then_some(("clone", 51)));
        settles_found(world, &files)
    },
};

/// A file that a small change was made to is cut again, and finds garbage, while somebody changes it again.
pub const RECUT: Scenario = Scenario {
    name: "a_file_that_is_recut_keeps_its_bytes",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        garbage(world, &[51])?;
        let (bytes, mut others) = (content(51), content(51));
        others[6_000..6_600].fill(7);
        let ino = world.create("patched")?;
        world.fs.write(ino, 0, &others, false)?;
        world.fs.sync()?;
        world.fs.write(ino, 6_000, &bytes[6_000..6_200], false)?;
        world.fs.fsync(ino)?;
        world.forget(ino);
        // From here on it is left alone.
        Ok(world.fs.sync()?)
    },
    race: |world| {
        let mut threads = Threads::default();
        threads.start(world, |world| world.cycle());
        threads.start(world, |world| Ok(world.fs.sync()?));
        threads.start(world, |world| {
            let (ino, bytes) = (world.lookup("patched")?, content(51));
            world.fs.write(ino, 6_200, &bytes[6_200..6_600], false)?;
            world.fs.fsync(ino)?;
            world.forget(ino);
            Ok(())
        });
        threads.start(world, |world| {
            let ino = world.lookup("patched")?;
            let (read, bytes) = (world.read(ino)?, content(51));
            world.forget(ino);
            let same = read[..6_200] == bytes[..6_200] && read[6_600..] == bytes[6_600..];
            if same { Ok(()) } else { broken("what nobody changes is other bytes") }
        });
        threads.join()?;
        world.fs.sync()?;
        settles_found(world, &[("patched", 51)])
    },
};

/// A file that is open when it loses its name is read and written on, then forgotten: until then it has all its bytes,
/// and afterwards nothing is left of it. It goes at once.
pub const OPEN: Scenario = Scenario {
    name: "an_open_file_without_a_name_keeps_its_bytes",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: one_file,
    race: loses_its_name_while_open,
};

/// The same with a file that the deletion queue removes.
pub const QUEUED: Scenario = Scenario {
    name: "an_open_file_that_goes_by_the_queue_keeps_its_bytes",
    immediate_removal_limit: 0,
    before: one_file,
    race: loses_its_name_while_open,
};

fn one_file(world: &World) -> Outcome {
    world.save("open", 1)?;
    Ok(world.fs.sync()?)
}

fn loses_its_name_while_open(world: &Arc<World>) -> Outcome {
    let ino = world.lookup("open")?;
    let mut threads = Threads::default();
    threads.start(world, |world| world.cycle());
    threads.start(world, |world| {
        world.remove("open")?;
        Ok(world.fs.drain_orphans()?)
    });
    threads.start(world, move |world| {
        let (old, new) = (content(1), content(2));
        for _ in 0..2 {
            if world.read(ino)? != old {
                return broken("the open file has other bytes than before");
            }
        }
        world.fs.write(ino, 0, &new, false)?;
        world.fs.file_closed(ino);
        if world.read(ino)? != new {
            return broken("the open file has other bytes than were written");
        }
        world.forget(ino);
        Ok(())
    });
    threads.join()?;
    settles_found(world, &[])
}

/// Power fails at any operation of backups, a prune and a cycle.
pub const POWER: Scenario = Scenario {
    name: "a_power_cut_in_any_schedule_breaks_no_promise",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        // A cycle seals the pack, so that the one of the garbage can go as a whole.
        garbage(world, &[4])?;
        world.store.collection.flip()?;
        world.store.collection.end_cycle()?;
        world.save("s0", 1)?;
        world.save("kept", 3)?;
        Ok(world.fs.sync()?)
    },
    race: power_fails,
};

/// The log is folded while commits, a cycle and readers go on, and power fails at any operation of that.
pub const FOLD: Scenario = Scenario {
    name: "a_fold_beside_commits_and_a_cycle_loses_nothing",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: mostly_garbage,
    race: power_fails_beside_folds,
};

/// The store is closed while somebody commits, and opened by the next who commits.
pub const CLOSE: Scenario = Scenario {
    name: "what_is_acknowledged_beside_a_close_stays",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |_| Ok(()),
    race: |world| {
        let disk = world.disk.cut_at(world.disk.op_count(), 0);
        let closing = World::open(&disk, IMMEDIATE_REMOVAL_LIMIT)?;
        let put = |world: &World, name: &[u8], number: u64| {
            world.store.batches.join()?.rows.put(Table::State, name, &number.to_le_bytes());
            world.store.commits.commit()
        };
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut threads = Threads::default();
        let again = disk.clone();
        threads.start(&closing, move |world| {
            world.store.close()?;
            let next = World::open(&again, IMMEDIATE_REMOVAL_LIMIT)?;
            put(&next, b"next", 1)?;
            Ok(next.close()?)
        });
        let told = acknowledged.clone();
        threads.start(&closing, move |world| {
            // Refused once the store is closed.
            let done = (1..=3).take_while(|number| put(&world, b"late", *number).is_ok());
            done.for_each(|number| told.store(number, Ordering::SeqCst));
            Ok(())
        });
        let joined = threads.join();
        // It was closed already; its last batch may have been refused.
        drop(closing.close());
        joined?;
        let last = World::open(&disk, IMMEDIATE_REMOVAL_LIMIT)?;
        let row = |name: &[u8]| last.store.layers().get(Table::State, name);
        let (late, next) = (row(b"late")?, row(b"next")?);
        last.close()?;
        let there = late.and_then(|row| row.try_into().ok()).map_or(0, u64::from_le_bytes);
        if there < acknowledged.load(Ordering::SeqCst) || next.is_none() {
            return broken("what was committed beside the close or after it is gone");
        }
        Ok(())
    },
};

/// Regions that move in a cycle: most of the pack is garbage.
fn mostly_garbage(world: &World) -> Outcome {
    // A region of its own, with nothing dead in it.
    world.save_durably("whole", 51)?;
    // A region that is mostly dead.
    world.save("part", 3)?;
    garbage(world, &[52])?;
    (53..60).try_for_each(|number| garbage(world, &[number]))
}

/// Regions move while they are read.
pub const MOVED: Scenario = Scenario {
    name: "a_region_that_moves_can_be_read",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: mostly_garbage,
    race: |world| {
        let ids = references(world)?;
        let mut threads = Threads::default();
        threads.start(world, |world| world.cycle());
        // Below the files, which would gather the whole range once more.
        threads.start(world, move |world| ids.into_iter().try_for_each(|id| chunk_reads(&world, id)));
        threads.start(world, |world| world.expect("part", 3));
        threads.start(world, |world| {
            world.save_durably("again", 52)?;
            world.expect("whole", 51)
        });
        threads.join()?;
        settles_found(world, &[("whole", 51), ("part", 3), ("again", 52)])
    },
};

/// A row that does not decode: the cycle ends and frees nothing, whatever else goes on.
pub const BAD_ROW: Scenario = Scenario {
    name: "a_row_that_does_not_decode_ends_the_cycle",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        world.save("kept", 3)?;
        world.save("bad", 1)?;
        garbage(world, &[4])?;
        let ino = world.lookup("bad")?;
        world.forget(ino);
        Ok(world.store.commits.rewrite(true, |txn, _| {
            txn.put(Table::Extents, &extent_key(ino, 0), b"\xff\xff");
            Ok(())
        })?)
    },
    race: |world| {
        let digests = |world: &World| {
            let all = std::ops::Bound::Unbounded;
            let mut digests = 0;
            let count = |_: &[u8], _: &[u8]| {
                digests += 1;
                Ok(true)
            };
            world.store.layers().scan(Table::Digests, all, all, count).map(|()| digests)
        };
        let had = digests(world)?;
        let mut threads = Threads::default();
        threads.start(world, |world| match world.cycle() {
            Ok(()) => broken("the cycle says nothing of the row"),
            Err(_) => Ok(()),
        });
        threads.start(world, |world| Ok(world.save_durably("one", 1)?));
        threads.start(world, |world| Ok(world.save_durably("two", 4)?));
        threads.join()?;
        for (name, number) in [("kept", 3), ("one", 1), ("two", 4)] {
            world.expect(name, number)?;
        }
        if digests(world)? < had { broken("the cycle freed something all the same") } else { Ok(()) }
    },
};
