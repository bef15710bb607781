//! Whether the store accepts changes.
//!
//! Keeps true (I8): the first failure of a sync or a commit is final. It is kept, and every later change is refused
//! with it until the store is opened again.

use crate::error::{Error, Result};
use crate::sync::OnceLock;

/// The reason why the store refuses changes, if it does.
#[derive(Debug)]
pub struct Latch {
    read_only: bool,
    why: OnceLock<Reason>,
}

#[derive(Debug)]
enum Reason {
    Failed(String),
    Closed,
}

impl Latch {
    /// For a store that is opened read-only, or for changes as well.
    pub fn new(read_only: bool) -> Self {
        Self { read_only, why: OnceLock::new() }
    }

    /// Refuses where nothing may be changed.
    pub fn check(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::Posix(libc::EROFS));
        }
        match self.why.get() {
            None => Ok(()),
            Some(Reason::Failed(why)) => Err(Error::Latched(why.clone())),
            Some(Reason::Closed) => Err(Error::Latched("it was closed".to_owned())),
        }
    }

    /// Refuses changes from here on (I8).
    pub fn set(&self, why: &Error) {
        if self.why.set(Reason::Failed(why.to_string())).is_ok() {
            tracing::error!("the store is read-only from now on: {why}");
        }
    }

    /// Refuses changes from here on, since the store is closed.
    pub fn close(&self) {
        // An earlier failure stays the reason.
        let _ = self.why.set(Reason::Closed);
    }

    /// True if it was opened read-only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The failure, if there was one.
    pub fn failure(&self) -> Option<&str> {
        match self.why.get()? {
            Reason::Failed(why) => Some(why),
            Reason::Closed => None,
        }
    }
}
