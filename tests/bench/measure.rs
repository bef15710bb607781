//! What a step cost: seconds, CPU seconds, memory, requests.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

pub type Outcome<T> = Result<T, String>;

/// How often the memory of a program that runs is looked at. Its peak is kept by the kernel, so that
/// only a rise within its last such moment can be missed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Of the clocks that the kernel shows in /proc, whatever it counts by itself.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Default, Debug)]
pub struct Cost {
    pub seconds: f64,
    /// User and system time of the programs run, all their children included.
    pub cpu: f64,
    /// The largest resident set of the program, in bytes; 0 when it was not watched.
    pub peak: u64,
}

/// The middle of what was measured, or nothing if nothing was.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Runs a program to its end. What it says on stderr is part of the error if it fails.
pub fn run(command: &mut Command) -> Outcome<Cost> {
    run_accepting(command, &[0])
}

/// As `run`, for programs that end with something else than 0 when all is well enough.
pub fn run_accepting(command: &mut Command, accepted: &[i32]) -> Outcome<Cost> {
    let cpu_before = children_cpu();
    let started = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", shown(command)))?;
    let watch = Watch::start(child.id());
    let output = child.wait_with_output().map_err(|e| format!("{}: {e}", shown(command)))?;
    let seconds = started.elapsed().as_secs_f64();
    let peak = watch.stop();
    if !output.status.code().is_some_and(|code| accepted.contains(&code)) {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.chars().take(600).collect();
        return Err(format!("{}: {}: {said}", shown(command), output.status));
    }
    let cpu = children_cpu() - cpu_before;
    Ok(Cost { seconds, cpu, peak })
}

/// Runs a line of shell; a failure anywhere in a pipe is a failure.
pub fn shell(line: &str) -> Outcome<Cost> {
    run(Command::new("bash").args(["-o", "pipefail", "-c", line]))
}

/// What a program prints, with the white space around it taken off.
pub fn output(command: &mut Command) -> Outcome<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{}: {e}", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", shown(command), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Quotes a path for a line of shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

pub fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, f64)> {
    let started = Instant::now();
    let result = work()?;
    Ok((result, started.elapsed().as_secs_f64()))
}

/// Looks at the peak memory of a process until told to stop.
struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicU64::new(0));
        let thread = {
            let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    peak.fetch_max(peak_memory(pid).unwrap_or(0), Relaxed);
                    thread::park_timeout(LOOK_EVERY);
                }
            })
        };
        Watch { stop, peak, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
        self.peak.load(Relaxed)
    }
}

/// The peak resident memory of a process, as the kernel keeps it.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The CPU seconds a process has used.
pub fn process_cpu(pid: u32) -> Option<f64> {
    stat_seconds(&format!("/proc/{pid}/stat"), 11)
}

/// The CPU seconds of all children that have ended, and of theirs.
fn children_cpu() -> f64 {
    stat_seconds("/proc/self/stat", 13).unwrap_or(0.0)
}

/// The sum of two neighbouring clocks of a stat file, counted from after the program's name.
fn stat_seconds(path: &str, first: usize) -> Option<f64> {
    let stat = std::fs::read_to_string(path).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut clocks = after_name.split_whitespace().skip(first);
    let user: u64 = clocks.next()?.parse().ok()?;
    let system: u64 = clocks.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// Empties the kernel's caches of files, so that what is read next is read cold.
pub fn drop_caches() -> Outcome<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|e| format!("cannot drop the kernel's caches ({e}): cold figures need root; use --no-cold"))
}
