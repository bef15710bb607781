//! Cycles that run beside a test, and how they are held.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::sys;
use crate::world::{World, program, wait_for};

/// The points at which a cycle can be held, in their order; `gc::pause` has the same.
pub const POINTS: [&str; 10] = [
    "begin",
    "before-flip",
    "flipped",
    "mid-mark",
    "marked",
    "condemned",
    "mid-sweep",
    "swept",
    "moved",
    "reclaimed",
];

/// A cycle that runs beside the test.
pub struct Cycle {
    child: Option<Child>,
    gate: Option<Gate>,
}

/// While its file is there, cycles wait at a point.
struct Gate {
    file: PathBuf,
    reached: PathBuf,
}

impl World {
    /// Starts a cycle.
    pub fn start_cycle(&self) -> Cycle {
        // Not by way of `timeout`, which would hand a signal on twice.
        let child = Command::new(program())
            .args(["gc", "--json"])
            .arg(&self.store)
            .env("CAIRNFS_PAUSE_DIR", self.pauses())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        Cycle { child: Some(child), gate: None }
    }

    /// Starts a cycle and returns when it stands still at `point`.
    pub fn hold_cycle(&self, point: &str) -> Cycle {
        let file = self.pauses().join(point);
        let gate = Gate { reached: file.with_extension("reached"), file };
        let _ = fs::remove_file(&gate.reached);
        fs::write(&gate.file, b"").unwrap();
        let mut cycle = self.start_cycle();
        wait_for(&format!("a cycle at {point}"), || {
            let running = cycle.child.as_mut().unwrap().try_wait().unwrap().is_none();
            assert!(running, "the cycle ended before it came to {point}");
            gate.reached.exists()
        });
        cycle.gate = Some(gate);
        cycle
    }
}

impl Cycle {
    /// Lets it go on.
    pub fn go_on(&mut self) {
        self.gate = None;
    }

    /// Sends the command a signal, lets the cycle go on once the command has said something, and returns all it said and
    /// how it ended.
    pub fn interrupt(mut self, signal: i32) -> Output {
        let mut child = self.child.take().unwrap();
        sys::kill(child.id() as i32, signal);
        let mut first = [0; 1];
        child.stderr.as_mut().unwrap().read_exact(&mut first).expect("a sentence");
        self.go_on();
        let mut output = child.wait_with_output().unwrap();
        output.stderr.insert(0, first[0]);
        output
    }

    /// Lets it go on to its end, which has to be a good one; returns its record.
    pub fn finish(mut self) -> Value {
        self.go_on();
        let child = self.child.take().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "gc ended with {}: {said}", output.status);
        serde_json::from_slice(&output.stdout).expect("exactly one JSON object")
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

impl Drop for Cycle {
    fn drop(&mut self) {
        self.gate = None;
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
