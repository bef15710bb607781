//! Reading directories.
//!
//! Keeps true: a cookie is the hash of a name, so it stays valid while other entries are added and removed. An entry
//! that exists throughout the read is returned exactly once.

use crate::error::Result;
use crate::meta::rows::{DirentRow, NameHash};

use super::rows::Rows;
use super::types::{Attr, DirEntry};
use super::{Fs, posix};

/// Rows fetched at a time.
const STEP: usize = 128;
/// The cookie after ".".
const AFTER_SELF: u64 = 1;
/// The cookie after "..".
const AFTER_PARENT: u64 = 2;

struct Found {
    hash: u64,
    name: Vec<u8>,
    row: DirentRow,
}

impl Fs {
    /// Passes the entries after `cookie` (0: from the start) to `add`, until that returns that there is no room.
    pub fn readdir(&self, ino: u64, cookie: u64, add: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let inode = self.inode(ino)?;
        let (is_dir, parent) = {
            let state = inode.lock();
            (state.row.is_dir(), state.row.parent)
        };
        if !is_dir {
            return posix(libc::ENOTDIR);
        }
        let dots: [(u64, u64, &[u8]); 2] = [(AFTER_SELF, ino, b"."), (AFTER_PARENT, parent, b"..")];
        for (next, ino, name) in dots {
            let entry = DirEntry { ino, cookie: next, mode: libc::S_IFDIR, name };
            if cookie < next && !add(&entry) {
                return Ok(());
            }
        }
        let mut from = if cookie < NameHash::FIRST { NameHash::FIRST } else { cookie.saturating_add(1) };
        loop {
            let found = self.entries_from(ino, from)?;
            // The last entry is held back while another one with the same hash may follow.
            let complete = found.len() < STEP;
            for (index, entry) in found.iter().enumerate() {
                let next = found.get(index + 1);
                if next.is_none() && !complete && index > 0 {
                    break;
                }
                let shared = next.is_some_and(|next| next.hash == entry.hash);
                // If the reader stops between names with the same hash, all of them come again.
                let cookie = if shared { entry.hash - 1 } else { entry.hash };
                let given = DirEntry { ino: entry.row.ino, cookie, mode: entry.row.kind, name: &entry.name };
                if !add(&given) {
                    return Ok(());
                }
                from = entry.hash + 1;
            }
            if complete {
                return Ok(());
            }
        }
    }

    fn entries_from(&self, ino: u64, hash: u64) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        Rows::at(&self.layers()).entries(ino, hash, |hash, name, row| {
            found.push(Found { hash, name: name.to_vec(), row });
            Ok(found.len() < STEP)
        })?;
        Ok(found)
    }

    /// As [`Self::readdir`], with attributes. The kernel gets a reference to each inode whose entry was added with
    /// attributes.
    pub fn readdirplus(
        &self,
        ino: u64,
        cookie: u64,
        add: &mut dyn FnMut(&DirEntry<'_>, Option<&Attr>) -> bool,
    ) -> Result<()> {
        let mut failed = None;
        self.readdir(ino, cookie, &mut |entry| {
            if entry.name == b"." || entry.name == b".." {
                return add(entry, None);
            }
            let inode = match self.inode(entry.ino) {
                Ok(inode) => inode,
                // Removed since the rows were read.
                Err(error) if error.errno() == libc::ENOENT => return true,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            // Held until the kernel remembers it: it would not be gone before.
            let state = inode.lock();
            if state.is_nameless() {
                return true;
            }
            let added = add(entry, Some(&state.attr(entry.ino)));
            if added {
                self.inodes.remember(entry.ino);
            }
            added
        })?;
        failed.map_or(Ok(()), Err)
    }
}
