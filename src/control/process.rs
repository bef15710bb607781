//! The state of the process at the other end, by `/proc`: ended, stopped, or at work.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

/// How often to look at a process that is about to end.
const POLL: Duration = Duration::from_millis(2);

/// A process. Its start time tells it from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
    /// In clock ticks since the machine started.
    start: u64,
}

impl Process {
    /// The process with this id in this pid namespace. `None` if it cannot be seen: it is in another namespace, it has
    /// ended, or there is no /proc.
    pub(super) fn of(pid: u32, namespace: u64) -> Option<Self> {
        let known = namespace != 0 && namespace == own_namespace();
        let (start, _) = known.then(|| stat(pid)).flatten()?;
        Some(Self { pid, start })
    }

    /// Its state as proc(5) has it; `None` if it has ended, reaped or not.
    pub(super) fn state(&self) -> Option<char> {
        let (start, state) = stat(self.pid)?;
        (start == self.start && !matches!(state, 'Z' | 'X')).then_some(state)
    }

    /// Waits until it has ended; false if that takes longer than `timeout`.
    pub(super) fn ends_within(&self, timeout: Duration) -> bool {
        let begin = Instant::now();
        while self.state().is_some() {
            if begin.elapsed() >= timeout {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

/// The number of this process's pid namespace; 0 if it is not known.
pub(super) fn own_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

/// When a process started, and its state. The name, in brackets, may contain anything. If only the main thread has
/// ended, the process has not.
fn stat(pid: u32) -> Option<(u64, char)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let state = if state == 'Z' && threads() > 1 { 'R' } else { state };
    Some((start, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, id};

    fn here(pid: u32) -> Option<Process> {
        Process::of(pid, own_namespace())
    }

    #[test]
    fn a_process_is_told_from_its_successor_and_seen_to_end() {
        let me = here(id()).unwrap();
        assert!(me.state().is_some() && !me.ends_within(Duration::ZERO));
        let earlier = Process { start: me.start - 1, ..me };
        assert!(earlier.ends_within(Duration::ZERO), "another one has its number");
        assert_eq!(Process::of(id(), 1), None);

        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = here(child.id()).unwrap();
        assert!(!process.ends_within(Duration::ZERO));
        child.kill().unwrap();
        assert!(process.ends_within(Duration::from_secs(100)), "not reaped, but ended");
        child.wait().unwrap();
        assert_eq!(here(child.id()), None);
    }
}
