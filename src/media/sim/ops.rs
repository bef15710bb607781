//! The operations of the simulated disk, as faults are set for them.

/// What an operation is. Those that change something, or make it durable, are numbered by [`SimMedia::op_count`]; the
/// others, from `Open` on, by [`SimMedia::query_count`].
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[expect(missing_docs, reason = "each is the method of that name")]
pub enum OpKind {
    Create,
    Mkdir,
    Remove,
    Rename,
    Link,
    SyncDir,
    Write,
    SetLen,
    Allocate,
    Punch,
    Sync,
    Open,
    Exists,
    List,
    Read,
    Len,
}

impl OpKind {
    /// Whether it changes something or makes it durable.
    pub fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::Exists | Self::List | Self::Read | Self::Len)
    }
}

/// An operation about to happen, as a fault hook sees it.
#[derive(Clone, Debug)]
pub struct Op {
    /// What it is.
    pub kind: OpKind,
    /// The file or directory; for an open file the path it was opened by; for a rename or link the old name.
    pub path: String,
    /// Where in the file, or the new length.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Its number among the changes or among the queries. Exact while one thread works on the disk.
    pub number: u64,
}

/// Decides whether an operation fails, and with which errno. Called without any lock held; it may look at the disk.
pub type Fault = dyn Fn(&Op) -> Option<i32> + Send + Sync;

/// A fault in place of an errno: a read comes to the end too early; of a write, half of its sectors are written, and then
/// it fails with EIO.
pub const SHORT: i32 = 0;
