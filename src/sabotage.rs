//! Switches that take one protection out, so that a test can show that its absence is noticed.
//!
//! They exist only in builds with the feature `sim`; in every other build [`out`] is the constant `false`, and the
//! protections cannot be taken out. A process takes them from `CAIRNFS_SABOTAGE`, names separated by commas.

/// A protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Protection {
    /// A dedup hit marks the chunk it found (I4).
    MarkOnHit,
    /// The mark works on one snapshot (I5).
    OneSnapshot,
    /// The snapshot is taken after the batch before the flip is in the database (I5).
    DrainBeforeSnapshot,
    /// Chunks that are made after the flip are not swept.
    Watermark,
    /// A digest's row is removed only if it names no chunk but the condemned one.
    DigestStillNames,
    /// Space is freed after the removal of its names is durable (I3).
    DurableBeforeFree,
    /// Inodes without a name are marked as long as they have extents.
    MarkOrphans,
    /// A row that does not decode ends the cycle (I7).
    ErrorEndsCycle,
    /// Remembered digests are forgotten before the barrier is disarmed (I9).
    ClearDigestCache,
    /// Packs are synced, or their records carried, before the rows that name their bytes are committed (I1), backups
    /// before they get their names.
    BytesBeforeNames,
    /// An entry of the log is synced before its commit is answered.
    LogIsSynced,
    /// An entry carries also what a sync of packs that has not ended is to cover (I1).
    CarriedUnderSync,
    /// Packs whose records entries carry are synced before these entries go.
    PacksBeforeFold,
    /// The database is durable before the log is begun anew.
    FoldBeforeCut,
    /// An entry is taken only if it follows the one before it.
    LogIsChained,
    /// A cell is decided by compare-and-swap (I6).
    OneDecision,
    /// The end of a cycle waits for members that may hold an answer from before its sweep (I9).
    Grace,
    /// A chunk whose place is gone is looked up once more.
    SecondLook,
    /// An orphan is removed only after the batches that may have rows for it are in the database.
    WaitForBatches,
    /// An orphan is removed only after the kernel has forgotten it.
    WaitForForget,
    /// A writer that refers to a known bad chunk supplies its bytes.
    NeverReuseBad,
    /// The new bytes of a bad chunk are stored under its old id.
    HealOldId,
    /// The sweep reads the rows that it changes in its own transaction.
    SweepReadsAgain,
    /// Nothing in a subvolume that is protected changes.
    ProtectedByNumber,
    /// Whoever protects waits for the changes that have begun.
    WaitForChanges,
    /// The kernel writes out its pages of files before they are protected.
    FlushBeforeProtect,
    /// Whoever may not clone what a new snapshot would begin as gets an empty one.
    CloneForOwner,
    /// A store is opened by the holder of its lock only.
    StoreLock,
    /// The reclaim leaves the open pack alone: the rows of its regions may not be committed yet.
    UnsealedStays,
    /// A page of the database is compared with its sum.
    PageSums,
    /// The sums of pages are written before the sync that makes the pages durable.
    SumsBeforeSync,
    /// The head of the database's file says that it is open before anything in it changes.
    OpenIsMarked,
    /// A commit fails if a change of the database's file failed (I8).
    FailureIsReported,
    /// A condemned chunk is removed from its digest before its own row is removed.
    DigestsFirst,
    /// A writer that is too fast waits when the staging limit is reached.
    StagingLimit,
    /// A repair gives the old database a second name, so that a database is in its place at every moment.
    OldStaysInPlace,
    /// A repair that finds no database reads what an interrupted one has left.
    LeftoversAreRead,
    /// Files that root makes in a user's store are given to that user.
    OneOwner,
    /// No link in a store is followed.
    NoLinks,
    /// A read that fails once, for a transient reason, is not recorded as damage.
    TransientErrorsPass,
    /// If the host's figures cannot be trusted, promised bytes are really allocated.
    PromisesAreBacked,
    /// The reserve, and what backs promises, is given up for the database: for opening it, and for whatever it writes.
    ReserveForDatabase,
    /// The reserve is given up for the log: for folding it, and for the records that it carries when it is replayed.
    ReserveForLog,
    /// A lock that another process holds is seen. The host has to provide this; some do not.
    LockIsSeen,
    /// A process that got the lock reads the note about another process that may live.
    HolderIsRead,
    /// An unmount of one place of a mount makes everything durable first.
    DurableBeforeLeave,
    /// A mount is asked which process serves it; the path of its store does not matter.
    AskThroughMount,
    /// Who moves a directory keeps all other changes of names out.
    TreeAlone,
    /// Where locks had to be let go to be taken in order, a name is looked up again inside them.
    SecondLookAtNames,
    /// What has lost its last name gets none, and a directory without one takes no names.
    NamelessStaysSo,
    /// A key that is deleted below rows of other versions leaves a whiteout.
    Whiteouts,
    /// A row that some rows below hide is kept for the leaves that see it all the same.
    SeenByOthers,
    /// Clones, drops and moves of subvolumes exclude each other.
    SubvolumeLock,
    /// What subvolumes refer to is marked (I11).
    MarkSubvolumes,
    /// What a leaf has of a content that no row names yet is a copy that goes on, and no garbage.
    CopiesAreKept,
    /// What is cut again after small changes takes the place only of what was read for it.
    RecutLooksAgain,
    /// A name in a key ends before the version that follows it.
    NamesEnd,
    /// Whoever looks an inode up sees a drop that came meanwhile.
    DroppedIsSeen,
}

#[cfg(feature = "sim")]
mod switches {
    use super::Protection;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static OUT: AtomicU64 = AtomicU64::new(0);
    static FROM_ENVIRONMENT: OnceLock<u64> = OnceLock::new();

    const NAMES: &[(&str, Protection)] = &[
        ("mark-on-hit", Protection::MarkOnHit),
        ("one-snapshot", Protection::OneSnapshot),
        ("drain-before-snapshot", Protection::DrainBeforeSnapshot),
        ("watermark", Protection::Watermark),
        ("digest-still-names", Protection::DigestStillNames),
        ("durable-before-free", Protection::DurableBeforeFree),
        ("mark-orphans", Protection::MarkOrphans),
        ("error-ends-cycle", Protection::ErrorEndsCycle),
        ("clear-digest-cache", Protection::ClearDigestCache),
        ("bytes-before-names", Protection::BytesBeforeNames),
        ("log-is-synced", Protection::LogIsSynced),
        ("carried-under-sync", Protection::CarriedUnderSync),
        ("packs-before-fold", Protection::PacksBeforeFold),
        ("fold-before-cut", Protection::FoldBeforeCut),
        ("log-is-chained", Protection::LogIsChained),
        ("one-decision", Protection::OneDecision),
        ("grace", Protection::Grace),
        ("second-look", Protection::SecondLook),
        ("wait-for-batches", Protection::WaitForBatches),
        ("wait-for-forget", Protection::WaitForForget),
        ("never-reuse-bad", Protection::NeverReuseBad),
        ("heal-old-id", Protection::HealOldId),
        ("sweep-reads-again", Protection::SweepReadsAgain),
        ("protected-by-number", Protection::ProtectedByNumber),
        ("wait-for-changes", Protection::WaitForChanges),
        ("flush-before-protect", Protection::FlushBeforeProtect),
        ("clone-for-owner", Protection::CloneForOwner),
        ("store-lock", Protection::StoreLock),
        ("unsealed-stays", Protection::UnsealedStays),
        ("page-sums", Protection::PageSums),
        ("sums-before-sync", Protection::SumsBeforeSync),
        ("open-is-marked", Protection::OpenIsMarked),
        ("failure-is-reported", Protection::FailureIsReported),
        ("digests-first", Protection::DigestsFirst),
        ("staging-limit", Protection::StagingLimit),
        ("old-stays-in-place", Protection::OldStaysInPlace),
        ("leftovers-are-read", Protection::LeftoversAreRead),
        ("one-owner", Protection::OneOwner),
        ("no-links", Protection::NoLinks),
        ("transient-errors-pass", Protection::TransientErrorsPass),
        ("promises-are-backed", Protection::PromisesAreBacked),
        ("reserve-for-database", Protection::ReserveForDatabase),
        ("reserve-for-log", Protection::ReserveForLog),
        ("lock-is-seen", Protection::LockIsSeen),
        ("holder-is-read", Protection::HolderIsRead),
        ("durable-before-leave", Protection::DurableBeforeLeave),
        ("ask-through-mount", Protection::AskThroughMount),
        ("tree-alone", Protection::TreeAlone),
        ("second-look-at-names", Protection::SecondLookAtNames),
        ("nameless-stays-so", Protection::NamelessStaysSo),
        ("whiteouts", Protection::Whiteouts),
        ("seen-by-others", Protection::SeenByOthers),
        ("subvolume-lock", Protection::SubvolumeLock),
        ("mark-subvolumes", Protection::MarkSubvolumes),
        ("copies-are-kept", Protection::CopiesAreKept),
        ("recut-looks-again", Protection::RecutLooksAgain),
        ("names-end", Protection::NamesEnd),
        ("dropped-is-seen", Protection::DroppedIsSeen),
    ];

    fn bit(protection: Protection) -> u64 {
        1 << protection as u64
    }

    fn from_environment() -> u64 {
        let words = std::env::var("CAIRNFS_SABOTAGE").unwrap_or_default();
        let known = |word: &str| NAMES.iter().find(|(name, _)| *name == word);
        words.split(',').filter_map(known).map(|(_, protection)| bit(*protection)).sum()
    }

    /// True if the protection was taken out.
    pub fn out(protection: Protection) -> bool {
        let out = OUT.load(Ordering::Relaxed) | *FROM_ENVIRONMENT.get_or_init(from_environment);
        out & bit(protection) != 0
    }

    /// Takes a protection out of this process, or puts it back.
    pub fn take_out(protection: Protection, is_out: bool) {
        if is_out {
            OUT.fetch_or(bit(protection), Ordering::Relaxed);
        } else {
            OUT.fetch_and(!bit(protection), Ordering::Relaxed);
        }
    }
}

#[cfg(feature = "sim")]
pub use switches::{out, take_out};

/// Nothing can be taken out of this build.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub const fn out(_: Protection) -> bool {
    false
}
