//! Names that change at the same time, in one directory and in several.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::Result;
use crate::fs::{Caller, IMMEDIATE_REMOVAL_LIMIT, ROOT_INO, RenameFlags, SetAttr};
use crate::sync::Arc;

use super::explore::{Scenario, Threads};
use super::oracle::is_sound;
use super::world::{Outcome, World, broken, content};

const CALLER: Caller = Caller { uid: 0, gid: 0 };

/// All scenarios of names.
pub const ALL: &[&Scenario] = &[&PARENT_MOVES, &PARENT_GOES, &LAST_NAME, &CIRCLE, &TWICE, &OLDER];

pub(super) fn mkdir(world: &World, parent: u64, name: &str) -> Result<u64> {
    let ino = world.fs.mkdir(parent, name.as_bytes(), CALLER, 0o755, 0)?.ino;
    world.forget(ino);
    Ok(ino)
}

pub(super) fn mknod(world: &World, parent: u64, name: &str) -> Result<u64> {
    let ino = world.fs.mknod(parent, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0)?.ino;
    world.forget(ino);
    Ok(ino)
}

pub(super) fn find(world: &World, parent: u64, name: &str) -> Result<u64> {
    let ino = world.fs.lookup(parent, name.as_bytes())?.ino;
    world.forget(ino);
    Ok(ino)
}

fn rename(world: &World, (parent, name): (u64, &str), (to, newname): (u64, &str)) -> Result<()> {
    world.fs.rename(parent, name.as_bytes(), to, newname.as_bytes(), RenameFlags::default())
}

/// Does both at the same time; the errno of each, or 0.
pub(super) fn both(
    world: &Arc<World>,
    one: impl FnOnce(&World) -> Result<()> + Send + 'static,
    other: impl FnOnce(&World) -> Result<()> + Send + 'static,
) -> Outcome<[i32; 2]> {
    let ended = Arc::new([AtomicI32::new(-1), AtomicI32::new(-1)]);
    let mut threads = Threads::default();
    let errno = |result: Result<()>| result.map_or_else(|error| error.errno(), |()| 0);
    let of_one = ended.clone();
    threads.start(world, move |world| {
        of_one[0].store(errno(one(&world)), Ordering::SeqCst);
        Ok(())
    });
    let of_other = ended.clone();
    threads.start(world, move |world| {
        of_other[1].store(errno(other(&world)), Ordering::SeqCst);
        Ok(())
    });
    threads.join()?;
    Ok([0, 1].map(|index| ended[index].load(Ordering::SeqCst)))
}

/// One of the two was done, and the other refused in this way.
fn one_of(ended: [i32; 2], one_refused: i32, other_refused: i32) -> Outcome {
    match ended {
        [0, errno] if errno == other_refused => Ok(()),
        [errno, 0] if errno == one_refused => Ok(()),
        _ => broken(format!("both ended with {ended:?}")),
    }
}

/// A file is made in a directory while that moves to another one.
pub const PARENT_MOVES: Scenario = Scenario {
    name: "what_is_made_in_a_directory_that_moves_is_in_it",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        let (a, _) = (mkdir(world, ROOT_INO, "a")?, mkdir(world, ROOT_INO, "b")?);
        mkdir(world, a, "moves")?;
        Ok(world.fs.sync()?)
    },
    race: |world| {
        let (a, b) = (find(world, ROOT_INO, "a")?, find(world, ROOT_INO, "b")?);
        let moves = find(world, a, "moves")?;
        let make = move |world: &World| mknod(world, moves, "file").map(drop);
        let ended = both(world, make, move |world| rename(world, (a, "moves"), (b, "moved")))?;
        if ended != [0, 0] {
            return broken(format!("making and moving ended with {ended:?}"));
        }
        let parent = world.fs.lookup(moves, b"..")?.ino;
        world.forget(parent);
        if parent != b || find(world, b, "moved")? != moves {
            return broken("the directory is not where it was moved to");
        }
        find(world, moves, "file")?;
        is_sound(world, &[])
    },
};

/// A file is made in a directory that is removed.
pub const PARENT_GOES: Scenario = Scenario {
    name: "nothing_is_made_in_a_directory_that_is_gone",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        mkdir(world, ROOT_INO, "goes")?;
        Ok(world.fs.sync()?)
    },
    race: |world| {
        let goes = world.lookup("goes")?;
        let make = move |world: &World| mknod(world, goes, "file").map(drop);
        let ended = both(world, make, |world| world.fs.rmdir(ROOT_INO, b"goes"))?;
        world.forget(goes);
        one_of(ended, libc::ENOENT, libc::ENOTEMPTY)?;
        is_sound(world, &[])
    },
};

/// A file gets another name while it loses its last.
pub const LAST_NAME: Scenario = Scenario {
    name: "what_has_lost_its_last_name_gets_none",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        world.save("last", 1)?;
        Ok(world.fs.sync()?)
    },
    race: |world| {
        let ino = world.lookup("last")?;
        let link = move |world: &World| {
            world.fs.link(ino, ROOT_INO, b"other")?;
            world.forget(ino);
            Ok(())
        };
        let ended = both(world, link, |world| world.fs.unlink(ROOT_INO, b"last"))?;
        world.forget(ino);
        match ended {
            [0, 0] => is_sound(world, &[("other", 1)]),
            [libc::ENOENT, 0] => is_sound(world, &[]),
            _ => broken(format!("link and unlink ended with {ended:?}")),
        }
    },
};

/// Two directories are moved into each other.
pub const CIRCLE: Scenario = Scenario {
    name: "two_renames_make_no_circle",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        let (a, b) = (mkdir(world, ROOT_INO, "a")?, mkdir(world, ROOT_INO, "b")?);
        let (_, _) = (mkdir(world, a, "below")?, mkdir(world, b, "below")?);
        Ok(world.fs.sync()?)
    },
    race: |world| {
        let (a, b) = (find(world, ROOT_INO, "a")?, find(world, ROOT_INO, "b")?);
        let (below_a, below_b) = (find(world, a, "below")?, find(world, b, "below")?);
        let ended = both(
            world,
            move |world| rename(world, (ROOT_INO, "a"), (below_b, "a")),
            move |world| rename(world, (ROOT_INO, "b"), (below_a, "b")),
        )?;
        one_of(ended, libc::EINVAL, libc::EINVAL)?;
        is_sound(world, &[])
    },
};

/// A file is made twice under one name, looked up, and written by whoever finds it.
pub const TWICE: Scenario = Scenario {
    name: "a_name_is_made_once_and_its_inode_is_one",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |_| Ok(()),
    race: |world| {
        let mut finder = Threads::default();
        let wrote = Arc::new(AtomicI32::new(0));
        let (did, bytes) = (wrote.clone(), content(1));
        finder.start(world, move |world| {
            let Ok(ino) = world.lookup("file") else { return Ok(()) };
            world.fs.write(ino, 0, &bytes, false)?;
            world.fs.setattr(ino, CALLER, &SetAttr { mode: Some(0o600), ..SetAttr::default() })?;
            world.forget(ino);
            did.store(1, Ordering::SeqCst);
            Ok(())
        });
        let make = |world: &World| mknod(world, ROOT_INO, "file").map(drop);
        let ended = both(world, make, make);
        finder.join()?;
        one_of(ended?, libc::EEXIST, libc::EEXIST)?;
        let (ino, wrote) = (find(world, ROOT_INO, "file")?, wrote.load(Ordering::SeqCst) == 1);
        if (world.fs.getattr(ino)?.mode & 0o7777 == 0o600) != wrote {
            return broken("the inode's mode is not the one that was set");
        }
        is_sound(world, if wrote { &[("file", 1)] } else { &[] })
    },
};

/// A name of a file that is older than its directory, so that the two are not locked in the order in which they are
/// found, is removed and renamed at the same time.
pub const OLDER: Scenario = Scenario {
    name: "a_name_goes_once",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: |world| {
        world.save("older", 1)?;
        let (ino, dir) = (world.lookup("older")?, mkdir(world, ROOT_INO, "dir")?);
        world.fs.link(ino, dir, b"name")?;
        world.fs.forget(ino, 2);
        Ok(world.fs.sync()?)
    },
    race: |world| {
        let dir = find(world, ROOT_INO, "dir")?;
        let remove = move |world: &World| world.fs.unlink(dir, b"name");
        let ended = both(world, remove, move |world| rename(world, (dir, "name"), (ROOT_INO, "moved")))?;
        one_of(ended, libc::ENOENT, libc::ENOENT)?;
        let moved: &[_] = if ended[1] == 0 { &[("older", 1), ("moved", 1)] } else { &[("older", 1)] };
        is_sound(world, moved)
    },
};
