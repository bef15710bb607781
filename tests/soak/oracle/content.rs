//! The bytes of one file: what it has now, and what a crash may leave of it.
//!
//! Keeps true what docs/semantics.md promises of contents, byte by byte. An edit is *direct* if it is in the open batch
//! when it is answered (truncate, punch, zero, clone) and *staged* if the daemon or the kernel may hold it back
//! (write, mapped write). After a crash a byte may have the value of the last sync point or that of any edit since
//! (0 where the file ended before it: P8, a hole); a direct edit that is known to be there (names that were changed
//! after it are, or it was before another file's fsync) leaves only its own value and later ones. The size may be any
//! that the file grew through, since a write is stored in parts; a truncate that is there bounds it from above.

use std::sync::Arc;

#[derive(Debug, Clone)]
pub enum Edit {
    Write {
        at: usize,
        data: Arc<Vec<u8>>,
    },
    Truncate(usize),
    /// A hole. With `extends` the file reaches at least to its end.
    Zero {
        from: usize,
        to: usize,
        extends: bool,
    },
    /// fallocate(2) without a flag.
    Extend(usize),
    Clone {
        at: usize,
        data: Arc<Vec<u8>>,
    },
}

impl Edit {
    fn is_staged(&self) -> bool {
        matches!(self, Self::Write { .. })
    }

    pub fn describe(&self) -> String {
        match self {
            Self::Write { at, data } => format!("write {at}+{}", data.len()),
            Self::Truncate(size) => format!("truncate {size}"),
            Self::Zero { from, to, extends } => format!("zero {from}..{to} extends={extends}"),
            Self::Extend(size) => format!("allocate {size}"),
            Self::Clone { at, data } => format!("clone {at}+{}", data.len()),
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if !data.is_empty() {
        bytes.resize(bytes.len().max(at + data.len()), 0);
        bytes[at..at + data.len()].copy_from_slice(data);
    }
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    match edit {
        Edit::Write { at, data } | Edit::Clone { at, data } => put(bytes, *at, data),
        Edit::Truncate(size) => bytes.resize(*size, 0),
        Edit::Zero { from, to, extends } => {
            if *extends {
                bytes.resize(bytes.len().max(*to), 0);
            }
            let (from, to) = ((*from).min(bytes.len()), (*to).min(bytes.len()));
            bytes[from..to].fill(0);
        }
        Edit::Extend(size) => bytes.resize(bytes.len().max(*size), 0),
    }
}

/// A file's bytes at the last sync point, and every edit since.
#[derive(Debug, Clone, Default)]
pub struct Content {
    durable: Arc<Vec<u8>>,
    edits: Vec<(u64, Edit)>,
    now: Arc<Vec<u8>>,
    /// Written through shared memory since the last sync point: the daemon need not know all of it.
    pub mapped: bool,
}

/// What a crash may leave, while the edits are gone through.
struct Allowed<'a> {
    found: &'a [u8],
    /// By byte: it has a value that it may have.
    fits: Vec<bool>,
    sizes: (usize, usize),
    /// Something may be staged: the size in the store may lag behind.
    staged: bool,
}

impl<'a> Allowed<'a> {
    fn new(durable: &[u8], found: &'a [u8]) -> Self {
        let byte = |at: usize| durable.get(at).copied().unwrap_or(0);
        let fits = found.iter().enumerate().map(|(at, found)| *found == byte(at)).collect();
        Self { found, fits, sizes: (durable.len(), durable.len()), staged: false }
    }

    /// The bytes from `from` on may be these; with `sure` nothing from before.
    fn bytes(&mut self, from: usize, to: usize, value: impl Fn(usize) -> u8, sure: bool) {
        for at in from..to.min(self.found.len()) {
            self.fits[at] = self.found[at] == value(at) || self.fits[at] && !sure;
        }
    }

    fn grow(&mut self, to: usize, sure: bool) {
        self.sizes.1 = self.sizes.1.max(to);
        if sure && !self.staged {
            self.sizes.0 = self.sizes.0.max(to);
        }
    }

    fn edit(&mut self, edit: &Edit, sure: bool) {
        match edit {
            Edit::Write { at, data } => {
                self.bytes(*at, at + data.len(), |i| data[i - at], false);
                self.staged = true;
                self.grow(at + data.len(), false);
            }
            Edit::Clone { at, data } => {
                self.bytes(*at, at + data.len(), |i| data[i - at], sure);
                self.sizes.1 = self.sizes.1.max(at + data.len());
                if sure {
                    // A clone stores what is staged of its target first.
                    self.sizes.0 = self.sizes.0.max(at + data.len());
                }
            }
            Edit::Truncate(size) => {
                self.bytes(*size, usize::MAX, |_| 0, sure);
                let low = if sure && !self.staged { *size } else { self.sizes.0.min(*size) };
                let high = if sure { *size } else { self.sizes.1.max(*size) };
                self.sizes = (low, high);
            }
            Edit::Zero { from, to, extends } => {
                self.bytes(*from, *to, |_| 0, sure);
                if *extends {
                    self.grow(*to, sure);
                }
            }
            Edit::Extend(size) => self.grow(*size, sure),
        }
    }
}

impl Content {
    pub fn now(&self) -> &Arc<Vec<u8>> {
        &self.now
    }

    /// The bytes of the last sync point.
    pub fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub fn push(&mut self, seq: u64, edit: Edit) {
        apply(Arc::make_mut(&mut self.now), &edit);
        self.edits.push((seq, edit));
    }

    /// Everything so far is durable.
    pub fn synced(&mut self) {
        self.durable = self.now.clone();
        self.edits.clear();
        self.mapped = false;
    }

    /// What was found is what is there from now on.
    pub fn adopt(&mut self, found: Vec<u8>) {
        self.now = Arc::new(found);
        self.synced();
    }

    /// Exactly what is there now?
    pub fn differs(&self, found: &[u8]) -> Option<String> {
        if *found == **self.now {
            return None;
        }
        let at = found.iter().zip(self.now.iter()).position(|(a, b)| a != b);
        let at = at.unwrap_or(found.len().min(self.now.len()));
        Some(format!(
            "{} bytes, expected {}; first difference at {at}: found {}, expected {}",
            found.len(),
            self.now.len(),
            hex(found, at),
            hex(&self.now, at)
        ))
    }

    /// May a crash leave this? Direct edits up to number `there` are there, edits from `gone` on are not.
    pub fn crash_differs(&self, found: &[u8], there: u64, gone: u64) -> Option<String> {
        let mut allowed = Allowed::new(&self.durable, found);
        for (seq, edit) in self.edits.iter().filter(|(seq, _)| *seq < gone) {
            allowed.edit(edit, *seq <= there && !edit.is_staged());
        }
        let (low, high) = allowed.sizes;
        if !(low..=high).contains(&found.len()) {
            return Some(format!(
                "its size is {}, allowed are {low} to {high}; {}",
                found.len(),
                self.describe(there, gone, 0)
            ));
        }
        let at = allowed.fits.iter().position(|fits| !fits)?;
        let count = allowed.fits.iter().filter(|fits| !**fits).count();
        Some(format!(
            "{} bytes, of which {count} have values they never had, the first at {at}: found {}, at the last sync \
             point {}; {}",
            found.len(),
            hex(found, at),
            hex(&self.durable, at),
            self.describe(there, gone, at)
        ))
    }

    fn describe(&self, there: u64, gone: u64, at: usize) -> String {
        let mut text = format!(
            "{} bytes at the last sync point; edits since (there <= {there}, gone >= {gone}):",
            self.durable.len()
        );
        for (seq, edit) in &self.edits {
            text.push_str(&format!("\n    {seq}: {}", edit.describe()));
            if let Edit::Write { at: start, data } | Edit::Clone { at: start, data } = edit
                && at >= *start
                && at < start + data.len()
            {
                text.push_str(&format!(" has {}", hex(data, at - start)));
            }
        }
        text
    }
}

/// The eight bytes at `at`.
fn hex(bytes: &[u8], at: usize) -> String {
    let part = bytes.iter().skip(at).take(8);
    part.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
