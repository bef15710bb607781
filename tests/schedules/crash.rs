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

/// Cuts tried in each schedule.
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

/// The race, then cuts at operations that the schedule's own random numbers choose.
pub fn power_fails(world: &Arc<World>) -> Outcome {
    let begin = world.disk.op_count();
    let before = |name, number| Promise { name, number, from: 0, until: u64::MAX };
    let promises: Promises = Arc::new(Mutex::new(vec![before("s0", 1), before("kept", 3)]));
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
    let end = world.disk.op_count();
    for _ in 0..CUTS {
        let (at, seed) = (thread_rng().gen_range(begin..=end), thread_rng().r#gen());
        let result = look(&world.disk.cut_at(at, seed), at, &promises);
        result.map_err(|Broken(what)| Broken(format!("power cut before operation {at} of {end}: {what}")))?;
    }
    settles(world, &[("s1", 1), ("kept", 3), ("revived", 4), ("new", 51)])
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
