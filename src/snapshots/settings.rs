//! Settings with the paths of the directories that have them.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::Result;
use crate::fs::Fs;

/// A setting that counts for a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedSetting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The directory that has it, as a path from the mount's root.
    pub origin: String,
}

/// The settings that count for a directory.
pub fn settings(fs: &Fs, dir: u64) -> Result<Vec<OwnedSetting>> {
    let owned = fs.settings(dir)?.into_iter().map(|setting| {
        let origin = shown(&fs.path_of(setting.origin)?);
        Ok(OwnedSetting { name: setting.name, value: setting.value, origin })
    });
    owned.collect()
}

/// A name or a path in the form of reports, in which two of them never look alike.
pub(super) fn shown(bytes: &[u8]) -> String {
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').collect();
    check::shown(&parts)
}
