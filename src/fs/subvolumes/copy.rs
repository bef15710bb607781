//! A subvolume from an ordinary directory: its rows are copied once, and no data moves.
//!
//! Keeps true: nobody sees the copy before all of it is there; a step of it is a member of one batch, and has no more
//! rows than a step of any other long change. Chunks get their new references through the barrier (I4).

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::meta::Counter;
use crate::meta::rows::xattr::SETTING;
use crate::meta::rows::{DirentRow, Extent, InodeRow, NameHash, PROTECTING};
use crate::meta::versions::subvolumes::{public_ino, subvolume_of};
use crate::meta::versions::usage::counted;
use crate::store::{Batch, Member};
use crate::sync::Arc;

use super::super::acl::Inherited;
use super::super::flush::Flush;
use super::super::rows::{Content, Rows, leaf_of, put_entry, put_inode, put_xattr};
use super::super::{Fs, extents, posix};

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
        let number = self.new_subvolume(&root_row, &Inherited::default())?;
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
        let change = |row| InodeRow { entries: count, nlink: 2 + directories, ..row };
        self.change_row(&member, to, change).map(drop)
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
            self.change_row(&member, ino, |row| InodeRow { nlink: names, ..row })?;
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
        self.copy_file(entry.ino, &state.row, ino, &mut row)?;
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
    fn copy_file(&self, from: u64, old: &InodeRow, to: u64, row: &mut InodeRow) -> Result<()> {
        let mut at = 0;
        while at < u64::MAX {
            let member = self.join()?;
            let leaf = leaf_of(&member, to)?.ok_or(Error::Posix(libc::ENOENT))?;
            row.content = leaf.0;
            at = self.copy_extents(&member, (from, Content::of(from, old)), Content::at(to, leaf), at)?;
        }
        Ok(())
    }

    /// One step of a copy: refers to the chunks of some extents of `from`, those that begin at `at` and after it, once
    /// more, from the content `to`. Returns where to go on; `u64::MAX` after the last. This is a birth of references,
    /// and the barrier is asked as for any other (I4).
    pub(super) fn copy_extents(
        &self,
        member: &Member,
        (ino, from): (u64, Content),
        to: Content,
        at: u64,
    ) -> Result<u64> {
        let (layers, most) = (self.layers(), self.options.extents_per_step);
        let (found, next) = extents::beginning_first(&layers, from, (at, u64::MAX), Vec::new(), most)?;
        // A copy that a crash or an error cut off has left some: these are counted already.
        let (left, _) = extents::beginning_first(&layers, to, (at, u64::MAX), Vec::new(), 1)?;
        for extent in &found {
            let is_there = || layers.get(to.table, &to.key(extent.offset));
            if left.is_empty() || is_there()?.is_none() {
                self.copy_extent(member, ino, to, extent)?;
            }
        }
        Ok(next)
    }

    fn copy_extent(&self, member: &Member, ino: u64, to: Content, extent: &Extent) -> Result<()> {
        extents::ask_again(&self.store.collection.barrier, ino, extent)?;
        member.rows.put(to.table, &to.key(extent.offset), &extent.encode());
        member.rows.count(Counter::ReferencedBytes, extent.len as i64);
        Ok(())
    }

    fn copy_attributes(&self, member: &Batch, from: u64, to: u64) -> Result<()> {
        let layers = self.layers();
        let rows = Rows::at(&layers);
        let mut names = Vec::new();
        rows.xattrs(from, |name| {
            names.push(name.to_vec());
            Ok(true)
        })?;
        // Settings are of the directory that an administrator gave them to.
        for name in names.into_iter().filter(|name| !name.starts_with(SETTING)) {
            if let Some(value) = rows.xattr(from, &name)? {
                put_xattr(member, to, &name, &value);
            }
        }
        Ok(())
    }
}

/// Everything that goes with an entry in a directory of a subvolume that is being made.
fn put_new(batch: &Batch, dir: u64, (hash, name): (u64, &[u8]), ino: u64, row: &InodeRow) {
    put_inode(batch, ino, row);
    let (files, bytes) = counted(row);
    batch.usage.count(subvolume_of(ino), files, bytes, row.times.ctime);
    put_entry(batch, (dir, hash, name), DirentRow { ino, kind: row.kind() });
}
