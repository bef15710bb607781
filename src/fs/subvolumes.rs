//! Subvolumes: cloned at once, dropped at once, reaped in the background.
//!
//! Keeps true: a clone is a cut, as the flip of a cycle is: leaves change only in the moment in which one batch takes
//! the place of the other, and the rows that say so are in the new batch. The clone is seen once the old batch has
//! drained. What was written before it was asked for is in it. A subvolume without a name is dropped at the latest by
//! the next opening. What is dropped is reaped when that is durable, when the kernel remembers no inode of it, and when
//! the batch that was open at the last FORGET is durable, too.
//!
//! mkdir(2) makes a clone and rmdir(2) drops one, so that the kernel asks whether the caller may, and learns what
//! happened; whoever wants that says so before ([`Fs::wish_clone`], [`Fs::allow_drop`]).

mod copy;
pub(super) mod dropped;
pub(super) mod known;
mod reap;
pub(super) mod wishes;

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::rows::{
    DirentRow, IMMUTABLE, InodeRow, NameHash, PROTECTING, SubvolumeRow, Times, id_key, ino_of,
};
use crate::meta::versions::subvolumes::{
    self, LOCAL_LIMIT, public_ino, put_row, put_version, split_ino, subvolume_of,
};
use crate::meta::versions::{Subvolume, Subvolumes, Version};
use crate::meta::{Counter, Table};
use crate::sabotage::{Protection, out};
use crate::store::{Batch, Member};
use crate::sync::{Arc, MutexGuard};

use super::acl::Inherited;
use super::inode::InodeState;
use super::locked::Place;
use super::names::may_add;
use super::rows::{Content, Rows, are_apart, leaf_of, put_inode};
use super::types::{Attr, Caller, LINK_MAX, Timestamp};
use super::{Fs, check_name, posix};

use wishes::{Source, Wish};

impl Fs {
    /// The root of the subvolume of an inode; `None` outside all of them.
    pub fn root_of(&self, ino: u64) -> Option<u64> {
        match subvolume_of(ino) {
            0 => None,
            number => {
                let found = self.layers().subvolumes.get(number);
                found.map(|subvolume| public_ino(number, subvolume.root))
            }
        }
    }

    /// Is an inode the root of a subvolume?
    pub(super) fn is_subvolume(&self, ino: u64) -> bool {
        self.root_of(ino) == Some(ino)
    }

    /// Refuses names in a subvolume that was dropped.
    pub(super) fn refuse_dropped(&self, ino: u64) -> Result<()> {
        if self.dropped.has(subvolume_of(ino)) { posix(libc::ENOENT) } else { Ok(()) }
    }

    /// The subvolume was dropped, and perhaps reaped since. Asks for nothing more while none was since the opening.
    pub(super) fn is_dropped_or_gone(&self, number: u64) -> bool {
        // In this order: it is taken out of the layers before it is dropped no more.
        number > 0
            && self.dropped.is_any()
            && (self.dropped.has(number) || self.layers().subvolumes.get(number).is_none())
    }

    /// Joins the open batch to change the content of a file. In a subvolume, the extents of a content that clones see,
    /// too, are copied first, by as many steps as they need.
    pub(super) fn join_to_change(&self, ino: u64, state: &mut InodeState) -> Result<Member> {
        loop {
            let member = self.join()?;
            match leaf_of(&member, ino)? {
                Some(leaf) if leaf.0 != state.row.content => {
                    if self.copy_content(&member, ino, state, leaf)? {
                        return Ok(member);
                    }
                }
                _ => return Ok(member),
            }
        }
    }

    /// Copies some extents of a file to `leaf`; true once all of them are there, and its row says so.
    fn copy_content(&self, member: &Member, ino: u64, state: &mut InodeState, leaf: Version) -> Result<bool> {
        let from = state.copied.filter(|(to, _)| *to == leaf).map_or(0, |(_, from)| from);
        let (old, own) = (Content::of(ino, &state.row), Content::at(ino, leaf));
        let next = self.copy_extents(member, (ino, old), own, from)?;
        state.copied = Some((leaf, next));
        if next < u64::MAX {
            return Ok(false);
        }
        state.copied = None;
        state.row.content = leaf.0;
        state.save(ino, member);
        Ok(true)
    }

    /// The next mkdir(2) of `name` in `parent` by this caller makes a clone of the directory `source`: of a subvolume
    /// if it is the root of one, of an ordinary directory otherwise. Only its owner may, and root: a clone has the
    /// owners and modes of everything in it. Whoever calls this has made sure that the caller can reach `source`.
    pub fn wish_clone(&self, parent: u64, name: &[u8], source: u64, caller: Caller) -> Result<()> {
        self.wish(Place { parent, name }, Source { ino: source, read_only: false }, caller)
    }

    /// The same for a clone that is protected from the moment it has its name. Root alone may, as with chattr(1).
    pub fn wish_read_only(&self, parent: u64, name: &[u8], source: u64, caller: Caller) -> Result<()> {
        if caller.uid != 0 {
            return posix(libc::EPERM);
        }
        self.wish(Place { parent, name }, Source { ino: source, read_only: true }, caller)
    }

    fn wish(&self, Place { parent, name }: Place<'_>, source: Source, caller: Caller) -> Result<()> {
        check_name(name)?;
        if subvolume_of(parent) > 0 || self.root_of(source.ino).is_some_and(|root| root != source.ino) {
            // Subvolumes are not nested, and what is cloned is the whole of one.
            return posix(libc::EINVAL);
        }
        self.may_clone(source.ino, caller)?;
        self.wishes.wish(Wish { parent, name: name.to_vec(), uid: caller.uid }, source);
        Ok(())
    }

    /// The next mkdir(2) of that name makes a directory like any other.
    pub fn forget_wish(&self, parent: u64, name: &[u8], caller: Caller) {
        self.wished(Place { parent, name }, caller);
    }

    fn may_clone(&self, source: u64, caller: Caller) -> Result<()> {
        if subvolume_of(source) > 0 {
            // One that is being made is in no memory yet.
            let row = subvolumes::row(&*self.layers(), subvolume_of(source))?;
            if row.is_none_or(|row| row.name.is_empty()) {
                return posix(libc::ENOENT);
            }
        }
        let inode = self.inode(source)?;
        let state = inode.lock();
        if !state.row.is_dir() {
            return posix(libc::ENOTDIR);
        }
        if caller.uid != 0 && caller.uid != state.row.uid {
            return posix(libc::EPERM);
        }
        Ok(())
    }

    /// The source of a clone that was wished for at a place.
    pub(super) fn wished(&self, place: Place<'_>, caller: Caller) -> Option<Source> {
        let Place { parent, name } = place;
        self.wishes.take_wish(|| Wish { parent, name: name.to_vec(), uid: caller.uid })
    }

    /// Makes a clone at a place.
    pub(super) fn make_clone(
        self: &Arc<Self>,
        Source { ino: source, read_only }: Source,
        place: Place<'_>,
        caller: Caller,
    ) -> Result<Attr> {
        // The owner may have changed since the wish.
        self.may_clone(source, caller)?;
        may_add(&self.inode(place.parent)?.lock())?;
        if self.entry(&self.layers(), place.parent, place.name)?.is_some() {
            return posix(libc::EEXIST);
        }
        self.claim_row()?;
        // What was written so far is to be in it.
        self.sync()?;
        let number = match subvolume_of(source) {
            0 => self.copy_directory(source)?,
            number => self.clone_subvolume(number)?,
        };
        self.name_or_drop(number, place, read_only)
    }

    /// Gives a new subvolume its name, durably; if that cannot be, it is dropped.
    pub(super) fn name_or_drop(&self, number: u64, place: Place<'_>, read_only: bool) -> Result<Attr> {
        let named = self.name_subvolume(number, place, read_only);
        if named.is_err() {
            // Nobody can reach it.
            self.drop_nameless(number)?;
        }
        let attr = named?;
        self.wait_for_sealed(place.parent);
        self.store.commits.commit()?;
        Ok(attr)
    }

    /// Makes a clone without a name.
    fn clone_subvolume(&self, source: u64) -> Result<u64> {
        let _changing = self.hold_subvolumes();
        if self.dropped.has(source) {
            return posix(libc::ENOENT);
        }
        let (layers, number) = (self.layers(), self.store.new_subvolume()?);
        let missing = || subvolumes::missing(source);
        let row = subvolumes::row(&*layers, source)?.ok_or_else(missing)?;
        let old = layers.subvolumes.get(source).ok_or_else(missing)?.leaf;
        let mut nameless = self.orphans_of(source)?;
        let (moved, leaf) = (self.store.new_version(), self.store.new_version());
        let next = layers.subvolumes.with_clone(source, number, (moved, leaf))?;
        let (born, name) = (Timestamp::now(), Vec::new());
        let (sealed, protected) = (None, false);
        let of_clone = SubvolumeRow { leaf, parent: 0, protected, source, born, sealed, name, ..row.clone() };
        self.at_swap(next, |batch| {
            for version in [moved, leaf] {
                put_version(&batch.rows, version, Some(old));
            }
            put_row(&batch.rows, source, &SubvolumeRow { leaf: moved, ..row });
            put_row(&batch.rows, number, &of_clone);
            batch.usage.begin(number, born, Some(source));
        })?;
        nameless.extend(self.orphans_of(source)?);
        self.disown(number, &nameless)?;
        Ok(number)
    }

    /// The inodes without a name in a subvolume, by their numbers in it.
    fn orphans_of(&self, number: u64) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        let (from, to) = (id_key(public_ino(number, 0)), id_key(public_ino(number, LOCAL_LIMIT - 1)));
        let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        self.layers().scan(Table::Orphans, range.0, range.1, |key, _| {
            found.insert(split_ino(ino_of(key)?).1);
            Ok(true)
        })?;
        Ok(found)
    }

    /// Queues for removal what had no name in the source of a clone: nobody can open it in the clone, which would keep
    /// it for as long as it lives.
    fn disown(&self, number: u64, nameless: &BTreeSet<u64>) -> Result<()> {
        let nameless: Vec<u64> = nameless.iter().map(|local| public_ino(number, *local)).collect();
        for some in nameless.chunks(self.options.extents_per_step.max(1)) {
            let member = self.join()?;
            let (layers, subvolumes) = (self.layers(), member.subvolumes());
            for &ino in some {
                let row = Rows::of(&*layers, &subvolumes).inode(ino)?;
                if row.is_some_and(|row| row.nlink == 0) {
                    member.rows.put(Table::Orphans, &id_key(ino), &[]);
                    member.rows.count(Counter::Orphans, 1);
                }
            }
        }
        Ok(())
    }

    /// Makes an empty subvolume without a name, whose root has this row.
    pub(super) fn new_subvolume(&self, root_row: &InodeRow, inherited: &Inherited) -> Result<u64> {
        let _changing = self.hold_subvolumes();
        let (layers, number) = (self.layers(), self.store.new_subvolume()?);
        let (leaf, root) = (self.store.new_version(), self.store.new_ino()?);
        let next = layers.subvolumes.with_new(number, Subvolume { leaf, root })?;
        let (born, name) = (Timestamp::now(), Vec::new());
        let (dropped, protected, sealed) = (false, false, None);
        let row = SubvolumeRow { leaf, root, parent: 0, dropped, protected, source: 0, born, sealed, name };
        self.at_swap(next, |batch| {
            put_version(&batch.rows, leaf, None);
            put_row(&batch.rows, number, &row);
            put_inode(batch, public_ino(number, root), root_row);
            inherited.save(public_ino(number, root), batch);
            batch.usage.begin(number, born, None);
        })?;
        Ok(number)
    }

    /// Lets the next batch begin with these subvolumes and rows; returns once the batch before it has drained and is
    /// durable. Whoever calls holds the subvolumes, so that nobody else changes them meanwhile.
    fn at_swap(&self, next: Subvolumes, write: impl FnOnce(&Batch)) -> Result<()> {
        let begin = |batch: &Batch| {
            batch.begin_with(next);
            write(batch);
        };
        self.store.commits.cut_with(begin)
    }

    /// Excludes drops and moves; taken out, a clone may overlook one.
    pub(super) fn hold_subvolumes(&self) -> Option<MutexGuard<'_, ()>> {
        (!out(Protection::SubvolumeLock)).then(|| self.dropped.change())
    }

    /// The same for whoever drops or moves what `apart` says are subvolumes, before joining a batch.
    pub(super) fn hold_if_subvolume(&self, is_one: bool) -> Option<MutexGuard<'_, ()>> {
        if is_one { self.hold_subvolumes() } else { None }
    }

    /// Gives a subvolume its name.
    fn name_subvolume(
        &self,
        number: u64,
        Place { parent, name }: Place<'_>,
        protected: bool,
    ) -> Result<Attr> {
        let _tree = self.tree.shared();
        let directory = self.inode(parent)?;
        let mut dir = directory.lock();
        may_add(&dir)?;
        if self.entry(&self.layers(), parent, name)?.is_some() {
            return posix(libc::EEXIST);
        }
        if dir.row.nlink >= LINK_MAX {
            return posix(libc::EMLINK);
        }
        // A clone of this one, by its number, would move it meanwhile.
        let held = self.hold_subvolumes();
        let member = self.join()?;
        let (layers, now) = (self.layers(), Timestamp::now());
        let row = subvolumes::row(&*layers, number)?.ok_or_else(|| subvolumes::missing(number))?;
        let ino = public_ino(number, row.root);
        put_row(&member.rows, number, &SubvolumeRow { parent, protected, name: name.to_vec(), ..row });
        // The clone of what is protected is so only if that was asked for.
        let protection = if protected { IMMUTABLE } else { 0 };
        let root = self.change_row(&member, ino, |root| InodeRow {
            parent,
            flags: root.flags & !PROTECTING | protection,
            times: Times { ctime: now, ..root.times },
            ..root
        })?;
        if protected {
            self.protected.set_immutable(number, true);
        }
        let inode = self.inodes.insert_new(ino, root, member.number);
        let entry = DirentRow { ino, kind: libc::S_IFDIR };
        self.add_entry(&member, parent, &mut dir, name, entry, now);
        self.subvolume_came(parent, &dir.row, ino);
        drop(member);
        drop(held);
        let attr = inode.lock().attr(ino);
        Ok(attr)
    }

    /// Changes the row of an inode of a subvolume that nobody has in memory yet.
    fn change_row(
        &self,
        member: &Member,
        ino: u64,
        change: impl FnOnce(InodeRow) -> InodeRow,
    ) -> Result<InodeRow> {
        let (layers, subvolumes) = (self.layers(), member.subvolumes());
        let missing = || Error::damaged(format!("inode {ino} is missing"));
        let row = change(Rows::of(&*layers, &subvolumes).inode(ino)?.ok_or_else(missing)?);
        put_inode(member, ino, &row);
        Ok(row)
    }

    fn drop_nameless(&self, number: u64) -> Result<()> {
        let _changing = self.hold_subvolumes();
        let member = self.join()?;
        self.note_dropped(&member, number)
    }

    fn note_dropped(&self, member: &Member, number: u64) -> Result<()> {
        let row = subvolumes::row(&*self.layers(), number)?.ok_or_else(|| subvolumes::missing(number))?;
        if !row.name.is_empty() {
            self.dropped.note_name(number, row.name);
        }
        let row = SubvolumeRow { dropped: true, parent: 0, name: Vec::new(), ..row };
        put_row(&member.rows, number, &row);
        self.dropped.insert(number);
        Ok(())
    }

    /// The next rmdir(2) of this root of a subvolume by this caller removes everything in it. Its owner may, and root.
    pub fn allow_drop(&self, root: u64, caller: Caller) -> Result<()> {
        self.check_drop(root, caller)?;
        self.wishes.allow(root, caller.uid);
        Ok(())
    }

    /// Refuses to remove what is no root of a subvolume with EINVAL, and what somebody else owns or is protected with
    /// EPERM.
    pub fn check_drop(&self, root: u64, caller: Caller) -> Result<()> {
        if !self.is_subvolume(root) {
            return posix(libc::EINVAL);
        }
        let owner = self.inode(root)?.lock().row.uid;
        if caller.uid != 0 && caller.uid != owner || self.keeps(root)? {
            return posix(libc::EPERM);
        }
        Ok(())
    }

    /// Does the protection of a root, or of the directory that has its name, keep it from being removed?
    fn keeps(&self, root: u64) -> Result<bool> {
        let parent = self.inode(root)?.lock().row.parent;
        let of_parent = self.inode(parent)?.lock().row.flags & PROTECTING;
        Ok(self.is_protected(root) || of_parent != 0)
    }

    /// Takes that back.
    pub fn forbid_drop(&self, root: u64) {
        self.wishes.take_allowed(root);
    }

    /// True if an entry of `parent` is the root of a subvolume that this caller may remove with all that is in it.
    pub(super) fn may_drop(&self, ino: u64, parent: u64, caller: Option<Caller>) -> bool {
        are_apart(ino, parent) && caller.is_some_and(|caller| self.wishes.is_allowed(ino, caller.uid))
    }

    /// Drops the subvolume of a locked root that has just lost its name; whoever calls holds the subvolumes.
    pub(super) fn drop_subvolume(&self, member: &Member, root: u64, state: &mut InodeState) -> Result<()> {
        self.wishes.take_allowed(root);
        self.note_dropped(member, subvolume_of(root))?;
        state.row.nlink = 0;
        Ok(())
    }

    /// Directory and name of each inode of a dropped subvolume that the kernel remembers, as far as they can be found.
    /// As long as it has these names cached, it does not forget the inodes, even if nobody uses them.
    pub fn remembered_names(&self, number: u64) -> Vec<(u64, Vec<u8>)> {
        let mut remembered = self.inodes.remembered();
        remembered.retain(|ino| subvolume_of(*ino) == number);
        let inodes: HashSet<u64> = remembered.iter().copied().collect();
        let (layers, mut names) = (self.layers(), Vec::new());
        // Whoever has a name cached has its directory, too; what is no directory has no names in it.
        for dir in remembered {
            let found = Rows::at(&layers).entries(dir, NameHash::FIRST, |_, name, entry| {
                if inodes.contains(&entry.ino) {
                    names.push((dir, name.to_vec()));
                }
                Ok(true)
            });
            if let Err(error) = found {
                tracing::debug!(dir, "names of what was dropped: {error}");
            }
        }
        names
    }

    /// Notes the new place of a subvolume; whoever calls holds the subvolumes.
    pub(super) fn subvolume_moved(&self, member: &Member, root: u64, to: Place<'_>) -> Result<()> {
        let (number, _) = split_ino(root);
        let row = subvolumes::row(&*self.layers(), number)?.ok_or_else(|| subvolumes::missing(number))?;
        put_row(&member.rows, number, &SubvolumeRow { parent: to.parent, name: to.name.to_vec(), ..row });
        Ok(())
    }

    /// What an opening finds protected, dropped, or without a name: a clone whose making was cut off. One whose row has a name
    /// that its directory lacks is damaged, and stays: absence is never a drop (I7).
    pub(super) fn find_subvolumes(&self) -> Result<()> {
        let rows = subvolumes::read_rows(&*self.layers())?;
        self.load_protected(&rows);
        for (number, row) in rows {
            if row.dropped {
                self.dropped.insert(number);
            } else if row.name.is_empty() && self.store.batches.writable().is_ok() {
                self.drop_nameless(number)?;
            }
        }
        Ok(())
    }
}
