//! Settings: what an administrator wants of a directory and of what is below it.
//!
//! Keeps true: a setting is a row of the store and no attribute that a program could write or carry into a snapshot, since
//! the daemon acts on it as root. It is kept beside the attributes of its directory, under a name that no request through
//! the mount may use, and goes with the directory. The nearest directory on the way up that has a setting counts, except
//! for `group`, which is said to each directory.

use glob::Pattern;

use crate::error::{Error, Result};
use crate::meta::rows::xattr::SETTING;
use crate::meta::rows::{InodeRow, NameHash};
use crate::meta::versions::subvolumes::subvolume_of;
use crate::sync::Arc;

use super::names::is_root;
use super::rows::{self, RowOf, Rows, put_xattr};
use super::{Fs, posix};

/// A setting that exists.
struct Known {
    name: &'static str,
    /// What it may be, for people.
    values: &'static str,
    is_valid: fn(&str) -> bool,
    /// It counts below the directory, too.
    is_inherited: bool,
}

/// That a directory holds snapshots.
pub(super) const GROUP: &str = "group";
/// What a new directory in a group begins with.
pub(super) const NEW: &str = "new";
/// Which names in a group are those of snapshots.
pub(super) const NAME: &str = "name";
/// When a snapshot is complete.
pub(super) const COMPLETE: &str = "complete";

const KNOWN: [Known; 4] = [
    Known {
        name: GROUP,
        values: "`yes` or `no`",
        is_valid: |value| ["yes", "no"].contains(&value),
        is_inherited: false,
    },
    Known {
        name: NEW,
        values: "`empty`, `clone` or `plain`",
        is_valid: |value| ["empty", "clone", "plain"].contains(&value),
        is_inherited: true,
    },
    Known {
        name: NAME,
        values: "`date`, or a pattern of names such as `nightly-*`",
        is_valid: |value| Pattern::new(value).is_ok(),
        is_inherited: true,
    },
    Known {
        name: COMPLETE,
        values: "`always`, `seal` or `rename`",
        is_valid: |value| ["always", "seal", "rename"].contains(&value),
        is_inherited: true,
    },
];

/// A setting that counts for a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The directory that has it.
    pub origin: u64,
}

fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

fn validate(name: &str, value: &str) -> Result<()> {
    let Some(known) = known(name) else {
        let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
        return Err(Error::Usage(format!("{name} is no setting; there are {}", names.join(", "))));
    };
    // Nothing takes the setting away.
    if value.is_empty() || (known.is_valid)(value) {
        return Ok(());
    }
    Err(Error::Usage(format!("{name}={value} cannot be; {name} is {}", known.values)))
}

fn attribute(name: &str) -> Vec<u8> {
    [SETTING, name.as_bytes()].concat()
}

impl Fs {
    /// Changes settings of a directory, all or none; an empty value takes one away.
    pub fn change_settings(&self, dir: u64, changes: &[(String, String)]) -> Result<()> {
        for (name, value) in changes {
            validate(name, value)?;
        }
        if subvolume_of(dir) > 0 {
            return Err(Error::Usage(
                "settings belong to groups and to the directories above them; this is in a snapshot".into(),
            ));
        }
        self.claim_row()?;
        let inode = self.inode(dir)?;
        let mut state = inode.lock();
        if !state.row.is_dir() {
            return posix(libc::ENOTDIR);
        }
        if state.is_nameless() {
            return posix(libc::ENOENT);
        }
        let member = self.join()?;
        for (name, value) in changes {
            let name = attribute(name);
            if value.is_empty() {
                rows::remove(&member, RowOf::Xattr(dir, &name), || self.layers())?;
            } else {
                put_xattr(&member, dir, &name, value.as_bytes());
                state.row.flags |= InodeRow::HAS_XATTRS;
            }
        }
        state.save(dir, &member);
        drop((member, state));
        self.store.commits.commit()
    }

    /// The setting of a directory itself.
    pub(super) fn own_setting(&self, dir: u64, name: &str) -> Result<Option<String>> {
        if subvolume_of(dir) > 0 || self.inode(dir)?.lock().row.flags & InodeRow::HAS_XATTRS == 0 {
            return Ok(None);
        }
        let value = Rows::at(&self.layers()).xattr(dir, &attribute(name))?;
        let text = |value| String::from_utf8(value).map_err(|_| Error::damaged("a setting is no text"));
        value.map(text).transpose()
    }

    /// The setting that counts for a directory, and the directory that has it.
    pub fn setting(&self, dir: u64, name: &str) -> Result<Option<Setting>> {
        let known = known(name).ok_or(Error::Posix(libc::ENODATA))?;
        if !self.inode(dir)?.lock().row.is_dir() {
            return Ok(None);
        }
        let look = |origin| {
            let value = self.own_setting(origin, name)?;
            Ok(value.map(|value| Setting { name: name.to_owned(), value, origin }))
        };
        if !known.is_inherited {
            return look(dir);
        }
        // What is in a snapshot has none of its own.
        self.on_the_way_up(self.root_of(dir).unwrap_or(dir), |origin, _| look(origin))
    }

    /// All settings that count for a directory.
    pub fn settings(&self, dir: u64) -> Result<Vec<Setting>> {
        let all = KNOWN.iter().map(|known| self.setting(dir, known.name));
        all.filter_map(Result::transpose).collect()
    }

    /// The path of a directory, from the root of the mount.
    pub fn path_of(&self, dir: u64) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        self.on_the_way_up(dir, |at, parent| {
            if is_root(at) {
                return Ok(None::<()>);
            }
            let mut found = None;
            Rows::at(&self.layers()).entries(parent, NameHash::FIRST, |_, name, entry| {
                found = (entry.ino == at).then(|| name.to_vec());
                Ok(found.is_none())
            })?;
            names.push(found.ok_or(Error::Posix(libc::ENOENT))?);
            Ok(None)
        })?;
        names.reverse();
        Ok([&b"/"[..], &names.join(&b'/')].concat())
    }

    /// The directory at a path from the root of the mount, which no links are followed for.
    pub fn directory_at(self: &Arc<Self>, path: &[u8]) -> Result<u64> {
        let mut at = super::ROOT_INO;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            at = self.entry(&self.layers(), at, name)?.ok_or(Error::Posix(libc::ENOENT))?.ino;
        }
        if self.inode(at)?.lock().row.is_dir() { Ok(at) } else { posix(libc::ENOTDIR) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_exists_can_be_set() {
        for (name, value) in
            [("group", "yes"), ("new", "clone"), ("name", "a-*"), ("name", "date"), ("new", "")]
        {
            assert!(validate(name, value).is_ok(), "{name}={value}");
        }
        for (name, value, told) in [
            ("grp", "yes", "group, new, name"),
            ("new", "fast", "`empty`, `clone`"),
            ("name", "[", "pattern"),
        ] {
            let error = validate(name, value).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(told), "{error}");
        }
    }
}
