//! rustic, from crates.io, with its defaults but for the level of compression: a repository on the same disk.
//!
//! As it is built without further choices it has no FUSE mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::repository::Repository;
use super::{Contender, Stage, Way};
use crate::measure::{Cost, Outcome, output};

pub struct Rustic {
    repository: Repository,
    cache: PathBuf,
    /// By the name of the snapshot.
    snapshots: Vec<(String, String)>,
}

impl Rustic {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let rustic = Rustic {
            repository: Repository::new(stage, "rustic")?,
            cache: stage.dir("rustic-cache")?,
            snapshots: Vec::new(),
        };
        let level = stage.level.to_string();
        output(rustic.command().args(["init", "--set-compression", &level]))?;
        Ok(rustic)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("rustic");
        command
            .env("RUSTIC_REPOSITORY", &self.repository.dir)
            .env("RUSTIC_CACHE_DIR", &self.cache)
            .env("RUSTIC_PASSWORD", "benchmark")
            .env("RUSTIC_NO_PROGRESS", "true")
            .env("RUSTIC_LOG_LEVEL", "warn");
        command
    }

    /// The latest snapshot there is.
    fn latest(&self) -> Outcome<String> {
        let list = output(self.command().args(["snapshots", "--json", "latest"]))?;
        let found: serde_json::Value =
            serde_json::from_str(&list).map_err(|e| format!("rustic snapshots said {list:?}: {e}"))?;
        id_in(&found).ok_or_else(|| format!("rustic snapshots named none: {list:?}"))
    }

    fn snapshot(&self, name: &str) -> Outcome<String> {
        let found = self.snapshots.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, id)| id.clone()).ok_or_else(|| format!("rustic has no snapshot {name}"))
    }
}

/// The first id of a snapshot, in whatever groups snapshots are listed.
fn id_in(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Object(fields) => match fields.get("id") {
            Some(serde_json::Value::String(id)) => Some(id.clone()),
            _ => fields.values().find_map(id_in),
        },
        serde_json::Value::Array(items) => items.iter().find_map(id_in),
        _ => None,
    }
}

impl Contender for Rustic {
    fn name(&self) -> &'static str {
        "rustic"
    }

    fn ingest(&mut self, source: &Path, name: &str, way: Way<'_>) -> Outcome<Option<Cost>> {
        let mut backup = self.command();
        backup.current_dir(source).args(["backup", "."]);
        match way {
            Way::Full => backup.arg("--force"),
            Way::Refresh(_) | Way::Sync => &mut backup,
            Way::Clone(_) | Way::Inplace(_) => return Ok(None),
        };
        let cost = self.repository.run(&mut backup, &[0])?;
        self.snapshots.push((name.to_owned(), self.latest()?));
        Ok(Some(cost))
    }

    fn restore(&mut self, name: &str, into: &Path) -> Outcome<Option<Cost>> {
        let snapshot = self.snapshot(name)?;
        let mut restore = self.command();
        restore.args(["restore", &snapshot]).arg(into);
        self.repository.run(&mut restore, &[0]).map(Some)
    }

    /// In one step, as the others do; by itself it would remove what it repacked only a day later.
    fn prune(&mut self, name: &str) -> Outcome<Option<Cost>> {
        let snapshot = self.snapshot(name)?;
        let mut forget = self.command();
        forget.args(["forget", &snapshot, "--prune", "--instant-delete", "--keep-delete", "0d"]);
        self.repository.run(&mut forget, &[0]).map(Some)
    }

    fn stored(&mut self) -> Outcome<Option<u64>> {
        self.repository.stored().map(Some)
    }

    fn peak(&mut self) -> Option<u64> {
        Some(self.repository.peak())
    }
}
