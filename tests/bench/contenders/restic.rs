//! restic, as Debian ships it, with its defaults: a repository on the same disk, and its FUSE mount.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::{Contender, Stage, Way, disk_usage};
use crate::measure::{Cost, Outcome, output, peak_memory, run};
use crate::mounted::Mounted;

pub struct Restic {
    repository: PathBuf,
    cache: PathBuf,
    mount: PathBuf,
    mounted: Option<Mounted>,
    peak: u64,
}

impl Restic {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let restic = Restic {
            repository: stage.dir("restic")?,
            cache: stage.dir("restic-cache")?,
            mount: stage.dir("restic-mount")?,
            mounted: None,
            peak: 0,
        };
        output(restic.command().arg("init"))?;
        Ok(restic)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command
            .arg("--quiet")
            .env("RESTIC_REPOSITORY", &self.repository)
            .env("RESTIC_CACHE_DIR", &self.cache)
            .env("RESTIC_PASSWORD", "benchmark");
        command
    }

    fn counted(&mut self, command: &mut Command) -> Outcome<Option<Cost>> {
        let cost = run(command)?;
        self.peak = self.peak.max(cost.peak);
        Ok(Some(cost))
    }

    fn snapshot(&self, name: &str) -> Outcome<String> {
        let list = output(self.command().args(["snapshots", "--json", "--tag", name]))?;
        let list: serde_json::Value =
            serde_json::from_str(&list).map_err(|e| format!("restic snapshots said {list:?}: {e}"))?;
        list[0]["id"].as_str().map(str::to_owned).ok_or_else(|| format!("restic has no snapshot {name}"))
    }

    fn start_mount(&self) -> Outcome<Child> {
        let mut command = self.command();
        command.arg("mount").arg(&self.mount);
        Mounted::spawn(&mut command)
    }
}

impl Contender for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn daemon(&self) -> Option<u32> {
        self.mounted.as_ref().map(Mounted::pid)
    }

    fn ingest(&mut self, source: &Path, name: &str, way: Way<'_>) -> Outcome<Option<Cost>> {
        let mut backup = self.command();
        backup.current_dir(source).args(["backup", ".", "--tag", name]);
        match way {
            Way::Full => backup.arg("--force"),
            Way::Refresh(_) => &mut backup,
            Way::Clone(_) | Way::Inplace(_) => return Ok(None),
        };
        self.counted(&mut backup)
    }

    fn view(&mut self, name: &str) -> Outcome<Option<PathBuf>> {
        if self.mounted.is_none() {
            let child = self.start_mount()?;
            self.mounted = Some(Mounted::wait(child, &self.mount)?);
        }
        Ok(Some(self.mount.join("ids").join(&self.snapshot(name)?[..8])))
    }

    fn restore(&mut self, name: &str, into: &Path) -> Outcome<Option<Cost>> {
        let snapshot = self.snapshot(name)?;
        let mut restore = self.command();
        restore.args(["restore", &snapshot, "--target"]).arg(into);
        self.counted(&mut restore)
    }

    fn prune(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.cool()?;
        let snapshot = self.snapshot(name)?;
        let mut forget = self.command();
        forget.args(["forget", "--prune", &snapshot]);
        self.counted(&mut forget)
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
