//! How many requests of each kind the kernel sent to the floor.
//!
//! What a small file costs through FUSE is the number of requests it takes, so the count is as much a
//! result as the time. Counting must not change what is timed: one relaxed atomic add per request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// A kind of request, named as the protocol names it.
        #[derive(Clone, Copy)]
        #[allow(clippy::upper_case_acronyms)]
        pub enum Kind { $($kind),* }
        const NAMES: &[&str] = &[$(stringify!($kind)),*];
    };
}

kinds! {
    Lookup Forget Getattr Setattr Readlink Symlink Mknod Mkdir Unlink Rmdir Rename Link
    Open Create Read Write Flush Release Fsync Opendir Readdir Readdirplus Releasedir Fsyncdir Statfs
    Setxattr Getxattr Listxattr Removexattr Fallocate Lseek CopyFileRange
}

/// Requests and bytes since the last time they were taken.
pub struct Counts {
    by_kind: Vec<AtomicU64>,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// Never reset: tells whether anything arrived since one looked last.
    total: AtomicU64,
}

impl Counts {
    pub fn new() -> Self {
        Counts {
            by_kind: NAMES.iter().map(|_| AtomicU64::new(0)).collect(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    pub fn hit(&self, kind: Kind) {
        self.by_kind[kind as usize].fetch_add(1, Relaxed);
        self.total.fetch_add(1, Relaxed);
    }

    pub fn read(&self, bytes: usize) {
        self.hit(Kind::Read);
        self.bytes_read.fetch_add(bytes as u64, Relaxed);
    }

    pub fn written(&self, bytes: usize) {
        self.hit(Kind::Write);
        self.bytes_written.fetch_add(bytes as u64, Relaxed);
    }

    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// The counts since the last call, kinds that did not occur left out.
    pub fn take(&self) -> BTreeMap<String, u64> {
        let mut taken: BTreeMap<String, u64> = NAMES
            .iter()
            .zip(&self.by_kind)
            .map(|(name, count)| (name.to_uppercase(), count.swap(0, Relaxed)))
            .collect();
        taken.insert("bytes read".into(), self.bytes_read.swap(0, Relaxed));
        taken.insert("bytes written".into(), self.bytes_written.swap(0, Relaxed));
        taken.retain(|_, count| *count > 0);
        taken
    }
}
