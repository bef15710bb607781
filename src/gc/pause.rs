//! The points at which a test can stop a cycle and decide what happens next.
//!
//! In a build without the feature `sim` nothing here does anything. With it, a cycle that reaches a point calls the
//! hook of its collector. If the environment variable `CAIRNFS_PAUSE_DIR` names a directory with a file of the point's
//! name, the cycle makes `NAME.reached` beside that file and waits until the file is removed.

use std::fmt;

/// A point between two steps of a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// Nothing has happened yet.
    Begin,
    /// The queue of deleted files is worked off, the flip has not happened.
    BeforeFlip,
    /// The barrier is armed, nothing is marked.
    Flipped,
    /// Some extents are marked, others are not.
    MidMark,
    /// Everything is marked, nothing is condemned.
    Marked,
    /// Some chunks are condemned, their rows still exist.
    Condemned,
    /// Some rows are removed.
    MidSweep,
    /// All condemned rows are removed, no space is freed.
    Swept,
    /// Regions were moved, their old places are not freed.
    Moved,
    /// Space is freed, the barrier is still armed.
    Reclaimed,
}

impl Point {
    /// All points in the order in which a cycle passes them.
    pub const ALL: [Point; 10] = [
        Point::Begin,
        Point::BeforeFlip,
        Point::Flipped,
        Point::MidMark,
        Point::Marked,
        Point::Condemned,
        Point::MidSweep,
        Point::Swept,
        Point::Moved,
        Point::Reclaimed,
    ];

    /// The point's name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Point::Begin => "begin",
            Point::BeforeFlip => "before-flip",
            Point::Flipped => "flipped",
            Point::MidMark => "mid-mark",
            Point::Marked => "marked",
            Point::Condemned => "condemned",
            Point::MidSweep => "mid-sweep",
            Point::Swept => "swept",
            Point::Moved => "moved",
            Point::Reclaimed => "reclaimed",
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a test does at a point.
pub type Hook = std::sync::Arc<dyn Fn(Point) + Send + Sync>;

/// Stops the cycle here if the environment says so.
#[cfg(feature = "sim")]
pub(super) fn hold_by_file(point: Point) {
    use std::path::Path;
    let Some(dir) = std::env::var_os("CAIRNFS_PAUSE_DIR") else {
        return;
    };
    let gate = Path::new(&dir).join(point.name());
    if !gate.exists() {
        return;
    }
    let _ = std::fs::write(gate.with_extension("reached"), b"");
    while gate.exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
