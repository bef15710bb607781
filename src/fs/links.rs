//! In which directories an inode has its names.
//!
//! Keeps true: the row of a directory, or of an inode with one name, has its parent. An inode with several names has a
//! row for each directory with the number of its names there, written in the batch that changes the names. So the
//! parents of any inode are known without searching for its names, also after a restart. In a subvolume, where its root
//! alone can protect something, that root stands for the directories of all files.
//!
//! Older rows do not have this information; then [`Fs::parents`] says that the parents are not known.

use std::ops::Bound;

use crate::error::Result;
use crate::meta::rows::{decode_extent_key, extent_key, id_key, link_count, link_row};
use crate::meta::versions::subvolumes::subvolume_of;
use crate::meta::{Memtable, Table};

use super::Fs;
use super::inode::InodeState;

impl Fs {
    /// Notes one more name in `parent`, of anything but a directory. `nlink` does not include it yet.
    pub(super) fn note_name(
        &self,
        rows: &Memtable,
        ino: u64,
        state: &mut InodeState,
        parent: u64,
    ) -> Result<()> {
        if subvolume_of(ino) > 0 {
            return Ok(());
        }
        if state.row.nlink == 1 {
            let first = std::mem::take(&mut state.row.parent);
            if first == 0 {
                return Ok(());
            }
            rows.put(Table::Links, &extent_key(ino, first), &link_row(1));
        } else if !self.has_links(ino)? {
            return Ok(());
        }
        let count = self.links_in(ino, parent)?;
        rows.put(Table::Links, &extent_key(ino, parent), &link_row(count + 1));
        Ok(())
    }

    /// Notes that a name in `parent` is removed. `nlink` still includes it.
    pub(super) fn note_name_gone(
        &self,
        rows: &Memtable,
        ino: u64,
        state: &mut InodeState,
        parent: u64,
    ) -> Result<()> {
        if state.row.nlink < 2 || subvolume_of(ino) > 0 {
            return Ok(());
        }
        let key = extent_key(ino, parent);
        match self.links_in(ino, parent)? {
            0 => return Ok(()),
            1 => rows.delete(Table::Links, &key),
            count => rows.put(Table::Links, &key, &link_row(count - 1)),
        }
        if state.row.nlink == 2 {
            // The parent of the last name goes back into the inode's own row.
            for (directory, _) in self.links(ino)? {
                rows.delete(Table::Links, &extent_key(ino, directory));
                state.row.parent = directory;
            }
        }
        Ok(())
    }

    /// Notes that a name of anything but a directory moves from one directory to another.
    pub(super) fn note_name_moved(
        &self,
        rows: &Memtable,
        ino: u64,
        state: &mut InodeState,
        (from, to): (u64, u64),
    ) -> Result<()> {
        if state.row.nlink == 1 {
            state.row.parent = to;
            return Ok(());
        }
        if from == to || subvolume_of(ino) > 0 {
            return Ok(());
        }
        let (left, there) = (self.links_in(ino, from)?, self.links_in(ino, to)?);
        match left {
            0 => return Ok(()),
            1 => rows.delete(Table::Links, &extent_key(ino, from)),
            count => rows.put(Table::Links, &extent_key(ino, from), &link_row(count - 1)),
        }
        rows.put(Table::Links, &extent_key(ino, to), &link_row(there + 1));
        Ok(())
    }

    /// The directories in which a locked inode has names; `None` if that is not known.
    pub(super) fn parents(&self, ino: u64, state: &InodeState) -> Result<Option<Vec<u64>>> {
        let row = &state.row;
        if row.nlink == 0 {
            return Ok(Some(Vec::new()));
        }
        if let (true, Some(root)) = (!row.is_dir(), self.root_of(ino)) {
            return Ok(Some(vec![root]));
        }
        if row.is_dir() || row.nlink == 1 {
            return Ok((row.parent != 0).then(|| vec![row.parent]));
        }
        let links = self.links(ino)?;
        let known: u64 = links.iter().map(|(_, count)| count).sum();
        let directories = links.into_iter().map(|(directory, _)| directory).collect();
        Ok((known == u64::from(row.nlink)).then_some(directories))
    }

    fn links_in(&self, ino: u64, directory: u64) -> Result<u64> {
        let row = self.layers().get(Table::Links, &extent_key(ino, directory))?;
        row.map_or(Ok(0), |row| link_count(&row))
    }

    fn has_links(&self, ino: u64) -> Result<bool> {
        let mut found = false;
        let (from, to) = (id_key(ino), id_key(ino + 1));
        self.layers().scan(Table::Links, Bound::Included(&from), Bound::Excluded(&to), |_, _| {
            found = true;
            Ok(false)
        })?;
        Ok(found)
    }

    fn links(&self, ino: u64) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        let (from, to) = (id_key(ino), id_key(ino + 1));
        self.layers().scan(Table::Links, Bound::Included(&from), Bound::Excluded(&to), |key, row| {
            found.push((decode_extent_key(key)?.1, link_count(row)?));
            Ok(true)
        })?;
        Ok(found)
    }
}
