//! The file under the database: its pages, with a sum of each beside them.
//!
//! Keeps true: the engine gets a page only if it is the one that was written there last, or if nothing was ever written
//! there and it is all zeros. The engine does not verify its pages. Without this, a changed byte in a page could hide
//! rows from a scan or a lookup, and a cycle would free what they refer to. The reasons and the cost:
//! `docs/decisions/0010-page-sums.md`.
//!
//! The file has a head, then groups of one page of sums and the 1024 pages that it covers. Sums are written just before
//! the sync that makes their pages durable. A power cut may leave a page without its sum, or the reverse, but only if
//! the page was not synced, and the engine never reads such a page again. The sums in one page of sums do not endanger
//! each other: after a power cut, each has its old or its new value. The engine's own head (its first page) is an
//! exception: it is rewritten in place. The engine protects its content by sums of its own, but not the choice between
//! its two states. So our head has the sum of that page while the database is closed, and says when it is open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::chunk::is_zero;
use crate::media::MediaFile;
use crate::sabotage::{Protection, out};

/// Bytes of a page, of a page of sums and of the head.
const PAGE: u64 = 4096;
/// Pages whose sums one page of sums holds.
const GROUP: u64 = 1024;
/// Bytes of the file that are allocated on the host at a time. The engine doubles the length when the file is full, and
/// uses the lowest free pages first, so most of the new length is unused for a long time.
const CLAIM: u64 = 4 << 20;
/// Pages of sums that are cached beside those that wait to be written: 8 MiB, for 8 GiB of database.
const SUMS_KEPT: usize = 2048;

const MAGIC: [u8; 16] = *b"cairnfs pages 1\n";
/// Bytes of the head: magic, state, sum of the engine's head, pages, identity, checksum.
const HEAD_LEN: usize = 48;
/// The identity of no file.
const NO_IDENTITY: u64 = 0;

/// What a file's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// It was closed cleanly: the sum of the engine's head, and the number of pages.
    Closed { sum: u32, pages: u64 },
    /// It is open, or its process ended without closing it; the identity of the file at that time.
    Open { identity: u64 },
}

impl Head {
    fn encode(self) -> [u8; HEAD_LEN] {
        let (state, sum, pages, identity) = match self {
            Self::Closed { sum, pages } => (1u32, sum, pages, 0),
            Self::Open { identity } => (2, 0, 0, identity),
        };
        let mut bytes = [0; HEAD_LEN];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..20].copy_from_slice(&state.to_le_bytes());
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        bytes[24..32].copy_from_slice(&pages.to_le_bytes());
        bytes[32..40].copy_from_slice(&identity.to_le_bytes());
        let checksum = xxh3_64(&bytes[..40]);
        bytes[40..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` if it is damaged, or torn by a power cut while it was written.
    fn decode(bytes: &[u8; HEAD_LEN]) -> io::Result<Option<Self>> {
        if bytes[..16] != MAGIC {
            return Err(damaged("it does not begin like a metadata database"));
        }
        let words = bytes.as_chunks::<8>().0;
        let word = |at: usize| u64::from_le_bytes(words[at]);
        if word(5) != xxh3_64(&bytes[..40]) {
            return Ok(None);
        }
        Ok(match word(2) as u32 {
            1 => Some(Self::Closed { sum: (word(2) >> 32) as u32, pages: word(3) }),
            2 => Some(Self::Open { identity: word(4) }),
            _ => None,
        })
    }
}

/// The state of a file when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shutdown {
    /// Closed cleanly, or made just now.
    Clean,
    /// It was open when its process or the machine ended.
    Unclean,
    /// The same, and it is not the file that was open then, but a copy of a file in use, whose parts may not fit.
    CopiedInUse,
}

/// A file of pages.
#[derive(Debug)]
pub(super) struct Pages {
    file: Arc<dyn MediaFile>,
    shutdown: Shutdown,
    /// One change at a time, a sync included. Lock order: before `state`.
    changing: Mutex<Changing>,
    /// Held for short reads or changes, and to read or write a page of sums; not during a sync.
    state: Mutex<State>,
}

type Sums = Box<[u8; PAGE as usize]>;

#[derive(Debug, Default)]
struct Changing {
    /// The head says that the file is open.
    marked: bool,
    /// It is not known yet whether the parts of the file fit; its head says so, too.
    unverified: bool,
    /// Something was written since the last sync.
    unsynced: bool,
    /// The first failed change (I8): nothing is changed after it.
    failure: Option<Failure>,
}

#[derive(Debug)]
struct State {
    /// Pages of the engine.
    pages: u64,
    /// Pages of sums as they stand in the file, by group.
    clean: LruCache<u64, Sums>,
    /// Those that changed since they were written last.
    dirty: BTreeMap<u64, Sums>,
    /// The sum of the engine's head, if it is known.
    first: Option<u32>,
    /// Numbers of the stretches of [`CLAIM`] bytes that are known to be allocated on the disk.
    claimed: BTreeSet<u64>,
}

/// An error that can be returned more than once.
#[derive(Debug)]
struct Failure {
    errno: Option<i32>,
    kind: io::ErrorKind,
    text: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error(), kind: error.kind(), text: error.to_string() }
    }
}

impl Failure {
    fn again(&self) -> io::Error {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(self.kind, self.text.clone()),
        }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The sum of a page; no page with anything in it has the sum 0.
fn sum_of(number: u64, page: &[u8]) -> u32 {
    if is_zero(page) {
        return 0;
    }
    (xxh3_64_with_seed(page, number) as u32).max(1)
}

/// Where a group's page of sums is.
fn sums_at(group: u64) -> u64 {
    (1 + group * (GROUP + 1)) * PAGE
}

/// Where a page is.
fn page_at(number: u64) -> u64 {
    sums_at(number / GROUP) + (1 + number % GROUP) * PAGE
}

/// The length of a file with this many pages.
fn file_len(pages: u64) -> u64 {
    (1 + pages.div_ceil(GROUP) + pages) * PAGE
}

/// How many pages a file of this length has.
fn pages_in(len: u64) -> u64 {
    let rest = (len / PAGE).saturating_sub(1);
    rest / (GROUP + 1) * GROUP + (rest % (GROUP + 1)).saturating_sub(1)
}

impl Pages {
    /// Begins an empty file.
    pub fn create(file: Arc<dyn MediaFile>) -> io::Result<Self> {
        if file.len()? > 0 {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        file.allocate(0, PAGE)?;
        let pages = Self::new(file, Shutdown::Clean, 0, None)?;
        pages.mark_open(&mut pages.changing.lock())?;
        Ok(pages)
    }

    /// Opens a file that is there.
    pub fn open(file: Arc<dyn MediaFile>) -> io::Result<Self> {
        let len = file.len()?;
        if len < PAGE {
            return Err(damaged("it is empty, or all but empty"));
        }
        let mut head = [0; HEAD_LEN];
        file.read_at(&mut head, 0)?;
        let pages = pages_in(len);
        match Head::decode(&head)? {
            Some(Head::Closed { pages: recorded, .. }) if file_len(recorded) != len => {
                Err(damaged("it does not have the length with which it was closed"))
            }
            Some(Head::Closed { sum, .. }) => Self::new(file, Shutdown::Clean, pages, Some(sum)),
            Some(Head::Open { identity }) if identity != file.identity()? => {
                Self::new(file, Shutdown::CopiedInUse, pages, None)
            }
            Some(Head::Open { .. }) => Self::new(file, Shutdown::Unclean, pages, None),
            // Torn while the file was opened or closed, or damaged: its state is not known.
            None => Self::new(file, Shutdown::CopiedInUse, pages, None),
        }
    }

    fn new(file: Arc<dyn MediaFile>, shutdown: Shutdown, pages: u64, first: Option<u32>) -> io::Result<Self> {
        let kept = NonZeroUsize::new(SUMS_KEPT).unwrap_or(NonZeroUsize::MIN);
        // A file without holes is allocated. Otherwise its stretches are allocated again. That costs nothing if the
        // host can allocate; if not, it rewrites the bytes once.
        let has_place = file.allocated()? >= file_len(pages);
        let claimed = if has_place { (0..file_len(pages) / CLAIM).collect() } else { BTreeSet::new() };
        let state = State { pages, clean: LruCache::new(kept), dirty: BTreeMap::new(), first, claimed };
        let changing = Changing { unverified: shutdown == Shutdown::CopiedInUse, ..Changing::default() };
        Ok(Self { file, shutdown, changing: Mutex::new(changing), state: Mutex::new(state) })
    }

    /// How the file was found.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown
    }

    /// The engine's length in bytes.
    pub fn len(&self) -> u64 {
        self.state.lock().pages * PAGE
    }

    /// Before the first change: from here on, an opening must not rely on the closed state in the head.
    fn mark_open(&self, changing: &mut Changing) -> io::Result<()> {
        if !changing.marked && !out(Protection::OpenIsMarked) {
            let identity = if changing.unverified { NO_IDENTITY } else { self.file.identity()? };
            self.file.write_at(&Head::Open { identity }.encode(), 0)?;
            self.file.sync()?;
            changing.marked = true;
        }
        Ok(())
    }

    /// Notes that all of the file was read and fits. Until then, the next opening finds a copy of a file in use again.
    pub fn verified(&self) {
        self.change(|changing| {
            (changing.unverified, changing.marked) = (false, false);
            self.mark_open(changing)
        });
    }

    /// Fills the buffer with whole pages; only the engine's head may be read in part.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !offset.is_multiple_of(PAGE) || !(out.len() as u64).is_multiple_of(PAGE) {
            let (number, within) = (offset / PAGE, (offset % PAGE) as usize);
            let mut page = vec![0; PAGE as usize];
            self.read_run(number, &mut page)?;
            let part = page.get(within..within + out.len());
            out.copy_from_slice(part.ok_or_else(|| damaged("a part of two pages was asked for"))?);
            return Ok(());
        }
        for (number, range) in runs(offset / PAGE, out.len()) {
            self.read_run(number, &mut out[range])?;
        }
        Ok(())
    }

    /// Reads pages of one group and compares them with their sums.
    fn read_run(&self, first: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(buf, page_at(first))?;
        let count = (buf.len() as u64).div_ceil(PAGE);
        let expected: Vec<Option<u32>> = {
            let mut state = self.state.lock();
            let head = (first == 0).then_some(state.first);
            let sums = self.sums(&mut state, first / GROUP)?;
            (first..first + count)
                .map(|number| head.filter(|_| number == 0).unwrap_or_else(|| Some(sum_in(sums, number))))
                .collect()
        };
        for ((number, page), expected) in (first..).zip(buf.chunks(PAGE as usize)).zip(expected) {
            let matches = expected.is_none_or(|expected| expected == sum_of(number, page));
            if !matches && !out(Protection::PageSums) {
                return Err(damaged(&format!("page {number} is not what was written")));
            }
        }
        Ok(())
    }

    /// The sums of a group, from memory or from the file.
    fn sums<'s>(&self, state: &'s mut State, group: u64) -> io::Result<&'s Sums> {
        if !state.dirty.contains_key(&group) {
            if !state.clean.contains(&group) {
                let sums = self.read_sums(group)?;
                state.clean.put(group, sums);
            }
            return state.clean.get(&group).ok_or_else(|| damaged("sums were lost"));
        }
        Ok(&state.dirty[&group])
    }

    fn read_sums(&self, group: u64) -> io::Result<Sums> {
        let mut sums = Box::new([0; PAGE as usize]);
        self.file.read_at(&mut sums[..], sums_at(group))?;
        Ok(sums)
    }

    /// The same, to be changed.
    fn sums_mut<'s>(&self, state: &'s mut State, group: u64) -> io::Result<&'s mut Sums> {
        if !state.dirty.contains_key(&group) {
            let sums = match state.clean.pop(&group) {
                Some(sums) => sums,
                None => self.read_sums(group)?,
            };
            state.dirty.insert(group, sums);
        }
        state.dirty.get_mut(&group).ok_or_else(|| damaged("sums were lost"))
    }

    /// Makes a change, unless one failed before. The engine does not learn of a failure: it would refuse to read,
    /// although everything committed is readable. The commit asks for the failure ([`failure`](Self::failure)).
    fn change(&self, make: impl FnOnce(&mut Changing) -> io::Result<()>) {
        let mut changing = self.changing.lock();
        if changing.failure.is_none()
            && let Err(error) = make(&mut changing)
        {
            changing.failure = Some(error.into());
        }
    }

    /// Changes nothing from here on; later changes fail with `why`.
    pub fn stop(&self, why: &impl std::fmt::Display) {
        let mut changing = self.changing.lock();
        changing.failure.get_or_insert_with(|| io::Error::other(why.to_string()).into());
    }

    /// The error of the first failed change: nothing since then is in the file.
    pub fn failure(&self) -> Option<io::Error> {
        let changing = self.changing.lock();
        changing.failure.as_ref().filter(|_| !out(Protection::FailureIsReported)).map(Failure::again)
    }

    /// Writes whole pages, or a beginning of the engine's head. The sums change first, also if the write fails: the
    /// remains of a failed write must not be taken for a page of the engine.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let expected = self.note_sums(offset, data);
        self.change(|changing| {
            expected?;
            self.mark_open(changing)?;
            changing.unsynced = true;
            if offset == 0 {
                self.claim(0, page_at(1))?;
                return self.file.write_at(data, page_at(0));
            }
            for (first, range) in runs(offset / PAGE, data.len()) {
                // With their sums, which are written at the sync.
                self.claim(sums_at(first / GROUP), page_at(first) + range.len() as u64)?;
                self.file.write_at(&data[range], page_at(first))?;
            }
            Ok(())
        });
    }

    /// Allocates the file's blocks from `from` to `end` and some around them. If the disk is full, this is refused
    /// cleanly; without it, a later write or sync would fail.
    fn claim(&self, from: u64, end: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        for number in from / CLAIM..end.div_ceil(CLAIM) {
            if !state.claimed.contains(&number) {
                let (from, to) = (number * CLAIM, ((number + 1) * CLAIM).min(file_len(state.pages)));
                self.file.allocate(from, to - from)?;
                state.claimed.insert(number);
            }
        }
        Ok(())
    }

    /// Sets the sums of pages that are about to be written.
    fn note_sums(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset.saturating_add(data.len() as u64) > self.len() {
            return Err(damaged("a write beyond the end"));
        }
        if offset == 0 && data.len() as u64 <= PAGE {
            let mut page = vec![0; PAGE as usize];
            self.file.read_at(&mut page, page_at(0))?;
            page[..data.len()].copy_from_slice(data);
            self.state.lock().first = Some(sum_of(0, &page));
            return Ok(());
        }
        if offset == 0 || !offset.is_multiple_of(PAGE) || !(data.len() as u64).is_multiple_of(PAGE) {
            return Err(damaged("a write of parts of pages"));
        }
        for (first, range) in runs(offset / PAGE, data.len()) {
            let numbered = (first..).zip(data[range].chunks(PAGE as usize));
            let new: Vec<(u64, u32)> =
                numbered.map(|(number, page)| (number, sum_of(number, page))).collect();
            let mut state = self.state.lock();
            let sums = self.sums_mut(&mut state, first / GROUP)?;
            new.into_iter().for_each(|(number, sum)| set_sum(sums, number, sum));
        }
        Ok(())
    }

    /// Changes the engine's length. New pages are zeros, and are allocated on the disk before they are written.
    pub fn set_len(&self, len: u64) {
        self.change(|changing| {
            self.mark_open(changing)?;
            changing.unsynced = true;
            self.try_set_len(len)
        });
    }

    fn try_set_len(&self, len: u64) -> io::Result<()> {
        if !len.is_multiple_of(PAGE) {
            return Err(damaged("a length of parts of pages"));
        }
        let mut state = self.state.lock();
        let pages = len / PAGE;
        let (have, want) = (file_len(state.pages), file_len(pages));
        if want > have {
            self.file.set_len(want)?;
        } else if want < have {
            self.file.set_len(want)?;
            self.forget_beyond(&mut state, pages)?;
        }
        // The last stretch was allocated only up to the old end of the file.
        state.claimed.retain(|number| *number < want.min(have) / CLAIM);
        state.pages = pages;
        Ok(())
    }

    /// Clears the sums of pages beyond the end: if they are added again, they begin as zeros.
    fn forget_beyond(&self, state: &mut State, pages: u64) -> io::Result<()> {
        let cut_off = pages.div_ceil(GROUP);
        state.dirty.split_off(&cut_off);
        let kept = state.clean.iter().map(|(group, _)| *group);
        let gone: Vec<u64> = kept.filter(|group| *group >= cut_off).collect();
        for group in gone {
            state.clean.pop(&group);
        }
        if !pages.is_multiple_of(GROUP) {
            let from = (pages % GROUP) as usize * 4;
            // An unchanged page of sums need not be allocated; the disk may be full.
            if !is_zero(&self.sums(state, pages / GROUP)?[from..]) {
                self.sums_mut(state, pages / GROUP)?[from..].fill(0);
            }
        }
        Ok(())
    }

    /// Writes the sums that changed and makes everything durable.
    pub fn sync(&self) {
        self.change(|changing| {
            let first = !out(Protection::SumsBeforeSync);
            if first {
                self.write_sums()?;
            }
            self.file.sync()?;
            if !first {
                self.write_sums()?;
            }
            changing.unsynced = false;
            Ok(())
        });
    }

    fn write_sums(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        // A page of sums that cannot be written stays in memory, where it is still right.
        while let Some((group, sums)) = state.dirty.first_key_value() {
            self.file.write_at(&sums[..], sums_at(*group))?;
            if let Some((group, sums)) = state.dirty.pop_first() {
                state.clean.put(group, sums);
            }
        }
        Ok(())
    }

    /// Marks the file as closed in its head.
    pub fn close(&self) {
        self.change(|changing| {
            if changing.unverified {
                return Ok(());
            }
            let (first, pages) = {
                let state = self.state.lock();
                (state.first, state.pages)
            };
            let Some(sum) = first.filter(|_| changing.marked || out(Protection::OpenIsMarked)) else {
                return Ok(());
            };
            if changing.unsynced {
                self.write_sums()?;
                self.file.sync()?;
            }
            self.file.write_at(&Head::Closed { sum, pages }.encode(), 0)?;
            self.file.sync()?;
            (changing.marked, changing.unsynced) = (false, false);
            Ok(())
        });
    }
}

fn sum_in(sums: &Sums, number: u64) -> u32 {
    sums.as_chunks::<4>().0.get((number % GROUP) as usize).map_or(0, |sum| u32::from_le_bytes(*sum))
}

fn set_sum(sums: &mut Sums, number: u64, sum: u32) {
    if let Some(place) = sums.as_chunks_mut::<4>().0.get_mut((number % GROUP) as usize) {
        *place = sum.to_le_bytes();
    }
}

/// Splits `len` bytes of pages from `first` on at the ends of groups: the first page of each run, and its range in the
/// bytes.
fn runs(first: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = first + len as u64 / PAGE;
    let mut at = first;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let next = ((at / GROUP + 1) * GROUP).min(end);
            let range = ((at - first) * PAGE) as usize..((next - first) * PAGE) as usize;
            (std::mem::replace(&mut at, next), range)
        })
    })
}

/// Sets the sum of every page of a closed file to that of its present bytes. For tests that change pages behind the
/// engine.
#[cfg(any(test, feature = "sim"))]
pub fn recompute_sums(bytes: &mut [u8]) {
    let pages = pages_in(bytes.len() as u64);
    for number in 1..pages {
        let at = page_at(number) as usize;
        let sum = sum_of(number, &bytes[at..at + PAGE as usize]);
        let place = (sums_at(number / GROUP) + number % GROUP * 4) as usize;
        bytes[place..place + 4].copy_from_slice(&sum.to_le_bytes());
    }
    let first = page_at(0) as usize;
    let head = Head::Closed { sum: sum_of(0, &bytes[first..first + PAGE as usize]), pages };
    bytes[..HEAD_LEN].copy_from_slice(&head.encode());
}

#[cfg(test)]
mod tests;
