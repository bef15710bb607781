//! How to check, and how far a check is.

/// How far a check is: first with the structure, then with the data, each from 0 to its own total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Work done: about one a row of the structure; plain bytes of the data, those included that need not be read.
    pub done: u64,
    /// All of it, as far as it can be known before.
    pub total: u64,
    /// True once it is the data.
    pub reads_data: bool,
    /// Plain bytes read so far.
    pub bytes: u64,
}

/// How to check.
pub struct Options<'a> {
    /// Read all data, not only the structure.
    pub data: bool,
    /// Go on with the data where an interrupted check stopped; the structure is looked at anew.
    pub resume: bool,
    /// Name every file that is hit, and not at most 100 for each finding. Takes about 100 bytes for each.
    pub all_names: bool,
    /// Told now and then how far the check is.
    pub progress: &'a dyn Fn(Progress),
    /// Asked now and then; once it says true, the check ends with EINTR.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// The structure from the beginning; nobody is told how far it is, and nobody ends it.
impl Default for Options<'_> {
    fn default() -> Self {
        Self { data: false, resume: false, all_names: false, progress: &|_| {}, cancelled: &|| false }
    }
}
