//! The oracle against a small daemon of its own: it must allow whatever a daemon that keeps the rules can leave, and
//! nothing that it cannot. An oracle that allows all would find no loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairnfs::media::sim::Rng;

use crate::oracle::content::{Content, Edit};
use crate::oracle::names::{Change, Found, Journal, Kind, Names, Tree};

/// A byte that no edit writes.
const NEVER: u8 = 255;

/// One file in a daemon that stages writes and commits now and then.
#[derive(Debug, Clone, Default)]
struct Daemon {
    staged: Vec<(usize, Vec<u8>)>,
    size: usize,
    /// What the open batch has.
    batch: Vec<u8>,
    /// What survives a kill, and the last direct edit in it.
    durable: Vec<u8>,
    durable_seq: u64,
    last_direct: u64,
}

impl Daemon {
    fn write(&mut self, at: usize, data: &[u8]) {
        // In the pieces in which the kernel and the daemon may store it.
        self.staged.extend(data.chunks(7).enumerate().map(|(n, part)| (at + n * 7, part.to_vec())));
        self.size = self.size.max(at + data.len());
    }

    /// Stores what is staged from its first piece on; with `all`, everything.
    fn flush(&mut self, random: &mut Rng, all: bool) {
        let count = if all { self.staged.len() } else { random.below(self.staged.len() as u64 + 1) as usize };
        for (at, data) in self.staged.drain(..count) {
            self.batch.resize(self.batch.len().max(at + data.len()), 0);
            self.batch[at..at + data.len()].copy_from_slice(&data);
        }
        if self.staged.is_empty() {
            self.batch.resize(self.size, 0);
        }
    }

    fn discard(&mut self, from: usize, to: usize) {
        let outside = |at: usize| at < from || at >= to;
        let single =
            |(at, data): (usize, Vec<u8>)| data.into_iter().enumerate().map(move |(n, b)| (at + n, vec![b]));
        self.staged = std::mem::take(&mut self.staged).into_iter().flat_map(single).collect();
        self.staged.retain(|(at, _)| outside(*at));
    }

    fn direct(&mut self, seq: u64, edit: &Edit, random: &mut Rng) {
        match edit {
            Edit::Write { .. } => unreachable!("writes are staged"),
            Edit::Truncate(size) => {
                self.discard(*size, usize::MAX);
                self.batch.truncate(*size);
                self.size = *size;
            }
            Edit::Zero { from, to, extends } => {
                self.discard(*from, *to);
                let end = (*to).min(self.batch.len());
                self.batch[(*from).min(end)..end].fill(0);
                self.size = if *extends { self.size.max(*to) } else { self.size };
            }
            Edit::Extend(size) => self.size = self.size.max(*size),
            Edit::Clone { at, data } => {
                self.flush(random, true);
                self.size = self.size.max(at + data.len());
                self.batch.resize(self.size, 0);
                self.batch[*at..at + data.len()].copy_from_slice(data);
            }
        }
        if self.staged.is_empty() {
            self.batch.resize(self.size, 0);
        }
        self.last_direct = seq;
    }

    fn commit(&mut self) {
        self.durable = self.batch.clone();
        self.durable_seq = self.last_direct;
    }
}

fn some_edit(random: &mut Rng) -> Edit {
    let (at, len) = (random.below(120) as usize, 1 + random.below(40) as usize);
    let data = Arc::new((0..len).map(|_| 1 + random.below(200) as u8).collect::<Vec<u8>>());
    match random.below(9) {
        0 => Edit::Truncate(at),
        1 => Edit::Zero { from: at, to: at + len, extends: false },
        2 => Edit::Zero { from: at, to: at + len, extends: true },
        3 => Edit::Extend(at),
        4 => Edit::Clone { at, data },
        _ => Edit::Write { at, data },
    }
}

/// How many wrong states were tried, for the certainty that some were.
#[derive(Debug, Default)]
struct Tried {
    allowed: u64,
    refused: u64,
}

fn bytes(seed: u64, tried: &mut Tried) {
    let mut random = Rng::new(seed);
    let (mut oracle, mut daemon) = (Content::default(), Daemon::default());
    let mut directs = Vec::new();
    for seq in 1..40 {
        let edit = some_edit(&mut random);
        match &edit {
            Edit::Write { at, data } => daemon.write(*at, data),
            direct => {
                daemon.direct(seq, direct, &mut random);
                directs.push(seq);
            }
        }
        oracle.push(seq, edit);
        match random.below(6) {
            0 => daemon.flush(&mut random, false),
            1 => daemon.commit(),
            2 if random.below(3) == 0 => {
                daemon.flush(&mut random, true);
                daemon.commit();
                assert_eq!(oracle.differs(&daemon.durable), None, "seed {seed}, {seq}");
                let before = oracle.clone();
                oracle.synced();
                lost_after_sync(&before, &oracle, tried);
            }
            _ => {}
        }
        let there = daemon.durable_seq;
        let gone = directs.iter().copied().find(|direct| *direct > there).unwrap_or(u64::MAX);
        let wrong = oracle.crash_differs(&daemon.durable, there, gone);
        assert_eq!(wrong, None, "seed {seed}, {seq}: the oracle refuses what a daemon may leave");
        tried.allowed += 1;
        if !daemon.durable.is_empty() {
            let mut damaged = daemon.durable.clone();
            let at = random.below(damaged.len() as u64) as usize;
            damaged[at] = NEVER;
            assert!(
                oracle.crash_differs(&damaged, there, gone).is_some(),
                "seed {seed}: a wrong byte passes"
            );
            assert!(oracle.differs(&damaged).is_some(), "seed {seed}: a wrong byte passes without a crash");
            tried.refused += 1;
        }
        let longer = vec![0; 1000];
        assert!(
            oracle.crash_differs(&longer, there, gone).is_some(),
            "seed {seed}: a size it never had passes"
        );
    }
}

/// What was there before the edits that an fsync covered must not pass after it.
fn lost_after_sync(before: &Content, after: &Content, tried: &mut Tried) {
    let old = before.durable();
    if *old != ***after.now() {
        assert!(after.crash_differs(old, 0, u64::MAX).is_some(), "what an fsync covered may be lost");
        tried.refused += 1;
    }
}

fn tree(names: &Names) -> Tree {
    let found = |(path, fid): (&String, &u32)| {
        let node = names.nodes[fid].clone();
        (path.clone(), Found { node, ino: u64::from(*fid) + 100, links: names.links(*fid) })
    };
    names.paths.iter().map(found).collect()
}

fn some_change(random: &mut Rng, names: &Names, fid: &mut u32) -> Option<Change> {
    let paths: Vec<&String> = names.paths.keys().collect();
    let dirs: Vec<&&String> = paths.iter().filter(|p| names.nodes[&names.fid(p)].kind == Kind::Dir).collect();
    let one = |random: &mut Rng| (*paths[random.below(paths.len() as u64) as usize]).clone();
    let free = |random: &mut Rng| {
        let dir = dirs[random.below(dirs.len() as u64) as usize];
        Some(format!("{dir}/n{}", random.below(30))).filter(|path| !names.paths.contains_key(path))
    };
    let from = one(random);
    let is_dir = names.nodes[&names.fid(&from)].kind == Kind::Dir;
    match random.below(6) {
        0 | 1 => {
            *fid += 1;
            let kind = if random.below(3) == 0 { Kind::Dir } else { Kind::File };
            Some(Change::Make { path: free(random)?, fid: *fid, kind, mode: 0o644 })
        }
        2 if !is_dir => Some(Change::Remove { path: from }),
        3 if !is_dir => Some(Change::Link { fid: names.fid(&from), path: free(random)? }),
        4 => {
            let to = free(random)?;
            (from != "top" && !to.starts_with(&format!("{from}/"))).then_some(Change::Rename { from, to })
        }
        5 => {
            let value = Some(random.draw().to_le_bytes().to_vec());
            Some(Change::Xattr { fid: names.fid(&from), name: "user.x".to_owned(), value })
        }
        _ => None,
    }
}

/// Every prefix passes and bounds the numbers rightly; a tree with one change left out does not, nor one with another
/// inode, name or attribute.
fn names(seed: u64, tried: &mut Tried) {
    let mut random = Rng::new(seed);
    let (mut journal, mut fid) = (Journal::default(), 1);
    journal.push(1, Change::Make { path: "top".to_owned(), fid, kind: Kind::Dir, mode: 0o755 });
    journal.synced();
    let (mut changes, mut states) = (Vec::new(), vec![journal.now.clone()]);
    while changes.len() < 20 {
        if let Some(change) = some_change(&mut random, &journal.now, &mut fid) {
            journal.push(changes.len() as u64 + 2, change.clone());
            changes.push(change);
            states.push(journal.now.clone());
        }
    }
    let inos: BTreeMap<u32, u64> = (1..=fid).map(|fid| (fid, u64::from(fid) + 100)).collect();
    for (done, state) in states.iter().enumerate() {
        let cut = journal.cut(&tree(state), &inos).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        assert!(
            cut.there <= done as u64 + 1 && cut.gone >= done as u64 + 2,
            "seed {seed}: {cut:?} at {done}"
        );
        tried.allowed += 1;
        for mutant in mutants(&mut random, &tree(state)) {
            assert!(journal.cut(&mutant, &inos).is_err(), "seed {seed}: a wrong tree passes at {done}");
            tried.refused += 1;
        }
    }
    let left_out = changes.iter().position(|change| matches!(change, Change::Xattr { .. }));
    let Some(left_out) = left_out else { return };
    let mut other = states[left_out].clone();
    changes[left_out + 1..].iter().for_each(|change| other.apply(change));
    let same = states.iter().any(|state| state.differences(&tree(&other), &inos).is_empty());
    assert_eq!(
        journal.cut(&tree(&other), &inos).is_ok(),
        same,
        "seed {seed}: a change in the middle is missing"
    );
}

fn mutants(random: &mut Rng, found: &Tree) -> Vec<Tree> {
    let paths: Vec<&String> = found.keys().collect();
    let path = paths[random.below(paths.len() as u64) as usize].clone();
    let with = |change: &dyn Fn(&mut Found)| {
        let mut tree = found.clone();
        tree.entry(path.clone()).and_modify(|found| change(found));
        tree
    };
    let mut more = found.clone();
    more.insert("top/never".to_owned(), found[&path].clone());
    vec![
        with(&|found| found.ino += 10_000),
        with(&|found| found.node.mode ^= 0o7000),
        with(&|found| drop(found.node.xattrs.insert("user.never".to_owned(), vec![1]))),
        more,
    ]
}

pub fn run(seed: u64) {
    let mut tried = Tried::default();
    for seed in seed..seed + 300 {
        bytes(seed, &mut tried);
        names(seed, &mut tried);
    }
    println!("oracle: {} states that may be, {} that may not, all told apart", tried.allowed, tried.refused);
    assert!(tried.allowed > 10_000 && tried.refused > 10_000, "{tried:?}");
}
