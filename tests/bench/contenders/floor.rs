//! The filesystem that does nothing, as a contender: what FUSE itself costs under each command.

use std::path::Path;

use super::{Contender, Stage};
use crate::floor::process::FloorProcess;
use crate::measure::Outcome;

pub struct Floor {
    process: FloorProcess,
}

pub fn missing() -> Option<String> {
    let there = Path::new("/dev/fuse").exists();
    (!there).then(|| "/dev/fuse is not here; modprobe fuse".to_owned())
}

impl Floor {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let mount = stage.dir("floor")?;
        let process = FloorProcess::start(&mount, &stage.floor.parse()?)?;
        Ok(Floor { process })
    }
}

impl Contender for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.process.mount)
    }

    fn daemon(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    fn durable(&mut self) -> Outcome<Option<f64>> {
        Ok(None)
    }

    fn cool(&mut self) -> Outcome<()> {
        self.process.remount()
    }

    fn requests(&mut self) -> Option<Vec<(String, u64)>> {
        Some(self.process.counts().ok()?.into_iter().collect())
    }
}
