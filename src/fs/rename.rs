//! Renaming, also with NOREPLACE and EXCHANGE.
//!
//! Keeps true: both names change in one batch, so that after a crash either the old or the new state is there; a
//! directory never becomes its own ancestor, for which it moves with the tree lock held alone.

use crate::error::{Error, Result};
use crate::meta::rows::DirentRow;
use crate::store::Member;
use crate::sync::Arc;

use super::flush::Flush;
use super::inode::InodeState;
use super::locked::{Locked, Place};
use super::names::{is_root, may_add, may_remove};
use super::rows::{are_apart, put_entry};
use super::tree_lock::Tree;
use super::types::{LINK_MAX, RenameFlags, Timestamp};
use super::{Fs, check_name, posix};

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
        if are_apart(parent, newparent) {
            return posix(libc::EXDEV);
        }
        self.claim_row()?;
        self.store_before_replacing(parent, name, newparent, newname)?;
        let (from, to) = (Place { parent, name }, Place { parent: newparent, name: newname });
        if !self.rename_in(&self.tree.shared(), from, to, flags)? {
            self.rename_in(&self.tree.alone(), from, to, flags)?;
        }
        self.wait_for_sealed(newparent);
        Ok(())
    }

    /// False if a directory would move, and `tree` is not held alone.
    fn rename_in(&self, tree: &Tree<'_>, from: Place<'_>, to: Place<'_>, flags: RenameFlags) -> Result<bool> {
        let circle = self.refuse_circles(tree, from, to, flags.exchange);
        self.with_entries([from, to], |locked, [source, target]| {
            let source = source.ok_or(Error::Posix(libc::ENOENT))?;
            self.refuse_names(from.parent)?;
            self.refuse_names(to.parent)?;
            match target {
                Some(_) if flags.noreplace => return posix(libc::EEXIST),
                None if flags.exchange => return posix(libc::ENOENT),
                Some(target) if target.ino == source.ino => return Ok(true),
                _ => {}
            }
            let other = target.filter(|_| flags.exchange);
            if !tree.is_alone() && [Some(source), other].iter().flatten().any(is_directory) {
                return Ok(false);
            }
            circle?;
            match other {
                Some(other) => self.exchange(locked, (from, source), (to, other))?,
                None => self.move_entry(locked, (from, source), (to, target))?,
            }
            Ok(true)
        })
    }

    /// A program that renames a new file over an old one needs one of the two whole after a crash: the bytes of the new
    /// one go into a batch no later than its new name.
    fn store_before_replacing(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        to: u64,
        newname: &[u8],
    ) -> Result<()> {
        let layers = self.layers();
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

    fn move_entry(
        &self,
        locked: &mut Locked<'_>,
        (from, source): (Place<'_>, DirentRow),
        (to, target): (Place<'_>, Option<DirentRow>),
    ) -> Result<()> {
        may_add(locked.get(to.parent)?)?;
        let is_dir = locked.get(source.ino)?.row.is_dir();
        may_remove(locked.get(from.parent)?, locked.get(source.ino)?)?;
        if let Some(target) = target {
            let old = locked.get(target.ino)?;
            match (is_dir, old.row.is_dir()) {
                (true, false) => return posix(libc::ENOTDIR),
                (false, true) => return posix(libc::EISDIR),
                _ => {}
            }
            if old.row.is_dir() && old.row.entries > 0 {
                return posix(libc::ENOTEMPTY);
            }
            if are_apart(target.ino, to.parent) {
                // A subvolume ends by rmdir(2) alone.
                return posix(libc::ENOTEMPTY);
            }
            may_remove(locked.get(to.parent)?, old)?;
        } else if is_dir && from.parent != to.parent && locked.get(to.parent)?.row.nlink >= LINK_MAX {
            return posix(libc::EMLINK);
        }
        let now = Timestamp::now();
        let _held = self.hold_if_subvolume(are_apart(source.ino, from.parent));
        let member = self.join()?;
        if let Some(target) = target {
            let target_is_dir = locked.get(target.ino)?.row.is_dir();
            self.remove_entry(&member, to.parent, locked.get_mut(to.parent)?, to.name, target_is_dir, now)?;
            self.drop_name(&member, target.ino, locked.get_mut(target.ino)?, now)?;
        }
        self.remove_entry(&member, from.parent, locked.get_mut(from.parent)?, from.name, is_dir, now)?;
        self.add_entry(&member, to.parent, locked.get_mut(to.parent)?, to.name, source, now);
        let moved = locked.get_mut(source.ino)?;
        moved.row.times.ctime = now;
        self.note_moved(&member, source.ino, moved, to)?;
        moved.save(source.ino, &member);
        if are_apart(source.ino, to.parent) {
            self.subvolume_came(to.parent, &locked.get(to.parent)?.row, source.ino);
        }
        Ok(())
    }

    fn exchange(
        &self,
        locked: &mut Locked<'_>,
        (a, of_a): (Place<'_>, DirentRow),
        (b, of_b): (Place<'_>, DirentRow),
    ) -> Result<()> {
        may_remove(locked.get(a.parent)?, locked.get(of_a.ino)?)?;
        may_remove(locked.get(b.parent)?, locked.get(of_b.ino)?)?;
        let now = Timestamp::now();
        let is_one = are_apart(of_a.ino, a.parent) || are_apart(of_b.ino, b.parent);
        let _held = self.hold_if_subvolume(is_one);
        let member = self.join()?;
        for (side, entry, gone) in [(a, of_b, of_a), (b, of_a, of_b)] {
            put_entry(&member, (side.parent, self.hash.of(side.name), side.name), entry);
            let dir = locked.get_mut(side.parent)?;
            dir.row.nlink += u32::from(entry.kind == libc::S_IFDIR);
            dir.row.nlink = dir.row.nlink.saturating_sub(u32::from(gone.kind == libc::S_IFDIR));
            (dir.row.times.mtime, dir.row.times.ctime) = (now, now);
            dir.save(side.parent, &member);
        }
        for (entry, to) in [(of_a, b), (of_b, a)] {
            let state = locked.get_mut(entry.ino)?;
            state.row.times.ctime = now;
            self.note_moved(&member, entry.ino, state, to)?;
            state.save(entry.ino, &member);
        }
        Ok(())
    }

    fn note_moved(&self, member: &Member, ino: u64, state: &mut InodeState, to: Place<'_>) -> Result<()> {
        if !state.row.is_dir() {
            return Ok(());
        }
        if are_apart(ino, to.parent) {
            self.subvolume_moved(member, ino, to)?;
        }
        state.row.parent = to.parent;
        Ok(())
    }

    /// Refuses to move a directory below itself. Says nothing unless `tree` is held alone: then no entry changes, and
    /// no directory moves.
    fn refuse_circles(&self, tree: &Tree<'_>, from: Place<'_>, to: Place<'_>, exchange: bool) -> Result<()> {
        if !tree.is_alone() {
            return Ok(());
        }
        self.refuse_circle(from, to.parent)?;
        if exchange { self.refuse_circle(to, from.parent) } else { Ok(()) }
    }

    fn refuse_circle(&self, moved: Place<'_>, into: u64) -> Result<()> {
        let entry = self.entry(&self.layers(), moved.parent, moved.name)?;
        let Some(moved) = entry.filter(is_directory) else {
            return Ok(());
        };
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
}

fn is_directory(entry: &DirentRow) -> bool {
    entry.kind == libc::S_IFDIR
}
