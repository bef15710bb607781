//! Extended attributes: which names exist here, and the protocol's way of asking for sizes first.

use crate::error::{Error, Result};
use crate::fs::{NameSpace, is_namespace};

/// The attribute with the presence, which any file of a mount has. It is in no listing, and only the mounting user and
/// root can read it.
pub(super) const PRESENCE: &[u8] = b"cairnfs.presence";

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
    fn size_comes_first() {
        assert!(matches!(fit(vec![1, 2, 3], 0), Ok(Fitted::Size(3))));
        assert_eq!(errno(fit(vec![1, 2, 3], 2)), libc::ERANGE);
        assert!(matches!(fit(vec![1, 2, 3], 3), Ok(Fitted::Value(v)) if v == [1, 2, 3]));
        assert!(matches!(fit(vec![], 9), Ok(Fitted::Value(v)) if v.is_empty()));
    }
}
