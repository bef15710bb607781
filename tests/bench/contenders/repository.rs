//! What backup programs have alike: a repository on the disk, a mount of what is in it, and the most memory
//! that one of their processes has used.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Stage, disk_usage};
use crate::measure::{Cost, Outcome, peak_memory, run_accepting};
use crate::mounted::Mounted;

pub struct Repository {
    pub dir: PathBuf,
    mounted: Option<Mounted>,
    peak: u64,
}

impl Repository {
    pub fn new(stage: &Stage<'_>, name: &str) -> Outcome<Self> {
        Ok(Repository { dir: stage.dir(name)?, mounted: None, peak: 0 })
    }

    /// Runs one of the program's commands, which may end with any of the codes in `accepted`.
    pub fn run(&mut self, command: &mut Command, accepted: &[i32]) -> Outcome<Cost> {
        let cost = run_accepting(command, accepted)?;
        self.peak = self.peak.max(cost.peak);
        Ok(cost)
    }

    /// Has `command` mount it at `mount`, if it is not mounted yet.
    pub fn mount(&mut self, command: &mut Command, mount: &Path) -> Outcome<()> {
        if self.mounted.is_none() {
            let child = Mounted::spawn(command)?;
            self.mounted = Some(Mounted::wait(child, mount)?);
        }
        Ok(())
    }

    /// The process that serves the mount.
    pub fn daemon(&self) -> Option<u32> {
        self.mounted.as_ref().map(Mounted::pid)
    }

    pub fn umount(&mut self) {
        self.peak = self.peak.max(self.daemon().and_then(peak_memory).unwrap_or(0));
        self.mounted = None;
    }

    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// Bytes on the disk.
    pub fn stored(&self) -> Outcome<u64> {
        disk_usage(&self.dir)
    }
}
