//! A subvolume from an ordinary directory: its rows are copied once, and no data moves.
//!
//! Keeps true: nobody sees the copy before all of it is there; a step of it is a member of one batch, and has no more
//! rows than a step of any other long change. Chunks get their new references through the barrier (I4).

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::meta::rows::{InodeRow, NameHash, PROTECTING};
use crate::meta::versions::subvolumes::{public_ino, subvolume_of};
use crate::sync::Arc;

use super::super::flush::Flush;
use super::super::rows::{Content, Rows, put_entry, put_xattr};
use super::super::{Fs, extents, posix};
use super::put_new;
use crate::meta::rows::DirentRow;

/// What a copy has done so far.
struct Copy {
    number: u64,
    /// The copies of inodes with several names, and how many of these were met.
    linked: HashMap<u64, (u64, u32)>,
    /// Directories to be read, and their copies.
    todo: Vec<(u64, u64)>,
}

impl Fs {
    /// Copies what an ordinary directory has to a new subvolume without a name.
    pub(super) fn copy_directory(self: &Arc<Self>, source: u64) -> Result<u64> {
        let row = self.inode(source)?.lock().row.clone();
        let root_row = InodeRow { nlink: 2, entries: 0, flags: row.flags & !PROTECTING, ..row };
        let number = self.new_subvolume(&root_row)?;
        let copied = self.copy_into(number, source);
        if copied.is_err() {
            self.drop_nameless(number)?;
        }
        copied.map(|()| number)
    }

    fn copy_into(self: &Arc<Self>, number: u64, source: u64) -> Result<()> {
        let root = self.layers().subvolumes.get(number).map(|subvolume| public_ino(number, subvolume.root));
        let root = root.ok_or(Error::Posix(libc::ENOENT))?;
        let mut copy = Copy { number, linked: HashMap::new(), todo: vec![(source, root)] };
        let member = self.join()?;
        self.copy_attributes(&member, source, root)?;
        drop(member);
        while let Some((from, to)) = copy.todo.pop() {
            self.copy_entries(&mut copy, from, to)?;
        }
        Ok(())
    }

    fn copy_entries(self: &Arc<Self>, copy: &mut Copy, from: u64, to: u64) -> Result<()> {
        let mut entries = Vec::new();
        Rows::at(&self.layers()).entries(from, NameHash::FIRST, |hash, name, entry| {
            entries.push((hash, name.to_vec(), entry));
            Ok(true)
        })?;
        let (mut count, mut directories) = (0, 0);
        for (hash, name, entry) in entries {
            if subvolume_of(entry.ino) > 0 {
                // A directory that contains subvolumes cannot be one.
                return posix(libc::EINVAL);
            }
            match self.copy_entry(copy, to, (hash, &name), entry) {
                // Removed meanwhile.
                Err(Error::Posix(libc::ENOENT)) => continue,
                other => other?,
            }
            count += 1;
            directories += u32::from(entry.kind == libc::S_IFDIR);
        }
        let member = self.join()?;
        let (layers, subvolumes) = (self.layers(), member.subvolumes());
        let row = Rows::of(&*layers, &subvolumes).inode(to)?.ok_or(Error::Posix(libc::ENOENT))?;
        let row = InodeRow { entries: count, nlink: 2 + directories, ..row };
        super::put_inode(&member, to, &row);
        Ok(())
    }

    fn copy_entry(
        self: &Arc<Self>,
        copy: &mut Copy,
        dir: u64,
        (hash, name): (u64, &[u8]),
        entry: DirentRow,
    ) -> Result<()> {
        self.claim_row()?;
        let source = self.inode(entry.ino)?;
        if let Some((ino, names)) = copy.linked.get_mut(&entry.ino) {
            *names += 1;
            let (ino, names) = (*ino, *names);
            let member = self.join()?;
            let (layers, subvolumes) = (self.layers(), member.subvolumes());
            let row = Rows::of(&*layers, &subvolumes).inode(ino)?.ok_or(Error::Posix(libc::ENOENT))?;
            super::put_inode(&member, ino, &InodeRow { nlink: names, ..row });
            put_entry(&member, (dir, hash, name), DirentRow { ino, kind: entry.kind });
            return Ok(());
        }
        self.flush(&source, Flush::Wanted)?;
        let state = source.lock_quiescent();
        let ino = public_ino(copy.number, self.store.new_ino()?);
        let is_dir = state.row.is_dir();
        let nlink = if is_dir { 2 } else { 1 };
        let parent = if is_dir { dir } else { 0 };
        let mut row = InodeRow { nlink, parent, entries: 0, ..state.row.clone() };
        // Staged bytes of writers that go on are not part of it.
        row.size = state.disk_size;
        self.copy_extents(entry.ino, &state.row, ino, &mut row)?;
        let member = self.join()?;
        self.copy_attributes(&member, entry.ino, ino)?;
        put_new(&member, dir, (hash, name), ino, &row);
        if is_dir {
            copy.todo.push((entry.ino, ino));
        } else if state.row.nlink > 1 {
            copy.linked.insert(entry.ino, (ino, 1));
        }
        Ok(())
    }

    /// Refers to the chunks of a file once more, by as many steps as that needs.
    fn copy_extents(&self, from: u64, old: &InodeRow, to: u64, row: &mut InodeRow) -> Result<()> {
        let (mut at, most) = (0, self.options.extents_per_step);
        loop {
            let member = self.join()?;
            let leaf = super::leaf_of(&member, to)?.ok_or(Error::Posix(libc::ENOENT))?;
            row.content = leaf.0;
            let own = Content::at(to, leaf);
            let of_old = Content::of(from, old);
            let (found, next) =
                extents::beginning_first(&self.layers(), of_old, (at, u64::MAX), Vec::new(), most)?;
            for extent in &found {
                self.copy_extent(&member, from, own, extent)?;
            }
            if next == u64::MAX {
                return Ok(());
            }
            at = next;
        }
    }

    fn copy_attributes(&self, member: &crate::store::Batch, from: u64, to: u64) -> Result<()> {
        let layers = self.layers();
        let rows = Rows::at(&layers);
        let mut names = Vec::new();
        rows.xattrs(from, |name| {
            names.push(name.to_vec());
            Ok(true)
        })?;
        for name in names {
            if let Some(value) = rows.xattr(from, &name)? {
                put_xattr(member, to, &name, &value);
            }
        }
        Ok(())
    }
}
