//! Power cuts in the middle of a race.
//!
//! The race runs to its end; the disk keeps a log of every change, so that it can be had as it was before any of them,
//! with each change that was not synced kept, lost or torn. A promise counts from the operation at which the call that
//! made it had returned, until the operation at which somebody begins to take it back.

use shuttle::rand::{Rng, thread_rng};

use crate::fs::IMMEDIATE_REMOVAL_LIMIT;
use crate::media::sim::SimMedia;
use crate::sync::{Arc, Mutex};

use super::explore::Threads;
use super::oracle::{is_sound, settles};
use super::world::{Broken, Outcome, World, broken};

/// Cuts tried in each schedule at any operation.
const CUTS: u64 = 2;

/// From this operation up to that one, the file is there with this content.
struct Promise {
    name: &'static str,
    number: u64,
    from: u64,
    until: u64,
}

type Promises = Arc<Mutex<Vec<Promise>>>;

fn saved(world: &World, promises: &Promises, name: &'static str, number: u64) -> Outcome {
    world.save_durably(name, number)?;
    promises.lock().push(Promise { name, number, from: world.disk.op_count(), until: u64::MAX });
    Ok(())
}

fn before(files: &[(&'static str, u64)]) -> Promises {
    let promise = |&(name, number)| Promise { name, number, from: 0, until: u64::MAX };
    Arc::new(Mutex::new(files.iter().map(promise).collect()))
}

/// Backups, a prune and a cycle, and the power cut.
pub fn power_fails(world: &Arc<World>) -> Outcome {
    let (begin, promises) = (world.disk.op_count(), before(&[("s0", 1), ("kept", 3)]));
    let mut threads = Threads::default();
    threads.start(world, |world| world.cycle());
    let made = promises.clone();
    threads.start(world, move |world| {
        saved(&world, &made, "s1", 1)?;
        let now = world.disk.op_count();
        made.lock().iter_mut().filter(|promise| promise.name == "s0").for_each(|promise| promise.until = now);
        world.remove("s0")?;
        Ok(world.fs.drain_orphans()?)
    });
    let made = promises.clone();
    threads.start(world, move |world| saved(&world, &made, "revived", 4));
    let made = promises.clone();
    threads.start(world, move |world| saved(&world, &made, "new", 51));
    threads.join()?;
    cut(world, begin, &promises)?;
    settles(world, &[("s1", 1), ("kept", 3), ("revived", 4), ("new", 51)])
}

/// Folds beside small commits, a cycle that moves regions, and one who reads what was acknowledged; and the power cut.
pub fn power_fails_beside_folds(world: &Arc<World>) -> Outcome {
    let (begin, promises) = (world.disk.op_count(), before(&[("whole", 51), ("part", 3)]));
    let mut threads = Threads::default();
    threads.start(world, |world| (0..3).try_for_each(|_| Ok(world.store.commits.fold()?)));
    threads.start(world, |world| world.cycle());
    let made = promises.clone();
    threads.start(world, move |world| {
        saved(&world, &made, "one", 1)?;
        saved(&world, &made, "two", 2)?;
        saved(&world, &made, "revived", 53)
    });
    let made = promises.clone();
    threads.start(world, move |world| {
        for _ in 0..4 {
            let told: Vec<_> = made.lock().iter().map(|promise| (promise.name, promise.number)).collect();
            told.into_iter().try_for_each(|(name, number)| world.expect(name, number))?;
        }
        Ok(())
    });
    threads.join()?;
    cut(world, begin, &promises)?;
    settles(world, &[("whole", 51), ("part", 3), ("one", 1), ("two", 2), ("revived", 53)])
}

/// Cuts the power at operations since `begin` that the schedule's own random numbers choose: at any of them, and in a
/// moment in which something was just acknowledged.
fn cut(world: &World, begin: u64, promises: &Promises) -> Outcome {
    let end = world.disk.op_count();
    let told: Vec<u64> =
        promises.lock().iter().map(|promise| promise.from).filter(|from| *from >= begin).collect();
    let mut places: Vec<u64> = (0..CUTS).map(|_| thread_rng().gen_range(begin..=end)).collect();
    places.push(told[thread_rng().gen_range(0..told.len())]);
    for at in places {
        let seed = thread_rng().r#gen();
        let result = look(&world.disk.cut_at(at, seed), at, promises);
        result.map_err(|Broken(what)| Broken(format!("power cut before operation {at} of {end}: {what}")))?;
    }
    Ok(())
}

/// Opens the disk after a cut at `at`, looks for what was promised by then, and works on.
fn look(disk: &SimMedia, at: u64, promises: &Promises) -> Outcome {
    let world = World::open(disk, IMMEDIATE_REMOVAL_LIMIT)?;
    let held: Vec<(&str, u64)> = {
        let promises = promises.lock();
        let held = promises.iter().filter(|promise| promise.from <= at && at <= promise.until);
        held.map(|promise| (promise.name, promise.number)).collect()
    };
    let result = works_on(&world, &held);
    let closed = world.close().map_err(Broken::from);
    result.and(closed)
}

fn works_on(world: &World, held: &[(&str, u64)]) -> Outcome {
    is_sound(world, held)?;
    // The same bytes once more: what the index says of them has to be true.
    let again = [("again 1", 1), ("again 4", 4), ("again 51", 51)];
    for (name, number) in again {
        world.save(name, number)?;
    }
    world.fs.sync()?;
    world.cycle()?;
    is_sound(world, held)?;
    is_sound(world, &again)
}
