//! Extended attributes: which names exist here, and the protocol's way of asking for sizes first.

use crate::error::{Error, Result};
use crate::fs::{NameSpace, is_namespace};

/// The attribute with the presence, which any file of a mount has. It is in no listing, and only the mounting user and
/// root can read it.
pub(super) const PRESENCE: &[u8] = b"cairnfs.presence";

/// What is written to this attribute of a directory, "PARENT NAME", makes the next mkdir(2) of that name in the directory
/// with that inode number, by the same user, a clone of it; with an exclamation mark before, a protected one; with a minus
/// sign before, it does not any more. It can only be written, and by whom the kernel lets reach and write the directory that is cloned.
pub const CLONE: &str = "cairnfs.clone";
/// The same for rmdir(2), written to the directory that has the name: "INODE" lets the next one of the same user remove
/// that root of a subvolume with all that is in it, "-INODE" takes that back, "?INODE" only asks whether it may.
pub const DROP: &str = "cairnfs.drop";

/// The sign, if there is one, the directory and the name in what is written to [`CLONE`].
pub(super) fn clone_wish(value: &[u8]) -> Result<(Option<u8>, u64, &[u8])> {
    let wrong = || Error::Posix(libc::EINVAL);
    let (sign, value) = match value {
        [sign @ (b'-' | b'!'), rest @ ..] => (Some(*sign), rest),
        _ => (None, value),
    };
    let at = value.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
    Ok((sign, number(&value[..at])?, &value[at + 1..]))
}

/// The sign, if there is one, and the inode in what is written to [`DROP`].
pub(super) fn drop_wish(value: &[u8]) -> Result<(Option<u8>, u64)> {
    match value {
        [sign @ (b'-' | b'?'), rest @ ..] => Ok((Some(*sign), number(rest)?)),
        _ => Ok((None, number(value)?)),
    }
}

fn number(digits: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).ok_or(Error::Posix(libc::EINVAL))
}

/// What the names of settings begin with, as which getxattr(2) shows them; nobody can write them, and no list has them.
const SETTING: &[u8] = b"user.cairnfs.";

/// The setting that an attribute shows.
pub(super) fn setting(name: &[u8]) -> Option<&str> {
    name.strip_prefix(SETTING).and_then(|name| std::str::from_utf8(name).ok())
}

/// Whether `name` may be used. The kernel has already checked who may use which namespace.
pub(super) fn check(name: &[u8], posix_acl: bool) -> Result<()> {
    match NameSpace::of(name) {
        None => Err(Error::Posix(libc::EOPNOTSUPP)),
        Some(NameSpace::Acl) if !posix_acl => Err(Error::Posix(libc::EOPNOTSUPP)),
        Some(_) if is_namespace(name) => Err(Error::Posix(libc::EINVAL)),
        Some(_) => Ok(()),
    }
}

/// The names of a list that this caller can also read, so that a copying program does not fail at the others.
pub(super) fn visible(list: &[u8], posix_acl: bool, privileged: bool) -> Vec<u8> {
    let mut shown = Vec::with_capacity(list.len());
    for name in list.split_inclusive(|byte| *byte == 0) {
        let bare = name.strip_suffix(&[0]).unwrap_or(name);
        let is_trusted = NameSpace::of(bare) == Some(NameSpace::Trusted);
        if check(bare, posix_acl).is_ok() && (privileged || !is_trusted) {
            shown.extend_from_slice(name);
        }
    }
    shown
}

/// The reply to a request for a value or list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fitted {
    /// Its size, since the caller gave none.
    Size(u32),
    /// The value itself.
    Value(Vec<u8>),
}

/// The value or list, or its size where none was given.
pub(super) fn fit(value: Vec<u8>, size: u32) -> Result<Fitted> {
    let length = u32::try_from(value.len()).map_err(|_| Error::Posix(libc::E2BIG))?;
    if size == 0 {
        Ok(Fitted::Size(length))
    } else if length > size {
        Err(Error::Posix(libc::ERANGE))
    } else {
        Ok(Fitted::Value(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno<T>(result: Result<T>) -> i32 {
        result.map_or_else(|error| error.errno(), |_| 0)
    }

    #[test]
    fn only_known_namespaces_pass() {
        for (name, with_acl, without) in [
            (&b"user.a"[..], 0, 0),
            (b"trusted.a", 0, 0),
            (b"security.capability", 0, 0),
            (b"user.", libc::EINVAL, libc::EINVAL),
            (b"user", libc::EOPNOTSUPP, libc::EOPNOTSUPP),
            (b"system.posix_acl_access", 0, libc::EOPNOTSUPP),
            (b"system.posix_acl_default", 0, libc::EOPNOTSUPP),
            (b"system.other", libc::EOPNOTSUPP, libc::EOPNOTSUPP),
        ] {
            assert_eq!(errno(check(name, true)), with_acl, "{name:?}");
            assert_eq!(errno(check(name, false)), without, "{name:?}");
        }
    }

    #[test]
    fn a_list_shows_what_can_be_read() {
        let all = b"security.b\0system.posix_acl_access\0trusted.c\0user.a\0";
        assert_eq!(visible(all, true, true), all);
        assert_eq!(visible(all, false, false), b"security.b\0user.a\0");
        assert_eq!(visible(b"", true, true), b"");
    }

    #[test]
    fn wishes_are_read_or_refused() {
        assert!(matches!(clone_wish(b"17 a b"), Ok((None, 17, b"a b"))));
        assert!(matches!(clone_wish(b"-17 a"), Ok((Some(b'-'), 17, b"a"))));
        assert!(matches!(clone_wish(b"!17 a"), Ok((Some(b'!'), 17, b"a"))));
        assert!(matches!(drop_wish(b"?17"), Ok((Some(b'?'), 17))));
        assert!(matches!(drop_wish(b"17"), Ok((None, 17))));
        for wrong in [&b"17"[..], b"x y", b"", b" a"] {
            assert_eq!(errno(clone_wish(wrong)), libc::EINVAL);
        }
        for wrong in [&b"17 "[..], b"--1", b"", b"?"] {
            assert_eq!(errno(drop_wish(wrong)), libc::EINVAL);
        }
    }

    #[test]
    fn size_comes_first() {
        assert!(matches!(fit(vec![1, 2, 3], 0), Ok(Fitted::Size(3))));
        assert_eq!(errno(fit(vec![1, 2, 3], 2)), libc::ERANGE);
        assert!(matches!(fit(vec![1, 2, 3], 3), Ok(Fitted::Value(v)) if v == [1, 2, 3]));
        assert!(matches!(fit(vec![], 9), Ok(Fitted::Value(v)) if v.is_empty()));
    }
}
