//! The collector of Proxmox Backup Server, as far as the advisory PSA-2025-00019-1 is about it: up to 3.3, in
//! 3.4.0, and as a control in 3.4.1.
//!
//! A backup that has a predecessor takes over the chunks that it knows from there and does not touch them; new
//! chunks are uploaded and touched. The collector lists index files, opens them one by one and touches the
//! chunks they name, skips those that vanished, and then removes every chunk that was not touched since it
//! began (all old chunks are older than its cutoff). The three versions differ in when the list is made:
//! once for all groups; when a group is reached; or so, newest snapshot first, and once more if that one
//! vanished. A running backup keeps its predecessor from being pruned, as there.

use stateright::{Checker, Model, Property};

/// Snapshot 0 is alone in group one, and stays; all others are in group two, 1 from before, 2 and 3 to come.
const SNAPSHOTS: usize = 4;
/// Chunk 0 is snapshot 0's; 1 is shared by all of group two; 2 is snapshot 1's own; 3 and 4 the later ones'.
const SHARED: u8 = 1 << 1;

/// Which version collects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V33,
    V340,
    V341,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Gc {
    Idle,
    /// Working in this group, with what is left of the list; `first` before any of it was opened.
    Group {
        group: u8,
        list: u8,
        first: bool,
    },
    Marked,
    Done,
}

/// Snapshots, chunks and what is under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// Snapshots that are finished and not pruned.
    there: u8,
    chunks_of: [u8; SNAPSHOTS],
    /// The running backup and its predecessor.
    running: Option<(u8, Option<u8>)>,
    begun: u8,
    prunes: u8,
    present: u8,
    touched: u8,
    gc: Gc,
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Begin,
    Finish,
    Prune(u8),
    Start,
    ReachGroup(u8),
    Open(u8),
    ListAgain,
    Sweep,
}

/// The model: a version, two backups, three prunes, one collection.
pub struct Pbs(pub Version);

const KEPT: &str = "every snapshot has its chunks";

fn group_mask(group: u8) -> u8 {
    if group == 0 { 1 } else { 0b1110 }
}

impl Pbs {
    fn next_open(&self, list: u8) -> u8 {
        match self.0 {
            Version::V341 => 7 - list.leading_zeros() as u8,
            _ => list.trailing_zeros() as u8,
        }
    }

    fn cycle_actions(&self, s: &State, out: &mut Vec<Act>) {
        match s.gc {
            Gc::Idle => out.push(Act::Start),
            Gc::Group { list: 0, group: 1, .. } => out.push(Act::Sweep),
            Gc::Group { list: 0, group, .. } => out.push(Act::ReachGroup(group + 1)),
            Gc::Group { list, first, .. } => {
                let next = self.next_open(list);
                let vanished = s.there & 1 << next == 0;
                let again = self.0 == Version::V341 && first && vanished;
                out.push(if again { Act::ListAgain } else { Act::Open(next) });
            }
            Gc::Marked => out.push(Act::Sweep),
            Gc::Done => {}
        }
    }

    /// What the collector lists when it comes to a group.
    fn list(&self, s: &State, group: u8) -> Gc {
        Gc::Group { group, list: s.there & group_mask(group), first: true }
    }
}

impl Model for Pbs {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            there: 0b11,
            chunks_of: [1, SHARED | 1 << 2, 0, 0],
            running: None,
            begun: 0,
            prunes: 3,
            present: 0b111,
            touched: 0,
            gc: Gc::Idle,
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Act>) {
        self.cycle_actions(s, out);
        match s.running {
            Some(_) => out.push(Act::Finish),
            None if s.begun < 2 => out.push(Act::Begin),
            None => {}
        }
        let base = s.running.and_then(|(_, base)| base);
        if s.prunes > 0 {
            let all = (1..SNAPSHOTS as u8).filter(|&n| s.there & 1 << n != 0 && Some(n) != base);
            out.extend(all.map(Act::Prune));
        }
    }

    fn next_state(&self, before: &State, act: Act) -> Option<State> {
        let mut s = *before;
        match act {
            Act::Begin => {
                let base = (1..SNAPSHOTS as u8).rev().find(|&n| s.there & 1 << n != 0);
                let new = 2 + s.begun;
                let own = 1 << (3 + s.begun);
                let uploaded = if base.is_some() { own } else { own | SHARED };
                s.chunks_of[new as usize] = own | SHARED;
                s.present |= uploaded;
                s.touched |= uploaded;
                s.running = Some((new, base));
                s.begun += 1;
            }
            Act::Finish => {
                let (new, _) = s.running.take().expect("offered only while a backup runs");
                s.there |= 1 << new;
            }
            Act::Prune(n) => {
                s.there &= !(1 << n);
                s.prunes -= 1;
            }
            Act::Start => {
                s.gc = match self.0 {
                    Version::V33 => Gc::Group { group: 1, list: s.there, first: true },
                    _ => self.list(&s, 0),
                }
            }
            Act::ReachGroup(group) => s.gc = self.list(&s, group),
            Act::ListAgain => {
                let Gc::Group { group, .. } = s.gc else {
                    return None;
                };
                s.gc = self.list(&s, group);
            }
            Act::Open(n) => {
                let Gc::Group { group, list, .. } = s.gc else {
                    return None;
                };
                if s.there & 1 << n != 0 {
                    s.touched |= s.chunks_of[n as usize];
                }
                let list = list & !(1 << n);
                s.gc = if list == 0 && group == 1 {
                    Gc::Marked
                } else {
                    Gc::Group { group, list, first: false }
                };
            }
            Act::Sweep => {
                s.present &= s.touched;
                s.gc = Gc::Done;
            }
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(KEPT, |_, s: &State| lost(s).is_none())]
    }
}

/// A finished snapshot that lacks a chunk, and the chunk.
fn lost(s: &State) -> Option<(usize, u32)> {
    let there = (0..SNAPSHOTS).filter(|&n| s.there & 1 << n != 0);
    there
        .map(|n| (n, s.chunks_of[n] & !s.present))
        .find(|&(_, gone)| gone != 0)
        .map(|(n, gone)| (n, gone.trailing_zeros()))
}

fn name(n: u8) -> String {
    if n == 0 { "the other group's snapshot".into() } else { format!("S{}", n - 1) }
}

fn names(mask: u8) -> String {
    let all: Vec<String> = (0..SNAPSHOTS as u8).filter(|n| mask & 1 << n != 0).map(name).collect();
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}

fn describe(before: &State, act: Act, after: &State) -> String {
    let listed = |s: &State| match s.gc {
        Gc::Group { list, .. } => names(list),
        _ => names(0),
    };
    match act {
        Act::Begin => match after.running {
            Some((new, Some(base))) => {
                format!(
                    "backup {} begins on the base of {}: known chunks are taken over untouched",
                    name(new),
                    name(base)
                )
            }
            Some((new, None)) => {
                format!("backup {} begins without a base: all chunks are uploaded", name(new))
            }
            None => "a backup begins".into(),
        },
        Act::Finish => format!("backup {} is finished", names(after.there & !before.there)),
        Act::Prune(n) => format!("{} is pruned", name(n)),
        Act::Start => format!("the collection starts: lists {}", listed(after)),
        Act::ReachGroup(_) => format!("the collection reaches group two: lists {}", listed(after)),
        Act::ListAgain => format!("the newest has vanished: lists the group again: {}", listed(after)),
        Act::Open(n) if before.there & 1 << n == 0 => {
            format!("the collection opens {}: vanished, skipped", name(n))
        }
        Act::Open(n) => format!("the collection opens {}: touches its chunks", name(n)),
        Act::Sweep => "the collection removes the chunks that were not touched".into(),
    }
}

/// What exploring a version came to: its states, and the shortest loss if there is one.
pub struct Outcome {
    pub states: usize,
    pub loss: Option<(Vec<String>, String)>,
}

/// Explores a version to the end, or to its first loss.
pub fn explore(version: Version) -> Outcome {
    let run = Pbs(version).checker().threads(1).spawn_bfs().join();
    let loss = run.discovery(KEPT).map(|path| {
        let (snapshot, chunk) = lost(path.last_state()).expect("the checker found it broken");
        let verdict = format!("{} has lost chunk {chunk}", name(snapshot as u8));
        let steps = path.into_vec();
        let sentences = steps.windows(2).map(|pair| {
            let act = pair[0].1.expect("every state but the last has a next step");
            describe(&pair[0].0, act, &pair[1].0)
        });
        (sentences.collect(), verdict)
    });
    Outcome { states: run.unique_state_count(), loss }
}
