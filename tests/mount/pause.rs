//! Cycles that run beside a test, and how they are held.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::world::{World, command, program, wait_for};

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
        let child = command(program())
            .args(["gc", "--json"])
            .arg(&self.store)
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
