//! Who has a store open: the note in the lock file, and whether the process that it names still lives.
//!
//! The note has two lines. The first is `pid N: what it does`. The second says where the process is: boot, machine,
//! namespace of process ids, start time and beat. On a host on which locks may not be seen, the beat is a number that
//! grows while the holder lives.
//!
//! Keeps true: a note can only refuse. A process that has the lock and is not refused by the note has the store. A beat
//! that stands still is never by itself a reason to take a store from another process.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a note that are read at most.
pub(super) const NOTE_MAX: usize = 512;
/// Bytes of the text about the holder that are written at most.
const WHO_MAX: usize = 240;
/// Digits of a beat.
const BEAT_LEN: usize = 12;
/// A flag of a process that is about to end (`PF_EXITING`).
const EXITING: u64 = 4;

/// Where a process is. An unknown value (without `/proc`, for instance) is empty, and equals no other value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostId {
    /// The running kernel.
    pub boot: String,
    /// The machine, through all its boots.
    pub machine: String,
    /// The namespace of process ids.
    pub pids: String,
}

impl HostId {
    /// Of this process.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        // The id itself is nobody else's business, says machine-id(5).
        let machine = match read("/etc/machine-id") {
            id if id.is_empty() => id,
            id => format!("{:016x}", xxh3_64(format!("cairnfs {id}").as_bytes())),
        };
        let pids =
            fs::metadata("/proc/self/ns/pid").map_or_else(|_| String::new(), |meta| meta.ino().to_string());
        Self { boot: read("/proc/sys/kernel/random/boot_id"), machine, pids }
    }
}

/// What the note means to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HolderState {
    /// Nobody has the store open, or the lock alone decides.
    Free,
    /// The process lives.
    Alive,
    /// Its machine was restarted since. If the beat goes on, it runs on a copy of that machine.
    Rebooted,
    /// It cannot be seen from here whether it lives.
    Unseen,
}

/// The content of the lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// `pid N: what it does`.
    pub text: String,
    pid: Option<i32>,
    /// The second line, without the beat; none if the writer of the note has written none.
    place: Option<(HostId, u64)>,
    pub beat: u64,
}

impl Note {
    /// Of this process.
    pub fn new(who: &str, here: &HostId) -> Self {
        let mut text = format!("pid {}: {}", process::id(), who.replace('\n', " "));
        while text.len() > WHO_MAX {
            text.pop();
        }
        let started = process_stat(process::id() as i32).map_or(0, |stat| stat.started);
        Self { text, pid: Some(process::id() as i32), place: Some((here.clone(), started)), beat: 0 }
    }

    pub fn encode(&self) -> String {
        let Some((at, started)) = &self.place else { return format!("{}\n", self.text) };
        let word = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let (boot, machine, pids) = (word(&at.boot), word(&at.machine), word(&at.pids));
        let beat = format!("{:0BEAT_LEN$}", self.beat);
        format!("{}\nboot {boot} machine {machine} pids {pids} started {started} beat {beat}\n", self.text)
    }

    /// The note in these bytes; if they are something else, their first line.
    pub fn decode(bytes: &[u8]) -> Self {
        let all = String::from_utf8_lossy(bytes);
        let mut lines = all.lines();
        let text = lines.next().unwrap_or_default().trim().to_owned();
        let number = text.strip_prefix("pid ").and_then(|rest| rest.split(':').next());
        let pid = number.and_then(|number| number.parse().ok());
        let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let ["boot", boot, "machine", machine, "pids", pids, "started", started, "beat", beat] = words[..]
        else {
            return Self { text, pid, ..Self::default() };
        };
        let word = |text: &str| if text == "-" { String::new() } else { text.to_owned() };
        let at = HostId { boot: word(boot), machine: word(machine), pids: word(pids) };
        let place = started.parse().ok().map(|started| (at, started));
        Self { text, pid, place, beat: beat.trim().parse().unwrap_or(0) }
    }

    /// There is no note.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn is_this_process(&self) -> bool {
        self.pid == Some(process::id() as i32)
    }

    /// Whether the note names a process that lives, as far as can be seen from here.
    pub fn is_alive(&self) -> bool {
        let pid = self.pid.and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }

    /// What it means to a process at `here` that has got the lock of `file`. If locks are `trusted`, getting the lock
    /// proves that nobody else has it; then only a note that is certain refuses.
    pub fn holder_state(&self, here: &HostId, trusted: bool, file: &File) -> HolderState {
        let Some(((at, started), pid)) = self.place.as_ref().zip(self.pid) else { return HolderState::Free };
        let same = |theirs: &str, ours: &str| !theirs.is_empty() && theirs == ours;
        if same(&at.boot, &here.boot) && same(&at.pids, &here.pids) {
            // A store that was copied while it was in use has the note of its holder, although nobody has the copy
            // open.
            let lives =
                pid != process::id() as i32 && lives(pid, *started) && (!trusted || has_open(pid, file));
            return if lives { HolderState::Alive } else { HolderState::Free };
        }
        if trusted {
            return HolderState::Free;
        }
        let same_machine = same(&at.machine, &here.machine);
        if same_machine && !at.boot.is_empty() && at.boot != here.boot {
            HolderState::Rebooted
        } else {
            HolderState::Unseen
        }
    }
}

/// What is known of a process.
struct Stat {
    ends: bool,
    started: u64,
}

fn process_stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the third field follows it.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let flags: u64 = fields.get(6)?.parse().ok()?;
    let ends = matches!(*fields.first()?, "Z" | "X") || flags & EXITING != 0;
    Some(Stat { ends, started: fields.get(19)?.parse().ok()? })
}

/// Whether this very process lives, and not another one that was given its number.
fn lives(pid: i32, started: u64) -> bool {
    process_stat(pid).is_some_and(|stat| !stat.ends && stat.started == started)
}

/// Whether a process has this very file open, as far as that can be seen.
fn has_open(pid: i32, file: &File) -> bool {
    let Ok(wanted) = file.metadata() else { return false };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut found = descriptors.filter_map(|descriptor| fs::metadata(descriptor.path()).ok());
    found.any(|open| (open.dev(), open.ino()) == (wanted.dev(), wanted.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back() {
        let here = HostId::here();
        let note = Note { beat: 7, ..Note::new("mounted at /a\nb", &here) };
        let text = note.encode();
        assert_eq!(Note::decode(text.as_bytes()), note);
        assert_eq!(
            (text.lines().count(), Note { beat: 123_456, ..note.clone() }.encode().len()),
            (2, text.len())
        );
        let nowhere = HostId { boot: String::new(), machine: String::new(), pids: String::new() };
        let blind = Note::new("x", &nowhere);
        assert_eq!(Note::decode(blind.encode().as_bytes()), blind);
        let old = Note::decode(b"pid 12: mount on /mnt\n");
        assert_eq!((old.pid, &*old.text, old.place.is_none()), (Some(12), "pid 12: mount on /mnt", true));
        assert!(Note::decode(b"").is_empty() && Note::decode(b"\xff\n\xff boot").pid.is_none());
        let long = Note::new(&"\u{e4}".repeat(500), &here);
        assert!(long.encode().len() <= NOTE_MAX && long.text.ends_with('\u{e4}'));
    }

    #[test]
    fn who_lives_is_seen_and_who_cannot_be_seen_counts_only_where_locks_may_be_local() {
        let here = HostId::here();
        let (lock, copy) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut child =
            process::Command::new("sleep").arg("60").stdin(lock.try_clone().unwrap()).spawn().unwrap();
        let pid = child.id() as i32;
        let started = process_stat(pid).unwrap().started;
        let at = |place: &HostId, started| Note {
            pid: Some(pid),
            place: Some((place.clone(), started)),
            ..Note::default()
        };
        let meanings =
            |note: &Note| (note.holder_state(&here, true, &lock), note.holder_state(&here, false, &lock));
        assert_eq!(meanings(&at(&here, started)), (HolderState::Alive, HolderState::Alive));
        let copied = at(&here, started);
        assert_eq!(
            copied.holder_state(&here, true, &copy),
            HolderState::Free,
            "the holder has another file open"
        );
        assert_eq!(copied.holder_state(&here, false, &copy), HolderState::Alive);
        assert_eq!(
            meanings(&at(&here, started + 1)),
            (HolderState::Free, HolderState::Free),
            "its number was given anew"
        );
        let with = |change: fn(&mut HostId)| {
            let mut place = here.clone();
            change(&mut place);
            meanings(&at(&place, started))
        };
        assert_eq!(
            with(|at| at.pids = "1".into()),
            (HolderState::Free, HolderState::Unseen),
            "in a container"
        );
        assert_eq!(with(|at| at.boot = "1".into()), (HolderState::Free, HolderState::Rebooted));
        let other = with(|at| (at.boot, at.machine) = ("1".into(), "2".into()));
        assert_eq!(other, (HolderState::Free, HolderState::Unseen));
        assert_eq!(with(|at| at.boot = String::new()), (HolderState::Free, HolderState::Unseen));
        child.kill().unwrap();
        // A zombie holds nothing.
        while process_stat(pid).is_some_and(|stat| !stat.ends) {
            std::thread::yield_now();
        }
        assert_eq!(meanings(&at(&here, started)), (HolderState::Free, HolderState::Free));
        child.wait().unwrap();
        assert_eq!(meanings(&at(&here, started)), (HolderState::Free, HolderState::Free));
        assert_eq!(meanings(&Note::default()), (HolderState::Free, HolderState::Free));
    }
}
