//! What a child process measures of itself.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::measure::{peak_memory, process_cpu};

/// What a step took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Took {
    pub seconds: f64,
    /// User and system time of the whole process.
    pub cpu: f64,
    /// The most memory the process ever had, up to the end of the step, in bytes.
    pub peak: u64,
}

/// Starts at its making and at each lap.
pub struct Watch {
    wall: Instant,
    cpu: f64,
}

pub fn cpu() -> f64 {
    process_cpu(std::process::id()).unwrap_or(0.0)
}

impl Watch {
    pub fn start() -> Self {
        Watch { wall: Instant::now(), cpu: cpu() }
    }

    pub fn lap(&mut self) -> Took {
        let now = Watch::start();
        let took = Took {
            seconds: now.wall.duration_since(self.wall).as_secs_f64(),
            cpu: now.cpu - self.cpu,
            peak: peak_memory(std::process::id()).unwrap_or(0),
        };
        *self = now;
        took
    }
}

/// The value that `part` (0 to 1) of the sorted values are below.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part) as usize).copied().unwrap_or(0.0)
}
