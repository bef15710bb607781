//! What is asked for on the command line.

use std::path::PathBuf;

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seconds: u64,
    pub seed: u64,
    pub workers: u64,
    /// The daemon is killed every so many seconds on average; 0: never.
    pub kill_every: u64,
    pub clock_jumps: bool,
    /// Protections that are taken out of the daemon.
    pub sabotage: &'static str,
    /// Where the store goes if there is a loss.
    pub keep: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { seconds: 60, seed: 1, workers: 2, kill_every: 4, clock_jumps: false, sabotage: "", keep: None }
    }
}

impl Plan {
    /// What is unusual about it.
    pub fn words(&self) -> String {
        let mut words = match self.kill_every {
            0 => ", no kills".to_owned(),
            seconds => format!(", a kill every {seconds} s"),
        };
        if self.clock_jumps {
            words.push_str(", the clock jumps");
        }
        if !self.sabotage.is_empty() {
            words.push_str(&format!(", without {}", self.sabotage));
        }
        words
    }
}

/// What this process is to do.
#[derive(Debug)]
pub enum Task {
    /// All that belongs to a test run.
    Suite,
    /// One run as it is wanted.
    Run(Plan),
    /// Be a worker of a run.
    Worker { number: u64, seed: u64, mnt: PathBuf, store: PathBuf },
    /// A filter of `cargo test` that means other tests.
    Nothing,
}

/// Reads the words after the program's name. Those that `cargo test` hands to every test are let pass.
pub fn parse(words: impl Iterator<Item = String>) -> Result<Task, String> {
    let (mut plan, mut wanted) = (Plan::default(), false);
    let (mut worker, mut mnt, mut store) = (None, PathBuf::new(), PathBuf::new());
    let mut words = words;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--seconds" => (plan.seconds, wanted) = (number(value()?)?, true),
            "--seed" => (plan.seed, wanted) = (number(value()?)?, true),
            "--workers" => (plan.workers, wanted) = (number(value()?)?.max(1), true),
            "--kill-every" => (plan.kill_every, wanted) = (number(value()?)?, true),
            "--clock-jumps" => (plan.clock_jumps, wanted) = (true, true),
            "--sabotage" => (plan.sabotage, wanted) = (value()?.leak(), true),
            "--keep" => (plan.keep, wanted) = (Some(value()?.into()), true),
            "--worker" => worker = Some(number(value()?)?),
            "--mount" => mnt = value()?.into(),
            "--store" => store = value()?.into(),
            "--list" => return Ok(Task::Nothing),
            "--test-threads" | "--skip" | "--color" | "--format" => drop(value()?),
            other if other.starts_with('-') => {}
            filter if "soak".contains(filter) => {}
            _ => return Ok(Task::Nothing),
        }
    }
    Ok(match worker {
        Some(number) => Task::Worker { number, seed: plan.seed, mnt, store },
        None if wanted => Task::Run(plan),
        None => Task::Suite,
    })
}
