//! Renaming, also with NOREPLACE and EXCHANGE.
//!
//! Keeps true: both names change in one batch, so that after a crash either the old or the new state is there; a
//! directory never becomes its own ancestor.

use crate::error::{Error, Result};
use crate::meta::rows::{DirentRow, dirent_key};
use crate::meta::{Memtable, Table};
use crate::sync::Arc;

use super::flush::Flush;
use super::inode::{Inode, InodeState};
use super::names::{is_root, may_add, may_remove};
use super::types::{LINK_MAX, RenameFlags, Timestamp};
use super::{Fs, check_name, posix};

/// One side of a rename.
struct Side<'a> {
    parent: u64,
    name: &'a [u8],
}

impl Fs {
    /// Renames `name` in `parent` to `newname` in `newparent`.
    pub fn rename(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        newparent: u64,
        newname: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.noreplace && flags.exchange {
            return posix(libc::EINVAL);
        }
        if [name, newname].iter().any(|name| *name == b"." || *name == b"..") {
            return posix(libc::EBUSY);
        }
        check_name(newname)?;
        self.claim_row()?;
        self.store_before_replacing(parent, name, newparent, newname)?;
        let names = self.names.lock();
        let layers = self.now();
        let source = self.entry(&layers, parent, name)?.ok_or(Error::Posix(libc::ENOENT))?;
        let target = self.entry(&layers, newparent, newname)?;
        self.refuse_held(&names, &[parent, newparent])?;
        let (from, to) = (Side { parent, name }, Side { parent: newparent, name: newname });
        match target {
            Some(_) if flags.noreplace => posix(libc::EEXIST),
            None if flags.exchange => posix(libc::ENOENT),
            Some(target) if target.ino == source.ino => Ok(()),
            Some(target) if flags.exchange => self.exchange(&from, source, &to, target),
            target => self.move_entry(&from, source, &to, target),
        }
    }

    /// Who writes a new file and renames it over the old one wants one of the two whole after a crash: the new one's
    /// bytes go into a batch no later than the new name.
    fn store_before_replacing(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        to: u64,
        newname: &[u8],
    ) -> Result<()> {
        let layers = self.now();
        if self.entry(&layers, to, newname)?.is_none() {
            return Ok(());
        }
        match self.entry(&layers, parent, name)? {
            Some(source) if source.kind == libc::S_IFREG => {
                self.flush(&self.inode(source.ino)?, Flush::Wanted)
            }
            _ => Ok(()),
        }
    }

    fn move_entry(&self, from: &Side, source: DirentRow, to: &Side, target: Option<DirentRow>) -> Result<()> {
        self.check_loop(source, to.parent)?;
        let mut numbers = vec![from.parent, to.parent, source.ino];
        numbers.extend(target.map(|target| target.ino));
        let inodes = self.inodes_of(&numbers)?;
        let mut locked = Locked::new(&inodes);
        may_add(locked.see(to.parent)?)?;
        let is_dir = locked.see(source.ino)?.row.is_dir();
        may_remove(locked.see(from.parent)?, locked.see(source.ino)?)?;
        if let Some(target) = target {
            let old = locked.see(target.ino)?;
            match (is_dir, old.row.is_dir()) {
                (true, false) => return posix(libc::ENOTDIR),
                (false, true) => return posix(libc::EISDIR),
                _ => {}
            }
            if old.row.is_dir() && old.row.entries > 0 {
                return posix(libc::ENOTEMPTY);
            }
            may_remove(locked.see(to.parent)?, old)?;
        } else if is_dir && from.parent != to.parent && locked.see(to.parent)?.row.nlink >= LINK_MAX {
            return posix(libc::EMLINK);
        }
        let now = Timestamp::now();
        let member = self.join()?;
        if let Some(target) = target {
            let target_is_dir = locked.see(target.ino)?.row.is_dir();
            self.remove_entry(&member, to.parent, locked.at(to.parent)?, to.name, target_is_dir, now);
            self.drop_name(&member, target.ino, locked.at(target.ino)?, to.parent, now)?;
        }
        self.remove_entry(&member, from.parent, locked.at(from.parent)?, from.name, is_dir, now);
        self.add_entry(&member, to.parent, locked.at(to.parent)?, to.name, source, now);
        self.directory_came(locked.see(to.parent)?, is_dir);
        let moved = locked.at(source.ino)?;
        moved.row.ctime = now;
        self.note_moved(&member.rows, source.ino, moved, (from.parent, to.parent))?;
        moved.save(source.ino, &member.rows);
        Ok(())
    }

    fn exchange(&self, a: &Side, of_a: DirentRow, b: &Side, of_b: DirentRow) -> Result<()> {
        self.check_loop(of_a, b.parent)?;
        self.check_loop(of_b, a.parent)?;
        let inodes = self.inodes_of(&[a.parent, b.parent, of_a.ino, of_b.ino])?;
        let mut locked = Locked::new(&inodes);
        may_remove(locked.see(a.parent)?, locked.see(of_a.ino)?)?;
        may_remove(locked.see(b.parent)?, locked.see(of_b.ino)?)?;
        let now = Timestamp::now();
        let member = self.join()?;
        for (side, entry, gone) in [(a, of_b, of_a), (b, of_a, of_b)] {
            let key = dirent_key(side.parent, self.hash.of(side.name), side.name);
            member.rows.put(Table::Dirents, &key, &entry.encode());
            let dir = locked.at(side.parent)?;
            dir.row.nlink += u32::from(entry.kind == libc::S_IFDIR);
            dir.row.nlink = dir.row.nlink.saturating_sub(u32::from(gone.kind == libc::S_IFDIR));
            (dir.row.mtime, dir.row.ctime) = (now, now);
            dir.save(side.parent, &member.rows);
        }
        for (entry, from, to) in [(of_a, a.parent, b.parent), (of_b, b.parent, a.parent)] {
            let state = locked.at(entry.ino)?;
            state.row.ctime = now;
            self.note_moved(&member.rows, entry.ino, state, (from, to))?;
            state.save(entry.ino, &member.rows);
        }
        Ok(())
    }

    fn note_moved(
        &self,
        rows: &Memtable,
        ino: u64,
        state: &mut InodeState,
        (from, to): (u64, u64),
    ) -> Result<()> {
        if !state.row.is_dir() {
            return self.note_name_moved(rows, ino, state, (from, to));
        }
        state.row.parent = to;
        self.directory_moved();
        Ok(())
    }

    /// Refuses to move a directory below itself.
    fn check_loop(&self, moved: DirentRow, into: u64) -> Result<()> {
        if moved.kind != libc::S_IFDIR {
            return Ok(());
        }
        let mut at = into;
        loop {
            if at == moved.ino {
                return posix(libc::EINVAL);
            }
            if is_root(at) {
                return Ok(());
            }
            let up = self.inode(at)?.lock().row.parent;
            if up == at {
                return Err(Error::damaged(format!("directory {at} is its own parent")));
            }
            at = up;
        }
    }

    fn inodes_of(&self, numbers: &[u64]) -> Result<Vec<Arc<Inode>>> {
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|ino| self.inode(ino)).collect()
    }
}

/// Several inodes, locked in the order of their numbers.
struct Locked<'a> {
    states: Vec<(u64, crate::sync::MutexGuard<'a, InodeState>)>,
}

impl<'a> Locked<'a> {
    /// `inodes` rise.
    fn new(inodes: &'a [Arc<Inode>]) -> Self {
        Self { states: inodes.iter().map(|inode| (inode.ino, inode.lock())).collect() }
    }

    fn see(&self, ino: u64) -> Result<&InodeState> {
        let found = self.states.iter().find(|(number, _)| *number == ino);
        found.map(|(_, state)| &**state).ok_or_else(|| Error::damaged(format!("inode {ino} was not locked")))
    }

    fn at(&mut self, ino: u64) -> Result<&mut InodeState> {
        let found = self.states.iter_mut().find(|(number, _)| *number == ino);
        found
            .map(|(_, state)| &mut **state)
            .ok_or_else(|| Error::damaged(format!("inode {ino} was not locked")))
    }
}
