//! Groups: directories in which a new directory is a snapshot, that is, a subvolume.
//!
//! Keeps true: a new snapshot begins as a clone only for root and for the owner of what is cloned, or it would show a user
//! what another one's mode hid, or make root's files his; for anybody else it begins empty. A name that is none of a
//! snapshot makes an ordinary directory. Time decides only which snapshot counts as complete, and so what a new one
//! begins with; never what is kept.

use glob::Pattern;

use crate::error::{Error, Result};
use crate::meta::rows::{InodeRow, SubvolumeRow};
use crate::meta::versions::subvolumes::{public_ino, put_row, read_rows, row, subvolume_of};
use crate::sabotage::{Protection, out};
use crate::sync::Arc;

use super::locked::Place;
use super::names::may_add;
use super::settings::{COMPLETE, GROUP, NAME, NEW};
use super::subvolumes::wishes::Source;
use super::types::{Attr, Caller, Timestamp};
use super::{Fs, check_name, posix};

/// Seconds without a change after which a snapshot is complete that nobody says it of.
const QUIET: i64 = 3600;

/// The end of a name that is not complete, where renaming completes it.
const PARTIAL: &[u8] = b".partial";

/// When a snapshot in a group is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complete {
    /// Once nothing was changed in it for an hour.
    Always,
    /// Once it is sealed.
    Seal,
    /// Once its name does not end in `.partial`.
    Rename,
}

/// What a new directory in a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum New {
    Empty,
    Clone,
    Plain,
}

/// Does a name belong to a snapshot? By default one does that has a date in it: 2026-11-22 or 20261122.
fn is_of_snapshot(pattern: Option<&str>, name: &[u8]) -> bool {
    match pattern {
        None | Some("date") => has_date(name),
        Some(pattern) => {
            let name = std::str::from_utf8(name).ok();
            name.zip(Pattern::new(pattern).ok()).is_some_and(|(name, pattern)| pattern.matches(name))
        }
    }
}

fn has_date(name: &[u8]) -> bool {
    let dashed = |text: &[u8]| {
        let rest = number(text, 4).and_then(|(_, rest)| rest.strip_prefix(b"-"));
        let month = rest.and_then(|rest| number(rest, 2)).filter(|(month, _)| (1..=12).contains(month));
        let rest = month.and_then(|(_, rest)| rest.strip_prefix(b"-"));
        rest.and_then(|rest| number(rest, 2)).is_some_and(|(day, _)| (1..=31).contains(&day))
    };
    let plain = |text: &[u8]| {
        let month = number(text, 4).and_then(|(_, rest)| number(rest, 2));
        let day = month.filter(|(month, _)| (1..=12).contains(month)).and_then(|(_, rest)| number(rest, 2));
        day.is_some_and(|(day, _)| (1..=31).contains(&day))
    };
    (0..name.len()).any(|at| {
        let begins = at == 0 || !name[at - 1].is_ascii_digit();
        begins && (dashed(&name[at..]) || plain(&name[at..]))
    })
}

/// The number in the first `digits` characters, and what comes after them.
fn number(text: &[u8], digits: usize) -> Option<(u32, &[u8])> {
    let (head, rest) = text.split_at_checked(digits)?;
    head.iter().all(u8::is_ascii_digit).then(|| {
        let value = head.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
        (value, rest)
    })
}

impl Complete {
    /// Is a snapshot of this name complete, `now`, that was changed last at `changed`?
    pub fn is(self, name: &[u8], sealed: Option<Timestamp>, changed: Timestamp, now: i64) -> bool {
        match self {
            Self::Always => sealed.is_some() || now - changed.sec >= QUIET,
            Self::Seal => sealed.is_some(),
            Self::Rename => !name.ends_with(PARTIAL),
        }
    }
}

impl Fs {
    /// Is a directory a group?
    pub fn is_group(&self, dir: u64) -> Result<bool> {
        Ok(self.own_setting(dir, GROUP)?.is_some_and(|value| value == "yes"))
    }

    /// When the snapshots in a group are complete.
    pub fn completes(&self, group: u64) -> Result<Complete> {
        let value = self.setting(group, COMPLETE)?.map(|setting| setting.value);
        Ok(match value.as_deref() {
            Some("seal") => Complete::Seal,
            Some("rename") => Complete::Rename,
            _ => Complete::Always,
        })
    }

    /// Makes a snapshot, if a new directory of this name is one; `None` where it is an ordinary directory.
    pub(super) fn new_snapshot(
        self: &Arc<Self>,
        place: Place<'_>,
        caller: Caller,
        mode: u32,
        umask: u32,
    ) -> Result<Option<Attr>> {
        if !self.is_group(place.parent)? {
            return Ok(None);
        }
        check_name(place.name)?;
        let pattern = self.setting(place.parent, NAME)?.map(|setting| setting.value);
        let new = match self.setting(place.parent, NEW)?.map(|setting| setting.value).as_deref() {
            _ if !is_of_snapshot(pattern.as_deref(), place.name) => New::Plain,
            Some("plain") => New::Plain,
            Some("clone") => New::Clone,
            _ => New::Empty,
        };
        if new == New::Plain {
            return Ok(None);
        }
        if self.entry(&self.layers(), place.parent, place.name)?.is_some() {
            return posix(libc::EEXIST);
        }
        if new == New::Clone
            && let Some(newest) = self.newest_complete(place.parent)?
            && self.may_begin_as(newest, caller)?
        {
            return self.make_clone(Source { ino: newest, read_only: false }, place, caller).map(Some);
        }
        self.empty_snapshot(place, caller, mode, umask).map(Some)
    }

    fn may_begin_as(&self, snapshot: u64, caller: Caller) -> Result<bool> {
        let owner = self.inode(snapshot)?.lock().row.uid;
        Ok(caller.uid == 0 || caller.uid == owner || is_for_anybody())
    }

    /// The root of the newest complete snapshot of a group, by when they were made.
    fn newest_complete(&self, group: u64) -> Result<Option<u64>> {
        let (completes, now) = (self.completes(group)?, Timestamp::now().sec);
        let mut newest: Option<((Timestamp, u64), u64)> = None;
        for (number, row) in read_rows(&*self.layers())? {
            if row.parent != group || row.dropped || row.name.is_empty() {
                continue;
            }
            let made = (row.born, number);
            if newest.as_ref().is_none_or(|(newest, _)| *newest < made)
                && completes.is(&row.name, row.sealed, self.usage(number)?.changed, now)
            {
                newest = Some((made, public_ino(number, row.root)));
            }
        }
        Ok(newest.map(|(_, root)| root))
    }

    fn empty_snapshot(
        self: &Arc<Self>,
        place: Place<'_>,
        caller: Caller,
        mode: u32,
        umask: u32,
    ) -> Result<Attr> {
        may_add(&self.inode(place.parent)?.lock())?;
        self.claim_row()?;
        let mode = mode & 0o7777 | libc::S_IFDIR;
        let mut row = InodeRow { mode, nlink: 2, ..InodeRow::default() };
        let dir = self.inode(place.parent)?.lock().row.clone();
        let inherited = self.new_row(&dir, place.parent, caller, umask, &mut row)?;
        let number = self.new_subvolume(&row, &inherited)?;
        self.name_or_drop(number, place, false)
    }

    /// Says that a snapshot is complete, now, and durably. It stays so, whatever is written to it.
    pub fn seal(&self, root: u64) -> Result<()> {
        if !self.is_subvolume(root) {
            return posix(libc::EINVAL);
        }
        let (number, held) = (subvolume_of(root), self.hold_subvolumes());
        self.refuse_dropped(root)?;
        let member = self.join()?;
        let layers = self.layers();
        let found = row(&*layers, number)?.ok_or(Error::Posix(libc::ENOENT))?;
        if found.sealed.is_none() {
            let sealed = SubvolumeRow { sealed: Some(Timestamp::now()), ..found };
            put_row(&member.rows, number, &sealed);
        }
        drop((member, held));
        self.store.commits.commit()
    }
}

/// Taken out: nobody asks who may clone before a clone is tried.
fn is_for_anybody() -> bool {
    out(Protection::CloneForOwner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_a_date_in_its_name() {
        for name in
            ["2026-11-22", "home_2026-11-22T02:00:00Z", "20261122", "auto-20261122-0200", "daily.2026-11-22"]
        {
            assert!(is_of_snapshot(None, name.as_bytes()), "{name}");
        }
        for name in ["lock", "New folder", "2026", "2026-13-01", "12026-11-22x", "20261300", "2026-11-32", ""]
        {
            assert!(!is_of_snapshot(Some("date"), name.as_bytes()), "{name}");
        }
        assert!(
            is_of_snapshot(Some("nightly-*"), b"nightly-7") && !is_of_snapshot(Some("nightly-*"), b"lock")
        );
        assert!(!is_of_snapshot(Some("*"), b"\xff"), "a pattern is of characters");
    }

    #[test]
    fn each_way_completes_a_snapshot() {
        let at = |sec| Timestamp { sec, nsec: 0 };
        let is =
            |complete: Complete, name: &str, sealed, now| complete.is(name.as_bytes(), sealed, at(100), now);
        let name = "2026-11-22";
        assert!(!is(Complete::Always, name, None, 3699) && is(Complete::Always, name, None, 3700));
        assert!(!is(Complete::Seal, name, None, 9999) && is(Complete::Seal, name, Some(at(1)), 100));
        let partial = "2026-11-22.partial";
        assert!(is(Complete::Rename, name, None, 100) && !is(Complete::Rename, partial, None, 9999));
    }
}
