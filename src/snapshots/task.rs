//! What commands ask of groups and snapshots, in a form that can be sent to the process that has the store open.

use serde::{Deserialize, Serialize};

use super::list::{Listing, list};
use super::settings::{OwnedSetting, settings};
use crate::error::Result;
use crate::fs::Fs;
use crate::sync::Arc;

/// A directory of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// By the number of its inode, as a mount shows it.
    Inode(u64),
    /// By its path from the mount's root.
    Path(String),
}

/// What is to be done there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Tell the settings that count.
    Settings,
    /// Change settings, names and values; an empty value takes one away.
    Set(Vec<(String, String)>),
    /// Tell the groups and snapshots at and below.
    List,
    /// Note that the snapshot is complete.
    Seal,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Task::Settings`].
    Settings(Vec<OwnedSetting>),
    /// To [`Task::List`].
    Listing(Listing),
    /// To the others.
    Done,
}

/// Does it.
pub fn perform(fs: &Arc<Fs>, place: &Place, task: &Task) -> Result<Answer> {
    let dir = match place {
        Place::Inode(ino) => *ino,
        Place::Path(path) => fs.directory_at(path.as_bytes())?,
    };
    match task {
        Task::Settings => settings(fs, dir).map(Answer::Settings),
        Task::Set(changes) => fs.change_settings(dir, changes).map(|()| Answer::Done),
        Task::List => list(fs, dir).map(Answer::Listing),
        Task::Seal => fs.seal(dir).map(|()| Answer::Done),
    }
}
