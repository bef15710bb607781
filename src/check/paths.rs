//! The files that a finding affects, as paths from the mount's root.
//!
//! They are looked up only if something was found: in one pass over the extents if chunks are affected, and one pass
//! over the names. The latter keeps the name of every directory and of each affected inode, about 100 bytes a
//! directory.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::meta::Table;
use crate::meta::rows::{DirentRow, Extent, ROOT_INO, decode_extent_key, dirent_name, ino_of};

use super::Finding;
use super::findings::{Affected, Findings, Pending};
use super::names::{shown_name, without_path};
use super::rows::Rows;
use super::run::CheckRun;

/// No directory is deeper than this; beyond it there is a cycle.
const MAX_DEPTH: usize = 4096;

/// Names the files of all findings.
pub(super) fn resolve(run: &mut CheckRun<'_>, findings: Findings) -> Result<Vec<Finding>> {
    let mut pending = findings.finish();
    if pending.is_empty() {
        return Ok(Vec::new());
    }
    find_referring(run, &mut pending)?;
    let names = Names::read(run, &pending)?;
    Ok(pending.into_iter().map(|pending| names.finding(pending)).collect())
}

/// Adds the inodes that refer to the affected chunks.
fn find_referring(run: &mut CheckRun<'_>, pending: &mut [Pending]) -> Result<()> {
    let all = Affected::chunks(pending.iter().flat_map(|pending| pending.affected.chunks.iter().copied()));
    if all.chunks.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::open(run, Table::Extents);
    while let Some((key, value)) = rows.next(run)? {
        let decoded = value.and_then(|value| {
            let (ino, offset) = decode_extent_key(&key)?;
            Ok((ino, Extent::decode(offset, &value)?))
        });
        let Ok((ino, extent)) = decoded else { continue };
        let (first, end) = (extent.first.0, extent.first.0 + extent.lens.len() as u64);
        if !all.has_chunk(first, end) {
            continue;
        }
        for pending in pending.iter_mut() {
            if pending.affected.has_chunk(first, end) {
                pending.affected.inodes.insert(ino);
            }
        }
    }
    Ok(())
}

/// Where the affected inodes are in the tree.
struct Names {
    /// Parent and name of each directory and of each affected inode; of several names, the first.
    of: HashMap<u64, (u64, Box<[u8]>)>,
    /// Paths that are reported for one finding.
    named: usize,
}

impl Names {
    fn read(run: &mut CheckRun<'_>, pending: &[Pending]) -> Result<Self> {
        let listed = pending.iter().flat_map(|pending| pending.affected.inodes.iter().take(run.named()));
        let wanted: HashSet<u64> = listed.copied().collect();
        let (mut of, named) = (HashMap::new(), run.named());
        let is_needed =
            !wanted.is_empty() || pending.iter().any(|pending| !pending.affected.names.is_empty());
        if !is_needed {
            return Ok(Self { of, named });
        }
        let mut rows = Rows::open(run, Table::Dirents);
        while let Some((key, value)) = rows.next(run)? {
            let Ok(entry) = value.and_then(|value| DirentRow::decode(&value)) else { continue };
            let (Ok(dir), Ok((_, name))) = (ino_of(&key), dirent_name(&key)) else { continue };
            if entry.kind == libc::S_IFDIR || wanted.contains(&entry.ino) {
                of.entry(entry.ino).or_insert_with(|| (dir, name.into()));
            }
        }
        Ok(Self { of, named })
    }

    fn finding(&self, pending: Pending) -> Finding {
        let Pending { what, affected } = pending;
        let files_total = (affected.inodes.len() + affected.names.len()) as u64 + affected.more_names;
        let inodes = affected.inodes.iter().take(self.named).map(|ino| self.path(*ino, None));
        let names = affected.names.iter().map(|(dir, name)| self.path(*dir, Some(name)));
        let mut files: Vec<String> = inodes.chain(names).take(self.named).collect();
        files.sort_unstable();
        Finding { what, files, files_total }
    }

    /// The path of an inode, or of a name in it.
    fn path(&self, mut ino: u64, name: Option<&[u8]>) -> String {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(name.map(shown_name));
        while ino != ROOT_INO {
            match self.of.get(&ino).filter(|_| parts.len() < MAX_DEPTH) {
                Some((dir, name)) => {
                    parts.push(shown_name(name));
                    ino = *dir;
                }
                None => {
                    parts.push(without_path(ino));
                    break;
                }
            }
        }
        if parts.is_empty() {
            return ".".to_owned();
        }
        parts.reverse();
        parts.join("/")
    }
}
