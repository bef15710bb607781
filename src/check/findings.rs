//! Gathers what is wrong. Even a store that is damaged everywhere gives a readable report: beyond a number of findings
//! of one kind, the others are reported together.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;

/// Findings of one kind that are reported one by one.
const ONE_BY_ONE: u64 = 50;
/// Files named in one finding, unless all are asked for.
pub(super) const MAX_NAMES: usize = 100;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Row,
    Inode,
    Name,
    Attribute,
    Extent,
    Chunk,
    Region,
    Digest,
    Pack,
    Data,
    Counter,
    Backup,
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Kind::Row => "rows that cannot be read",
            Kind::Inode => "inodes",
            Kind::Name => "names",
            Kind::Attribute => "extended attributes",
            Kind::Extent => "extents",
            Kind::Chunk => "chunks that are not there",
            Kind::Region => "regions",
            Kind::Digest => "digests",
            Kind::Pack => "packs",
            Kind::Data => "chunks that do not read back",
            Kind::Counter => "counters",
            Kind::Backup => "metadata backups",
        }
    }
}

/// What a finding affects; the files are looked up from it at the end, all at once.
#[derive(Debug, Default)]
pub(super) struct Affected {
    /// These inodes.
    pub inodes: BTreeSet<u64>,
    /// These names in directories; no more than are reported.
    pub names: Vec<(u64, Vec<u8>)>,
    /// Names beyond those.
    pub more_names: u64,
    /// Everything that refers to a chunk with an id in one of these ranges, ends excluded. When the findings are
    /// finished, the ranges are sorted and do not touch.
    pub chunks: Vec<(u64, u64)>,
}

impl Affected {
    pub fn inode(ino: u64) -> Self {
        Self { inodes: BTreeSet::from([ino]), ..Self::default() }
    }

    pub fn name(dir: u64, name: &[u8]) -> Self {
        Self { names: vec![(dir, name.to_vec())], ..Self::default() }
    }

    /// `ids` may come in any order.
    pub fn chunks(ids: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut affected = Self { chunks: ids.into_iter().collect(), ..Self::default() };
        affected.join_chunks();
        affected
    }

    pub fn has_chunk(&self, first: u64, end: u64) -> bool {
        let at = self.chunks.partition_point(|range| range.1 <= first);
        self.chunks.get(at).is_some_and(|range| range.0 < end)
    }

    fn join_chunks(&mut self) {
        self.chunks.sort_unstable();
        self.chunks.dedup_by(|next, last| {
            let touches = next.0 <= last.1;
            if touches {
                last.1 = last.1.max(next.1);
            }
            touches
        });
    }

    fn add(&mut self, other: Self, named: usize) {
        self.inodes.extend(other.inodes);
        let room = named.saturating_sub(self.names.len()).min(other.names.len());
        self.more_names += other.more_names + (other.names.len() - room) as u64;
        self.names.extend(other.names.into_iter().take(room));
        // Joined once, at the end.
        self.chunks.extend(other.chunks);
    }
}

/// A finding whose files are not known yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub what: String,
    pub affected: Affected,
}

/// Everything found so far.
#[derive(Debug)]
pub(super) struct Findings {
    /// Names that are kept for one finding.
    named: usize,
    list: Vec<Pending>,
    counts: BTreeMap<Kind, u64>,
    /// Findings that are reported together.
    others: BTreeMap<Kind, Pending>,
}

impl Findings {
    pub fn new(named: usize) -> Self {
        Self { named, list: Vec::new(), counts: BTreeMap::new(), others: BTreeMap::new() }
    }

    pub fn add(&mut self, kind: Kind, what: String, affected: Affected) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= ONE_BY_ONE {
            self.list.push(Pending { what, affected });
        } else if let Some(others) = self.others.get_mut(&kind) {
            others.affected.add(affected, self.named);
        } else {
            self.others.insert(kind, Pending { what, affected });
        }
    }

    /// All of them, in the order of the report.
    pub fn finish(self) -> Vec<Pending> {
        let mut list = self.list;
        for (kind, mut others) in self.others {
            let more = self.counts.get(&kind).map_or(0, |count| count - ONE_BY_ONE);
            others.affected.join_chunks();
            others.what = format!("{more} more findings about {}, such as: {}", kind.plural(), others.what);
            list.push(others);
        }
        list
    }
}

/// The text of an error, without the advice to run a check.
pub(super) fn sentence(error: &Error) -> String {
    match error {
        Error::Damaged(what) => what.clone(),
        other => other.to_string(),
    }
}

/// Ids for people: `7`, or `7 to 9`.
pub(super) fn span(first: u64, end: u64) -> String {
    match end - first {
        1 => format!("chunk {first}"),
        _ => format!("chunks {first} to {}", end - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_one_kind_are_bounded_and_no_victim_is_lost() {
        let mut findings = Findings::new(MAX_NAMES);
        for ino in 0..1000 {
            findings.add(Kind::Inode, format!("inode {ino}"), Affected::inode(ino));
        }
        findings.add(Kind::Pack, "pack".into(), Affected::chunks([(7, 9), (3, 4), (9, 12)]));
        let list = findings.finish();
        assert_eq!(list.len(), ONE_BY_ONE as usize + 2);
        let last = list.last().unwrap();
        assert_eq!(last.what, "950 more findings about inodes, such as: inode 50");
        assert_eq!(last.affected.inodes.len(), 950);
    }

    #[test]
    fn ranges_of_chunks_are_joined_and_found() {
        let affected = Affected::chunks([(7, 9), (3, 4), (9, 12), (8, 10)]);
        assert_eq!(affected.chunks, [(3, 4), (7, 12)]);
        let has = |first, end| affected.has_chunk(first, end);
        assert!(has(0, 4) && has(3, 4) && has(11, 20) && has(4, 8));
        assert!(!has(0, 3) && !has(4, 7) && !has(12, 13));
    }
}
