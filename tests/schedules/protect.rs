//! Subvolumes that become protected while something in them changes.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::Result;
use crate::fs::{Caller, IMMEDIATE_REMOVAL_LIMIT, ROOT_INO, RenameFlags};
use crate::meta::rows::{APPEND_ONLY, IMMUTABLE};
use crate::sync::Arc;

use super::explore::Scenario;
use super::names::{both, find, mkdir, mknod};
use super::oracle::is_sound;
use super::world::{Outcome, World, broken};

const CALLER: Caller = Caller { uid: 0, gid: 0 };

/// All scenarios of protection.
pub const ALL: &[&Scenario] = &[&PROTECTED, &SEALED, &SEALED_BY_MOVE];

fn clone_dir(world: &World, source: u64, parent: u64, name: &str) -> Result<u64> {
    world.fs.wish_clone(parent, name.as_bytes(), source, CALLER)?;
    mkdir(world, parent, name)
}

/// What happens in the directory `below` by the time `protect` was answered is all that ever does.
fn is_kept(
    world: &Arc<World>,
    below: u64,
    protect: impl FnOnce(&World) -> Result<()> + Send + 'static,
) -> Outcome {
    let was_there = Arc::new(AtomicI32::new(-1));
    let seen = was_there.clone();
    let is_there = move |world: &World| i32::from(find(world, below, "file").is_ok());
    let ended = both(
        world,
        move |world| {
            protect(world)?;
            seen.store(is_there(world), Ordering::SeqCst);
            Ok(())
        },
        move |world| mknod(world, below, "file").map(drop),
    )?;
    let there = is_there(world);
    if !matches!(ended, [0, 0] | [0, libc::EPERM]) || (ended[1] == 0) != (there == 1) {
        return broken(format!("protecting and making ended with {ended:?}"));
    }
    if was_there.load(Ordering::SeqCst) != there {
        return broken("a file came to a subvolume that was protected by then");
    }
    if world.fs.mknod(below, b"late", CALLER, libc::S_IFREG, 0, 0).map_err(|error| error.errno()).err()
        != Some(libc::EPERM)
    {
        return broken("a file came to a subvolume that is protected");
    }
    is_sound(world, &[])
}

/// A directory "group" with a subvolume "one" in it, and beside that a subvolume "aside"; each has a directory "below",
/// whose lock nobody takes who protects.
fn a_group(world: &World) -> Outcome {
    let (plain, group) = (mkdir(world, ROOT_INO, "plain")?, mkdir(world, ROOT_INO, "group")?);
    let aside = clone_dir(world, plain, ROOT_INO, "aside")?;
    mkdir(world, aside, "below")?;
    let one = clone_dir(world, plain, group, "one")?;
    mkdir(world, one, "below")?;
    Ok(world.fs.sync()?)
}

fn an_append_only_group(world: &World) -> Outcome {
    a_group(world)?;
    Ok(world.fs.set_inode_flags(find(world, ROOT_INO, "group")?, CALLER, APPEND_ONLY)?)
}

/// The group, the subvolume in it and the directory in that.
fn places(world: &World) -> Result<(u64, u64, u64)> {
    let group = find(world, ROOT_INO, "group")?;
    let one = find(world, group, "one")?;
    Ok((group, one, find(world, one, "below")?))
}

/// The root of a subvolume becomes immutable while a file is made in it.
pub const PROTECTED: Scenario = Scenario {
    name: "nothing_is_made_in_a_subvolume_that_is_immutable",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: a_group,
    race: |world| {
        let (_, one, below) = places(world)?;
        is_kept(world, below, move |world| world.fs.set_inode_flags(one, CALLER, IMMUTABLE))
    },
};

/// A snapshot is begun while a file is made in the one before it.
pub const SEALED: Scenario = Scenario {
    name: "nothing_is_made_in_a_snapshot_that_is_sealed",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: an_append_only_group,
    race: |world| {
        let (group, one, below) = places(world)?;
        is_kept(world, below, move |world| clone_dir(world, one, group, "two").map(drop))
    },
};

/// A snapshot that was made before the newest one comes to the group.
pub const SEALED_BY_MOVE: Scenario = Scenario {
    name: "nothing_is_made_in_a_snapshot_that_comes_to_a_group_which_has_a_newer_one",
    immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
    before: an_append_only_group,
    race: |world| {
        let (group, aside) = (find(world, ROOT_INO, "group")?, find(world, ROOT_INO, "aside")?);
        is_kept(world, find(world, aside, "below")?, move |world| {
            world.fs.rename(ROOT_INO, b"aside", group, b"older", RenameFlags::default())
        })
    },
};
