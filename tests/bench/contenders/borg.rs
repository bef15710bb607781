//! Borg, as Debian ships it: no encryption, zstd at the level of the others, and its FUSE mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Contender, Stage, Way, disk_usage};
use crate::measure::{Cost, Outcome, output, peak_memory, run_accepting};
use crate::mounted::Mounted;

/// 0 is success, 1 a warning, as for a file that changed while it was read.
const FINE: &[i32] = &[0, 1];

pub struct Borg {
    repository: PathBuf,
    base: PathBuf,
    mount: PathBuf,
    level: i32,
    mounted: Option<Mounted>,
    peak: u64,
}

impl Borg {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let borg = Borg {
            repository: stage.dir("borg")?,
            base: stage.dir("borg-base")?,
            mount: stage.dir("borg-mount")?,
            level: stage.level,
            mounted: None,
            peak: 0,
        };
        output(borg.command().args(["init", "-e", "none"]).arg(&borg.repository))?;
        Ok(borg)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("borg");
        command
            .env("BORG_BASE_DIR", &self.base)
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
        command
    }

    fn archive(&self, name: &str) -> String {
        format!("{}::{name}", self.repository.display())
    }

    fn counted(&mut self, command: &mut Command) -> Outcome<Cost> {
        let cost = run_accepting(command, FINE)?;
        self.peak = self.peak.max(cost.peak);
        Ok(cost)
    }
}

impl Contender for Borg {
    fn name(&self) -> &'static str {
        "borg"
    }

    fn daemon(&self) -> Option<u32> {
        self.mounted.as_ref().map(Mounted::pid)
    }

    fn ingest(&mut self, source: &Path, name: &str, way: Way<'_>) -> Outcome<Option<Cost>> {
        let mut create = self.command();
        create.current_dir(source).args(["create", "--compression", &format!("zstd,{}", self.level)]);
        match way {
            Way::Full => create.arg("--files-cache=disabled"),
            Way::Refresh(_) => &mut create,
            Way::Clone(_) | Way::Inplace(_) => return Ok(None),
        };
        // An archive is never changed: the second of a name takes the place of the first.
        let archive =
            if way == Way::Full { self.archive(name) } else { format!("{}-again", self.archive(name)) };
        create.arg(archive).arg(".");
        self.counted(&mut create).map(Some)
    }

    fn view(&mut self, name: &str) -> Outcome<Option<PathBuf>> {
        if self.mounted.is_none() {
            let mut mount = self.command();
            mount.args(["mount", "--foreground"]).arg(&self.repository).arg(&self.mount);
            let child = Mounted::spawn(&mut mount)?;
            self.mounted = Some(Mounted::wait(child, &self.mount)?);
        }
        Ok(Some(self.mount.join(name)))
    }

    fn restore(&mut self, name: &str, into: &Path) -> Outcome<Option<Cost>> {
        let mut extract = self.command();
        extract.current_dir(into).arg("extract").arg(self.archive(name));
        self.counted(&mut extract).map(Some)
    }

    fn prune(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.cool()?;
        let mut delete = self.command();
        delete.arg("delete").arg(self.archive(name));
        let delete = self.counted(&mut delete)?;
        let mut compact = self.command();
        compact.arg("compact").arg(&self.repository);
        let compact = self.counted(&mut compact)?;
        Ok(Some(Cost {
            seconds: delete.seconds + compact.seconds,
            cpu: delete.cpu + compact.cpu,
            peak: delete.peak.max(compact.peak),
        }))
    }

    fn stored(&mut self) -> Outcome<Option<u64>> {
        disk_usage(&self.repository).map(Some)
    }

    fn cool(&mut self) -> Outcome<()> {
        if let Some(pid) = self.daemon() {
            self.peak = self.peak.max(peak_memory(pid).unwrap_or(0));
        }
        self.mounted = None;
        Ok(())
    }

    fn peak(&mut self) -> Option<u64> {
        Some(self.peak)
    }
}
