//! Which changes of the tree of directories may go side by side.
//!
//! What guards what:
//! - The entries of a directory change only while its inode is locked, and so does everything in an inode's row. That
//!   is all that creates, links, unlinks and renames of files in different directories need, so they go side by side.
//! - How directories lie one below the other is more than one inode says. Whoever changes a name holds the tree lock
//!   shared; whoever moves a directory holds it alone. So nobody who holds it sees a way up change.
//!
//! Lock order: the tree lock, then inodes by rising number, then membership in a batch. Who holds the tree lock does not
//! take it again: somebody who waits to have it alone may stand between.

use crate::sabotage::{Protection, out};
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Held by whoever changes names.
#[derive(Debug, Default)]
pub(super) struct TreeLock(RwLock<()>);

/// Holds the tree lock.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    is_alone: bool,
    _held: Held<'a>,
}

#[derive(Debug)]
enum Held<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl TreeLock {
    /// For changes of entries that leave every directory where it is.
    pub fn shared(&self) -> Tree<'_> {
        Tree { is_alone: false, _held: Held::Shared { _guard: self.0.read() } }
    }

    /// For changes of the tree itself.
    pub fn alone(&self) -> Tree<'_> {
        if out(Protection::TreeAlone) {
            return Tree { is_alone: true, ..self.shared() };
        }
        Tree { is_alone: true, _held: Held::Alone { _guard: self.0.write() } }
    }
}

impl Tree<'_> {
    /// True if nobody else changes any name meanwhile.
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }
}
