//! `cp -a` to the host's filesystem: what people do who have no backup program.

use std::path::{Path, PathBuf};

use super::{Contender, Stage, disk_usage};
use crate::measure::Outcome;

pub struct Host {
    root: PathBuf,
}

impl Host {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let root = stage.dir("host")?;
        Ok(Host { root })
    }
}

impl Contender for Host {
    fn name(&self) -> &'static str {
        "cp"
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn stored(&mut self) -> Outcome<Option<u64>> {
        disk_usage(&self.root).map(Some)
    }
}
