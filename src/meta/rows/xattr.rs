//! The names that extended attributes have here: their namespaces, and those whose values this program understands.

/// The attribute that says who may do what.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory that new entries inherit. Its presence has a flag of its own in the inode's row.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// The attribute with the capabilities of a program.
pub const CAPABILITY: &[u8] = b"security.capability";

/// What the names of settings begin with. They are kept as attributes are, and no request may use such a name.
pub const SETTING: &[u8] = b"cairnfs.";

const TRUSTED: &[u8] = b"trusted.";
/// What any name may follow.
const NAMESPACES: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];

/// Where a name belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameSpace {
    /// One of the two ACLs.
    Acl,
    /// Only root is shown it in a list.
    Trusted,
    /// `user.` or `security.`.
    Open,
}

impl NameSpace {
    /// The one of a name; `None` where there is none for it. The name may end with its namespace.
    pub fn of(name: &[u8]) -> Option<Self> {
        if is_acl(name) {
            return Some(Self::Acl);
        }
        let space = NAMESPACES.into_iter().find(|space| name.starts_with(space))?;
        Some(if space == TRUSTED { Self::Trusted } else { Self::Open })
    }
}

/// Is it one of the two that hold POSIX ACLs?
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS_ACL || name == DEFAULT_ACL
}

/// Is it a namespace, and no name in it?
pub fn is_namespace(name: &[u8]) -> bool {
    NAMESPACES.contains(&name)
}
