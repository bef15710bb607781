//! The soak: the real program on a real mount, worked on at random by several processes, killed again and again, its
//! cycles running without a break, and everything compared with what must be there.
//!
//! `cargo test --features sim` runs it for about a minute: the oracle's own tests, a run with kills, one whose clock
//! jumps by years, and one with a protection taken out of the daemon, which must find a loss. For longer:
//!
//! ```text
//! cargo test --release --features sim --test soak -- --seconds 3600 --seed 7 --clock-jumps
//!   --workers N     processes (2)
//!   --kill-every S  seconds between kills, on average (4); 0: none
//!   --sabotage X    a protection taken out of the daemon, as in CAIRNFS_SABOTAGE
//!   --keep DIR      where the store is copied to if there is a loss
//! ```
//!
//! Each worker has groups of its own, so that its oracle is exact; what all share is in one directory ([`shared`]).
//! What is compared how: see [`oracle`]. While the daemon lives everything is exact. After a kill, what was synced must
//! be there byte for byte, names must be those after a prefix of the changes since, and no byte may be one that its
//! file did not have.
//!
//! A seed brings back the same operations of each worker up to the first kill, and the same intervals between kills.
//! What a kill leaves depends on the moment, and so does what is done after it: a run with kills is not repeated bit
//! for bit. The message of a loss therefore holds what was done to the file.

#[path = "../mount/data.rs"]
#[allow(dead_code)]
mod data;
#[path = "../filesystem/seed.rs"]
#[allow(dead_code)]
mod seed;
#[path = "../mount/skip.rs"]
#[allow(dead_code)]
mod skip;
#[path = "../mount/sys.rs"]
#[allow(dead_code)]
mod sys;
#[path = "../mount/world.rs"]
#[allow(dead_code)]
mod world;

mod bytes;
mod clock;
mod compare;
mod coordinator;
mod options;
mod oracle;
mod selftest;
mod shared;
mod steps;
mod subvolumes;
mod worker;

use coordinator::Failure;
use options::{Plan, Task};
use worker::Worker;

fn main() {
    let task = options::parse(std::env::args().skip(1)).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    match task {
        Task::Worker { number, seed, mnt, store } => worker::live(Worker::new(number, seed, mnt, store)),
        Task::Run(plan) => must_keep_all(&plan),
        Task::Suite => suite(),
        Task::Nothing => {}
    }
}

fn suite() {
    // Runs with kills are not repeated bit for bit, so one of the two need not begin with what is known.
    let [fixed, fresh] = seed::wanted().map_or_else(|| [1, seed::fresh()], |seed| [seed; 2]);
    println!("soak: CAIRNFS_SEED={fixed}, then CAIRNFS_SEED={fresh}");
    selftest::run(fixed);
    must_keep_all(&Plan { seconds: 20, seed: fixed, kill_every: 3, ..Plan::default() });
    must_keep_all(&Plan { seconds: 15, seed: fresh, clock_jumps: true, kill_every: 5, ..Plan::default() });
    must_lose(&Plan {
        seconds: 90,
        seed: fixed + 2,
        kill_every: 0,
        sabotage: "mark-on-hit",
        ..Plan::default()
    });
}

fn must_keep_all(plan: &Plan) {
    match coordinator::run(plan) {
        Ok(Some(report)) => report.print(),
        Ok(None) => {}
        Err(failure) => {
            match failure {
                Failure::Loss(text) => println!("LOSS, seed {}: {text}", plan.seed),
                Failure::Trouble(text) => {
                    println!("no loss, but the run ended early, seed {}: {text}", plan.seed)
                }
            }
            std::process::exit(1);
        }
    }
}

/// A negative control: this soak has to be able to find what it looks for.
fn must_lose(plan: &Plan) {
    match coordinator::run(plan) {
        Ok(Some(report)) => {
            report.print();
            println!("without {} nothing was lost: the soak proves nothing", plan.sabotage);
            std::process::exit(1);
        }
        Ok(None) => {}
        Err(Failure::Trouble(text)) => {
            println!("without {} the run ended early, and found no loss: {text}", plan.sabotage);
            std::process::exit(1);
        }
        Err(Failure::Loss(loss)) => {
            let first: String = loss.lines().next().unwrap_or_default().chars().take(200).collect();
            println!("caught, without {}: {first}", plan.sabotage);
        }
    }
}
