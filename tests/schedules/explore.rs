//! Running a scenario under many schedules.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use libtest_mimic::Failed;
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, RoundRobinScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::media::sim::SimMedia;
use crate::seed;
use crate::sync::thread::{Builder, JoinHandle};

use super::controls::protected;
use super::world::{Broken, Outcome, World, make_store};

/// Threads racing on a store.
pub struct Scenario {
    /// The name of its test.
    pub name: &'static str,
    /// As in `FsOptions`: files with more rows go by the deletion queue.
    pub immediate_removal_limit: usize,
    /// What the store holds before; run once.
    pub before: fn(&World) -> Outcome,
    /// The race, and what must be true in the end; run once a schedule, on a copy of that store just opened.
    pub race: fn(&Arc<World>) -> Outcome,
}

/// Schedules of each scenario unless the environment says otherwise.
const SCHEDULES: u64 = 400;
/// Schedules at random of each round.
const RANDOM: usize = 10;
/// Schedules by PCT of each round.
const BY_PCT: usize = 40;
/// PCT runs one thread until it waits, but for as many switches as its depth; 1 up to this are tried in turn.
const DEPTHS: u64 = 5;
/// Enough for the database and the compressor.
const STACK: usize = 512 << 10;
/// More than any schedule of these scenarios takes; one that takes more does not end.
const STEPS: usize = 200_000;

thread_local! {
    /// True while a failure is what is looked for, and not worth a message.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics that are looked for from the output.
pub fn install_panic_hook() {
    // The first run of the explorer puts a hook of its own in place, which prints the schedule; this one is above it.
    Runner::new(RoundRobinScheduler::new(1), config()).run(|| {});
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            usual(info);
        }
    }));
}

fn number_from(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.failure_persistence = FailurePersistence::Print;
    config.silence_warnings = true;
    config
}

/// How a run of schedules ended.
#[derive(Default)]
pub struct Run {
    /// Schedules that were tried, the last of which may have failed.
    pub schedules: u64,
    /// What the last one broke.
    pub broken: Option<String>,
}

/// What a schedule broke, once one did.
type Found = Arc<Mutex<Option<String>>>;

/// A scheduler that ends once something was found. A schedule that ends in words instead of a panic takes its threads
/// down in good order.
struct UntilFound<S> {
    /// Gone once something was found: one that is dropped by then prints its seed.
    inner: Option<S>,
    found: Found,
}

impl<S: Scheduler> Scheduler for UntilFound<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.found.lock().is_ok_and(|found| found.is_some()) {
            std::mem::forget(self.inner.take());
        }
        self.inner.as_mut()?.new_execution()
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        self.inner.as_mut()?.next_task(runnable, current, yields)
    }

    fn next_u64(&mut self) -> u64 {
        self.inner.as_mut().map_or(0, Scheduler::next_u64)
    }
}

/// Runs `scenario` under the schedules of `scheduler`, up to the first that breaks a promise.
fn run(scenario: &'static Scenario, image: &SimMedia, scheduler: impl Scheduler + 'static) -> Run {
    let schedules = Arc::new(AtomicU64::new(0));
    let found = Found::default();
    let (count, image, told) = (schedules.clone(), image.clone(), found.clone());
    let once = move || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let disk = image.cut_at(0, number);
        let world = World::open(&disk, scenario.immediate_removal_limit)
            .unwrap_or_else(|error| panic!("the store does not open: {error}"));
        let result = (scenario.race)(&world);
        let closed = world.close().map_err(Broken::from);
        if let Err(Broken(what)) = result.and(closed) {
            // The explorer prints the schedule of a panic.
            if !QUIET.get() {
                panic!("{what}");
            }
            *told.lock().expect("nobody panics while holding it") = Some(what);
        }
    };
    let scheduler = UntilFound { inner: Some(scheduler), found: found.clone() };
    let ended = catch_unwind(AssertUnwindSafe(|| Runner::new(scheduler, config()).run(once)));
    let panicked = ended.err().map(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
    });
    let told = found.lock().map_or(None, |mut found| found.take());
    Run { schedules: schedules.load(Ordering::Relaxed), broken: panicked.or(told) }
}

/// The disk with what the scenario finds.
fn image(scenario: &'static Scenario) -> SimMedia {
    let disk = SimMedia::new();
    let made = disk.clone();
    let once = move || {
        make_store(&made);
        let world =
            World::open(&made, scenario.immediate_removal_limit).expect("an empty disk becomes a store");
        (scenario.before)(&world).expect("nothing races with what comes before");
        world.close().expect("the store closes");
    };
    Runner::new(RoundRobinScheduler::new(1), config()).run(once);
    disk.cut_at(disk.op_count(), 0)
}

/// Tries `schedules` schedules, up to the first that breaks a promise: in rounds, each some at random and more by PCT,
/// with another depth in each round.
pub fn search(scenario: &'static Scenario, seed: u64, schedules: u64, quiet: bool) -> Run {
    let image = image(scenario);
    let mut all = Run::default();
    QUIET.set(quiet);
    for round in 0.. {
        let left = schedules.saturating_sub(all.schedules) as usize;
        if left == 0 || all.broken.is_some() {
            break;
        }
        let seed = seed.wrapping_add(round);
        let done = if round % 2 == 0 {
            run(scenario, &image, RandomScheduler::new_from_seed(seed, left.min(RANDOM)))
        } else {
            let depth = 1 + (round / 2 % DEPTHS) as usize;
            run(scenario, &image, PctScheduler::new_from_seed(seed, depth, left.min(BY_PCT)))
        };
        all = Run { schedules: all.schedules + done.schedules, broken: done.broken };
    }
    QUIET.set(false);
    all
}

/// The seed of a negative control, and the first of two of the other scenarios.
pub fn seed() -> u64 {
    seed::wanted().unwrap_or(1)
}

/// The test of a scenario: no schedule breaks a promise.
pub fn keeps(scenario: &'static Scenario) -> Result<(), Failed> {
    let _all = protected();
    if let Ok(text) = std::env::var("CAIRNFS_SCHEDULE") {
        return replay(scenario, &text);
    }
    let schedules = number_from("CAIRNFS_SCHEDULES", SCHEDULES);
    // Half of them are those of each time, half such as nobody has tried.
    match seed::wanted() {
        Some(seed) => keeps_from(scenario, seed, schedules),
        None => keeps_from(scenario, seed(), schedules.div_ceil(2))
            .and_then(|()| keeps_from(scenario, seed::fresh(), schedules / 2)),
    }
}

fn keeps_from(scenario: &'static Scenario, seed: u64, schedules: u64) -> Result<(), Failed> {
    let begun = Instant::now();
    let run = search(scenario, seed, schedules, false);
    match run.broken {
        None => {
            let (name, spent) = (scenario.name, begun.elapsed().as_secs_f64());
            println!("{name}: {} schedules of CAIRNFS_SEED={seed} in {spent:.1} s, no promise broken", run.schedules);
            Ok(())
        }
        Some(what) => Err(format!(
            "schedule {} of CAIRNFS_SEED={seed}: {what}\nrun it again with CAIRNFS_SCHEDULE=(the last text printed above, or a \
             file with it) cargo test --features sim --test schedules -- --exact {}",
            run.schedules, scenario.name
        )
        .into()),
    }
}

fn replay(scenario: &'static Scenario, text: &str) -> Result<(), Failed> {
    let text = if Path::new(text).is_file() { std::fs::read_to_string(text)? } else { text.to_owned() };
    let image = image(scenario);
    let text = text.trim().trim_matches('"').trim();
    let run = match text.parse() {
        Ok(seed) => run(scenario, &image, RandomScheduler::new_from_seed(seed, 1)),
        Err(_) => run(scenario, &image, ReplayScheduler::new_from_encoded(text)),
    };
    match run.broken {
        None => Ok(()),
        Some(what) => Err(what.into()),
    }
}

/// Threads of a race.
#[derive(Default)]
pub struct Threads(Vec<JoinHandle<Outcome>>);

impl Threads {
    /// Starts one more, on the same store.
    pub fn start(&mut self, world: &Arc<World>, act: impl FnOnce(Arc<World>) -> Outcome + Send + 'static) {
        let world = world.clone();
        let started = Builder::new().spawn(move || act(world));
        self.0.push(started.expect("the explorer has room for another thread"));
    }

    /// Waits for all; the first broken promise is the outcome.
    pub fn join(self) -> Outcome {
        let mut outcome = Ok(());
        for thread in self.0 {
            let ended = thread.join().unwrap_or_else(|_| Err(Broken("a thread panicked".to_owned())));
            outcome = outcome.and(ended);
        }
        outcome
    }
}
