//! The result of a check, for people and programs.

use serde::{Deserialize, Serialize};

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong, in one sentence.
    pub what: String,
    /// The affected files, as paths from the mount's root ([`names`](super::names)); at most 100, unless all were asked
    /// for.
    pub files: Vec<String>,
    /// How many files are affected in all.
    pub files_total: u64,
}

/// Files named in one line of the log.
const LOGGED: usize = 20;

impl Finding {
    /// A line in the log.
    pub(super) fn log(&self, of: &str) {
        let named = self.files.iter().take(LOGGED).map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.files_total {
            0 => tracing::error!("{of}: {}", self.what),
            total => tracing::error!("{of}: {}; {total} files: {named}", self.what),
        }
    }
}

/// Where a check resumed an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Regions below this chunk had been read.
    pub chunk: u64,
    /// Plain bytes that had been read.
    pub bytes: u64,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// True if all bytes were read, false for structure only.
    pub data: bool,
    /// Inodes looked at.
    pub inodes: u64,
    /// Directory entries looked at.
    pub dirents: u64,
    /// Extent rows looked at.
    pub extents: u64,
    /// Chunks looked at.
    pub chunks: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Metadata backups that are whole.
    #[serde(default)]
    pub backups: u64,
    /// Plain bytes read and compared with their digests.
    pub bytes_read: u64,
    /// Where it resumed an interrupted check, if it was asked to and there was one.
    #[serde(default)]
    pub resumed: Option<Resumed>,
    /// Why all data was read although it was asked to resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_anew: Option<String>,
    /// Chunks without references; the next cycle frees them. Not a fault.
    pub unreferenced_chunks: u64,
    /// Chunks in use that are not found by their digest. They can be read, but their bytes are stored again if they are
    /// written again. An interrupted cycle can leave such chunks. Not a fault.
    #[serde(default)]
    pub unfound_chunks: u64,
    /// Everything that is wrong. Empty means clean.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// A line in the log for each finding.
    pub fn log(&self) {
        self.findings.iter().for_each(|finding| finding.log("check"));
    }

    /// The files of all findings, each once, as the bytes of their paths from the mount's root; without inodes that
    /// have no path.
    pub fn damaged_files(&self) -> std::collections::BTreeSet<Vec<u8>> {
        let files = self.findings.iter().flat_map(|finding| &finding.files);
        files.filter(|file| *file != ".").filter_map(|file| super::names::bytes_of(file)).collect()
    }

    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}
