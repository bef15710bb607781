//! Groups, and the snapshots in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::settings::{OwnedSetting, settings, shown};
use crate::error::Result;
use crate::fs::{Complete, Fs, SubvolumeInfo, Timestamp};

/// A snapshot: a subvolume in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name in the group.
    pub name: String,
    /// Inodes in it, itself not counted.
    pub files: u64,
    /// The sizes of all regular files in it.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub made: i64,
    /// When anything in it was changed last, in seconds since 1970.
    pub changed: i64,
    /// Nothing more is to come.
    pub complete: bool,
    /// When somebody said so, in seconds since 1970.
    pub sealed: Option<i64>,
    /// The path of the snapshot that it was cloned from, if that is still there.
    pub clone_of: Option<String>,
    /// Nothing in it can be changed.
    pub protected: bool,
}

/// A directory with snapshots in it, or one that is to have some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its path from the mount's root.
    pub path: String,
    /// Whether new directories in it are snapshots.
    pub group: bool,
    /// The settings that count for it.
    pub settings: Vec<OwnedSetting>,
    /// By when they were made, the oldest first.
    pub snapshots: Vec<Snapshot>,
}

/// What there is at and below a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// By their paths.
    pub groups: Vec<Group>,
}

/// The groups and snapshots at and below a directory; of one in a snapshot, that snapshot.
pub fn list(fs: &Fs, dir: u64) -> Result<Listing> {
    let all = fs.subvolumes()?;
    let wanted = fs.root_of(dir);
    let mut by_group: BTreeMap<u64, Vec<&SubvolumeInfo>> = BTreeMap::new();
    for info in all.iter().filter(|info| wanted.is_none_or(|root| info.root == root)) {
        by_group.entry(info.parent).or_default().push(info);
    }
    if wanted.is_none() && fs.is_group(dir)? {
        by_group.entry(dir).or_default();
    }
    let paths = Paths::of(fs, &all)?;
    let mut groups = Vec::new();
    for (group, mut found) in by_group {
        if wanted.is_none() && !fs.is_below(group, dir)? {
            continue;
        }
        found.sort_by_key(|info| (info.born, info.number));
        let completes = fs.completes(group)?;
        groups.push(Group {
            path: shown(&fs.path_of(group)?),
            group: fs.is_group(group)?,
            settings: settings(fs, group)?,
            snapshots: found.into_iter().map(|info| snapshot(info, completes, &paths)).collect(),
        });
    }
    groups.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Listing { groups })
}

fn snapshot(info: &SubvolumeInfo, completes: Complete, paths: &Paths) -> Snapshot {
    Snapshot {
        name: shown(&info.name),
        files: info.usage.files,
        bytes: info.usage.bytes,
        made: info.born.sec,
        changed: info.usage.changed.sec,
        complete: completes.is(&info.name, info.sealed, info.usage.changed, Timestamp::now().sec),
        sealed: info.sealed.map(|time| time.sec),
        clone_of: paths.0.get(&info.source).cloned(),
        protected: info.is_protected,
    }
}

/// The path of each snapshot, by its number.
struct Paths(BTreeMap<u64, String>);

impl Paths {
    fn of(fs: &Fs, all: &[SubvolumeInfo]) -> Result<Self> {
        let (mut groups, mut paths) = (BTreeMap::new(), BTreeMap::new());
        for info in all {
            let group = match groups.get(&info.parent) {
                Some(path) => path,
                None => groups.entry(info.parent).or_insert(fs.path_of(info.parent)?),
            };
            let above = shown(group);
            paths.insert(info.number, format!("{}/{}", above.trim_end_matches('/'), shown(&info.name)));
        }
        Ok(Self(paths))
    }
}
