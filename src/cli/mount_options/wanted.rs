//! What the words of `-o` come to, and what follows from several of them together.

use std::time::Duration;

use crate::fs::{AccessTimes, FsOptions};
use crate::fuse::MountOptions;
use crate::store::OpenOptions;

/// What the words of `-o` ask for, as the parts of a mount take it. What depends on the store and the mount point is not
/// filled in.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Wanted {
    /// A mount that is there is to be changed.
    pub remount: bool,
    pub open: OpenOptions,
    pub fs: FsOptions,
    pub fuse: MountOptions,
    /// Cycles start by themselves.
    pub collect: bool,
    /// A cycle also starts when the last one is this long ago.
    pub collect_interval: Option<Duration>,
    /// All data is read and compared once in this time.
    pub scrub: Option<Duration>,
    /// The words that were given, in order.
    pub(super) given: Vec<&'static str>,
}

impl Wanted {
    /// What the parts have by themselves.
    pub(super) fn of_the_parts() -> Self {
        Self {
            remount: false,
            open: OpenOptions::default(),
            fs: FsOptions::default(),
            fuse: MountOptions::default(),
            collect: false,
            collect_interval: None,
            scrub: None,
            given: Vec::new(),
        }
    }

    /// Which of two words was given last, if any: true for the first.
    pub fn given_last(&self, yes: &str, no: &str) -> Option<bool> {
        let last = self.given.iter().rev().find(|word| **word == yes || **word == no)?;
        Some(*last == yes)
    }

    pub(super) fn set_read_only(&mut self, read_only: bool) {
        self.open.read_only = read_only;
        self.fuse.read_only = read_only;
    }

    pub(super) fn set_atime(&mut self, atime: AccessTimes) {
        self.fs.atime = atime;
        self.fuse.atime = atime;
    }

    /// What follows from several words together.
    pub(super) fn settle(&mut self) {
        // If the kernel applies ACLs, it checks modes as well, whatever the mount table says.
        self.fuse.posix_acl &= self.fuse.default_permissions;
        // With strictatime the daemon must learn of each open, even if the kernel has the pages cached.
        self.fuse.no_open &= self.fs.atime != AccessTimes::Always;
        if self.open.read_only {
            self.collect = false;
            self.collect_interval = None;
            self.scrub = None;
        }
    }
}
