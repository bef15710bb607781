//! One run: the store, its daemon, the workers' processes, cycles without a break, kills and clock jumps, and the end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use cairnfs::media::sim::Rng;
use serde_json::Value;

use crate::clock::Clock;
use crate::options::Plan;
use crate::shared::SHARED;
use crate::worker::{Order, Stats, Word};
use crate::world::{Outcome, Setup, World, tool};

/// How long everything at the end may take.
const END: Duration = Duration::from_secs(900);
/// What packs may take when nothing is stored any more: one is open.
const EMPTY: u64 = 1 << 20;
/// How long a worker may be silent when it is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a run has seen.
#[derive(Debug, Default)]
pub struct Report {
    pub seconds: f64,
    pub stats: Stats,
    pub cycles: u64,
    pub condemned: u64,
    pub freed: u64,
    pub interrupted: u64,
    pub crashes: u64,
    pub jumps: u64,
    pub seen: (i64, i64),
    pub left: u64,
}

impl Report {
    pub fn print(&self) {
        let operations: u64 = self.stats.operations.values().sum();
        println!("{:.0} seconds, {operations} operations:", self.seconds);
        for (kind, count) in &self.stats.operations {
            println!("  {count:>9} {kind}");
        }
        println!(
            "{} MiB written, {} MiB compared",
            self.stats.bytes_written >> 20,
            self.stats.bytes_compared >> 20
        );
        println!(
            "{} cycles, {} more cut off by a kill, {} chunks condemned, {} MiB given back",
            self.cycles,
            self.interrupted,
            self.condemned,
            self.freed >> 20
        );
        println!(
            "{} kills, {} comparisons after them by the workers",
            self.crashes, self.stats.after_crashes
        );
        if self.jumps > 0 {
            println!(
                "{} jumps of the clock, seen from {} to {:+} years off",
                self.jumps, self.seen.0, self.seen.1
            );
        }
        println!(
            "{} files compared, {} bytes of packs left at the end, 0 losses",
            self.stats.files_compared, self.left
        );
    }
}

/// Why a run did not come to its end.
#[derive(Debug)]
pub enum Failure {
    /// Something that must be there is not.
    Loss(String),
    /// The run itself: a process that ended or hangs, a clock that does not move.
    Trouble(String),
}

enum Event {
    Said(usize, Word),
    /// A worker's process has closed its output.
    Ended(usize),
    Cycle(String),
}

/// The workers' processes; whatever happens, none outlives the run.
struct Workers(Vec<Child>);

impl Workers {
    fn start(plan: &Plan, world: &World, events: &Sender<Event>) -> Self {
        let mut workers = Vec::new();
        for number in 0..plan.workers {
            let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
            command.args(["--worker", &number.to_string(), "--seed", &plan.seed.to_string()]);
            command.arg("--mount").arg(&world.mnt).arg("--store").arg(&world.store);
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a worker can be started");
            let out = child.stdout.take().expect("its output is a pipe");
            let events = events.clone();
            thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if let Ok(word) = serde_json::from_str(&line) {
                        let _ = events.send(Event::Said(number as usize, word));
                    }
                }
                let _ = events.send(Event::Ended(number as usize));
            });
            workers.push(child);
        }
        Self(workers)
    }

    fn order(&mut self, order: Order) {
        let line = serde_json::to_string(&order).expect("orders can be written") + "\n";
        for worker in &mut self.0 {
            // One that has ended says so by itself.
            let _ = worker.stdin.as_mut().expect("its input is a pipe").write_all(line.as_bytes());
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// How many cycles there were and what they freed.
#[derive(Default)]
struct Cycles {
    stop: AtomicBool,
    /// Even while there is a daemon; each kill and each mount adds one.
    epoch: AtomicU64,
    done: AtomicU64,
    interrupted: AtomicU64,
    condemned: AtomicU64,
    freed: AtomicU64,
}

impl Cycles {
    /// Runs one after the other. One that the kill meets may go on by itself in the store that nobody has open then.
    fn run(&self, world: &World, events: &Sender<Event>) {
        while !self.stop.load(Ordering::SeqCst) {
            let before = self.epoch.load(Ordering::SeqCst);
            if before % 2 == 1 {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let outcome = world.ask(&["gc", "--json"]);
            if self.note(&outcome) {
                continue;
            }
            if self.epoch.load(Ordering::SeqCst) == before && !self.stop.load(Ordering::SeqCst) {
                let _ = events.send(Event::Cycle(format!("a cycle failed: {}", outcome.said())));
                return;
            }
            self.interrupted.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// True if it was a whole cycle.
    fn note(&self, outcome: &Outcome) -> bool {
        let record: Value = serde_json::from_str(&outcome.out).unwrap_or_default();
        if outcome.code != 0 || !record["ended_early"].is_null() {
            return false;
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        self.condemned.fetch_add(record["condemned"].as_u64().unwrap_or(0), Ordering::SeqCst);
        self.freed.fetch_add(record["freed_bytes"].as_u64().unwrap_or(0), Ordering::SeqCst);
        true
    }
}

/// A run at work.
struct Run<'a> {
    plan: &'a Plan,
    world: &'a World,
    workers: Workers,
    events: Receiver<Event>,
    cycles: &'a Cycles,
    clock: Option<Clock>,
    random: Rng,
    /// The mount that each worker has compared last.
    verified: Vec<u64>,
    mounts: u64,
    begin: Instant,
}

/// Runs to the end or to the first loss, which is the error. `None` where there is no FUSE.
pub fn run(plan: &Plan) -> Result<Option<Report>, Failure> {
    println!("seed {}, {} s, {} workers{}", plan.seed, plan.seconds, plan.workers, plan.words());
    let dir = tempfile::TempDir::with_prefix("cairnfs-soak-").expect("a directory for temporary files");
    let clock = if plan.clock_jumps { Clock::new(dir.path(), plan.seed) } else { None };
    let setup = Setup {
        sabotage: plan.sabotage,
        environment: clock.as_ref().map_or_else(Vec::new, Clock::environment),
        limit: Duration::from_secs(plan.seconds) + END,
        ..Setup::default()
    };
    let Some(world) = World::new(setup) else { return Ok(None) };
    let cycles = Cycles::default();
    let (sender, events) = channel();
    let result = thread::scope(|scope| {
        let workers = Workers::start(plan, &world, &sender);
        let run = Run {
            plan,
            world: &world,
            workers,
            events,
            cycles: &cycles,
            clock,
            random: Rng::new(plan.seed ^ 0xdead),
            verified: vec![u64::MAX; plan.workers as usize],
            mounts: 0,
            begin: Instant::now(),
        };
        scope.spawn(|| cycles.run(&world, &sender));
        let ended = EndCycles(&cycles);
        let result = run.work().and_then(Run::end);
        drop(ended);
        result
    });
    if result.is_err()
        && let Some(keep) = &plan.keep
    {
        keep_store(&world, keep);
    }
    result.map(Some)
}

/// Ends the cycles, also when the run panics: its scope waits for them.
struct EndCycles<'a>(&'a Cycles);

impl Drop for EndCycles<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

/// For a look at what was lost: the store as it is, the daemon killed.
fn keep_store(world: &World, keep: &Path) {
    if world.pid() != 0 {
        world.kill();
    }
    let copied = Command::new("cp").arg("-a").arg(&world.store).arg(keep).status();
    println!("the store is kept in {} ({copied:?})", keep.display());
}

impl Run<'_> {
    /// Random work, until the time is over.
    fn work(mut self) -> Result<Self, Failure> {
        let probe = self.world.mnt.join("probe");
        for dir in [&probe, &self.world.mnt.join(SHARED)] {
            fs::create_dir(dir).expect("a new mount takes directories");
        }
        self.world.sync();
        self.workers.order(Order::Mounted(0));
        let end = self.begin + Duration::from_secs(self.plan.seconds);
        let mut kill_at = self.next_kill();
        let mut jump_at = Instant::now();
        let mut told_at = Instant::now();
        while Instant::now() < end {
            let next = end.min(kill_at).min(if self.clock.is_some() { jump_at } else { end });
            self.listen_until(next)?;
            if let Some(clock) = &mut self.clock
                && Instant::now() >= jump_at
            {
                clock.jump(&probe).map_err(Failure::Trouble)?;
                jump_at = Instant::now() + Duration::from_millis(200 + self.random.below(1800));
            }
            if Instant::now() >= kill_at {
                self.kill();
                kill_at = self.next_kill();
            }
            if told_at.elapsed() > Duration::from_secs(30) {
                told_at = Instant::now();
                let (cycles, crashes) = (self.cycles.done.load(Ordering::SeqCst), self.mounts);
                println!(
                    "{:.0} s: {cycles} cycles, {crashes} kills, 0 losses",
                    self.begin.elapsed().as_secs_f64()
                );
            }
        }
        self.wait_for("what follows a mount", |run| run.verified.iter().all(|mount| *mount == run.mounts))?;
        Ok(self)
    }

    /// When to kill: mostly when all have compared, now and then while they do.
    fn next_kill(&mut self) -> Instant {
        let millis = if self.random.below(6) == 0 { 300 } else { self.plan.kill_every * 2000 };
        let after = 50 + self.random.below(millis.max(1));
        Instant::now() + if self.plan.kill_every == 0 { END * 1000 } else { Duration::from_millis(after) }
    }

    /// kill -9, and mounted again at once.
    fn kill(&mut self) {
        self.cycles.epoch.fetch_add(1, Ordering::SeqCst);
        self.world.kill();
        self.world.mount();
        self.cycles.epoch.fetch_add(1, Ordering::SeqCst);
        self.mounts += 1;
        self.workers.order(Order::Mounted(self.mounts));
    }

    /// Takes what is said until this moment.
    fn listen_until(&mut self, until: Instant) -> Result<(), Failure> {
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => drop(self.take(event)?),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return trouble("nobody is at work any more"),
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<Word>, Failure> {
        match event {
            Event::Said(_, Word::Loss(text)) | Event::Cycle(text) => Err(Failure::Loss(text)),
            Event::Ended(worker) => trouble(format!("worker {worker} ended before its time")),
            Event::Said(worker, Word::Verified(mount)) => {
                self.verified[worker] = mount;
                Ok(None)
            }
            Event::Said(_, word) => Ok(Some(word)),
        }
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let begin = Instant::now();
        while !done(self) {
            if begin.elapsed() > PATIENCE {
                return trouble(format!("waited in vain for {what}"));
            }
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(100)) {
                self.take(event)?;
            }
        }
        Ok(())
    }

    /// Gives an order and waits until each worker has answered; returns the answers.
    fn ask_all(&mut self, order: Order) -> Result<Vec<Word>, Failure> {
        self.workers.order(order);
        let (begin, mut words) = (Instant::now(), Vec::new());
        while words.len() < self.plan.workers as usize {
            if begin.elapsed() > PATIENCE {
                return trouble(format!("waited in vain after {order:?}"));
            }
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(100)) {
                words.extend(self.take(event)?);
            }
        }
        Ok(words)
    }

    /// Everything is compared once more, across an umount; then all goes, and the store has to become empty.
    fn end(mut self) -> Result<Report, Failure> {
        self.ask_all(Order::Stop)?;
        let seconds = self.begin.elapsed().as_secs_f64();
        self.cycles.stop.store(true, Ordering::SeqCst);
        self.world.umount();
        let damage = self.world.damage();
        if !damage.is_empty() {
            return Err(Failure::Loss(format!("check --data: {damage}")));
        }
        self.world.mount();
        self.ask_all(Order::Compare)?;
        let mut stats = Stats::default();
        for word in self.ask_all(Order::Delete)? {
            if let Word::Deleted(of_worker) = word {
                stats.add(&of_worker);
            }
        }
        self.world.deletions_done();
        self.world.gc();
        self.world.gc();
        let (chunks, left) = (self.world.figure("chunks"), packs(self.world));
        if chunks != 0 || left > EMPTY {
            let text =
                format!("everything was deleted, and there are {chunks} chunks and {left} bytes of packs");
            return Err(Failure::Loss(text));
        }
        self.world.umount();
        self.world.assert_clean();
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Ok(Report {
            seconds,
            stats,
            cycles: of(&self.cycles.done),
            condemned: of(&self.cycles.condemned),
            freed: of(&self.cycles.freed),
            interrupted: of(&self.cycles.interrupted),
            crashes: self.mounts,
            jumps: self.clock.as_ref().map_or(0, |clock| clock.jumps),
            seen: self.clock.as_ref().map_or((0, 0), |clock| clock.seen),
            left,
        })
    }
}

fn trouble<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Trouble(text.into()))
}

/// Bytes that the packs take on the host, their directories apart: those stay, and there are at most 4096 of them.
fn packs(world: &World) -> u64 {
    let files = tool!("find", world.store.join("packs"), "-type", "f", "-printf", "%b\n");
    // In units of 512 bytes.
    files.lines().map(|blocks| blocks.parse::<u64>().expect("find prints numbers") * 512).sum()
}
