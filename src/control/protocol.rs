//! The messages of the control socket. A changed name here changes the protocol; the tests below fix the names.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::problems::Problem;
use super::process::own_namespace;
use crate::check::{CheckReport, ScrubStatus};
use crate::error::Error;
use crate::gc::{CycleRecord, Stage};
use crate::retry::RecurringFailure;
use crate::snapshots::{Answer, Place, Task};
use crate::store::StoreStatus;

/// What a command asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Asks for the presence of the process; never waits for anything. At the abstract socket this must be the first
    /// request, with the token of the presence.
    Hello {
        /// [`Presence::token`]; not needed at the socket in the store's directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    },
    /// Figures of the store and of the running cycle.
    Status,
    /// Run a cycle and answer with its record.
    Gc {
        /// Mark and count, change nothing.
        dry_run: bool,
    },
    /// Start a cycle soon; answered at once.
    GcSoon,
    /// Check the store.
    Check(CheckRequest),
    /// Make everything durable.
    Sync,
    /// Something with groups and snapshots.
    Snapshots {
        /// Where.
        place: Place,
        /// What.
        task: Task,
    },
    /// Answer when the store has been closed, with the outcome of closing it.
    AwaitClose,
}

/// How a store is to be checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Read all data, not only the structure.
    pub data: bool,
    /// Plain bytes to be read in a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Go on with the data where an interrupted check stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resume: bool,
    /// Name every file that is hit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_names: bool,
}

/// What the daemon answers. All but `Progress` are final.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How far the work is; more lines follow.
    Progress(Progress),
    /// Answer to `Hello`.
    Hello(Presence),
    /// Answer to `Status`.
    Status(Box<StatusReport>),
    /// Answer to `Gc`.
    Cycle(CycleRecord),
    /// Answer to `Check`.
    Check(CheckReport),
    /// Answer to `Snapshots`.
    Snapshots(Answer),
    /// Answer to the requests without a result.
    Done,
    /// The request failed.
    Error(WireError),
}

/// How far a long request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The cycle has reached a stage.
    Stage(Stage),
    /// The check has looked at this many of all objects.
    Check {
        /// Objects done.
        done: u64,
        /// Objects in all.
        total: u64,
        /// Plain bytes read so far.
        bytes: u64,
        /// True once the data is read: then `done` and `total` are of it, in plain bytes.
        #[serde(default)]
        reads_data: bool,
    },
}

/// What `cairnfs status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The version of the program that answered.
    pub version: String,
    /// The store's directory.
    pub path: String,
    /// Who has the store open; none if it was opened for this request only.
    pub holder: Option<Holder>,
    /// Where the running cycle is.
    pub stage: Stage,
    /// The store's last cycle, dry runs left out.
    pub last_cycle: Option<CycleRecord>,
    /// How far the scrub is.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Removed subvolumes that are still there; empty where the store is not mounted.
    #[serde(default)]
    pub dropped: Vec<DroppedSubvolume>,
    /// Background tasks that fail.
    #[serde(default)]
    pub failing: Vec<RecurringFailure>,
    /// What needs attention.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// The store's figures.
    pub store: StoreStatus,
}

/// A subvolume that was removed and is not reaped yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedSubvolume {
    /// Its number.
    pub number: u64,
    /// The name that it had; none if it was removed before the store was opened.
    pub name: Option<String>,
    /// Why it is still there.
    pub held_by: HeldBack,
    /// Inodes of it that the kernel remembers.
    pub remembered: u64,
}

/// What holds a removed subvolume back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBack {
    /// Something in it is open, or the kernel has cached it.
    Kernel,
    /// The last changes in it are not durable yet.
    Commit,
    /// Nothing: it is reaped in the background.
    Reap,
    /// The mount is read-only.
    ReadOnly,
}

/// The process that has a store open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Where it has the store mounted.
    pub mountpoint: String,
    /// True if it mounted the store read-only.
    pub read_only: bool,
    /// True if the mount was detached: programs that had it open still use it, and nobody else can.
    #[serde(default)]
    pub detached: bool,
}

/// The identity of the process that serves a mount: enough to tell it from any other process, and to reach it without a
/// path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The store's uuid. A copy of a store has the same one.
    pub uuid: String,
    /// Its process id, in its own namespace of processes.
    pub pid: u32,
    /// The kernel's number of that namespace; 0 if it is not known.
    pub pid_namespace: u64,
    /// Device and inode of the store's directory, which do not depend on its path.
    pub directory: (u64, u64),
    /// Major and minor number of the mount, once there is one.
    pub mount: Option<(u32, u32)>,
    /// The name of an abstract socket at which it listens, in its own namespace of networks.
    pub socket: String,
    /// The secret for that socket. Only users who may use the socket can read it.
    pub token: String,
    /// False once the mount has ended and the store is being closed.
    pub serving: bool,
}

impl Presence {
    /// The presence of this process, for the store with this uuid in `store`. The name of its socket is a new one.
    pub fn of_this_process(uuid: &str, store: &Path) -> Self {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Self {
            uuid: uuid.to_owned(),
            pid: std::process::id(),
            pid_namespace: own_namespace(),
            directory: fs::metadata(store).map_or((0, 0), |meta| (meta.dev(), meta.ino())),
            mount: None,
            socket: format!("cairnfs-{}", random()),
            token: random(),
            serving: true,
        }
    }

    /// True if both are of one process.
    pub fn is_of_same_process(&self, other: &Self) -> bool {
        (self.pid, self.pid_namespace, &self.uuid) == (other.pid, other.pid_namespace, &other.uuid)
            && self.socket == other.socket
    }
}

/// An [`Error`] in a form that can be sent: its kind, and what is needed to make the same sentence again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are those of `Error`")]
pub enum WireError {
    Posix { errno: i32 },
    Io { what: String, errno: Option<i32>, text: String },
    Damaged { text: String },
    Unusable { text: String },
    Latched { text: String },
    NotAStore { text: String },
    Busy { text: String },
    Usage { text: String },
    Format { text: String },
    CycleEnded { text: String },
    Environment { text: String },
    CheckFailed { text: String },
    Unwell { text: String },
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        let same = String::clone;
        match error {
            Error::Posix(errno) => Self::Posix { errno: *errno },
            Error::Io { what, source } => {
                Self::Io { what: same(what), errno: source.raw_os_error(), text: source.to_string() }
            }
            Error::Damaged(text) => Self::Damaged { text: same(text) },
            Error::Unusable(text) => Self::Unusable { text: same(text) },
            Error::Latched(text) => Self::Latched { text: same(text) },
            Error::NotAStore(text) => Self::NotAStore { text: same(text) },
            Error::Busy(text) => Self::Busy { text: same(text) },
            Error::Usage(text) => Self::Usage { text: same(text) },
            Error::Format(text) => Self::Format { text: same(text) },
            Error::CycleEnded(text) => Self::CycleEnded { text: same(text) },
            Error::Environment(text) => Self::Environment { text: same(text) },
            Error::CheckFailed(text) => Self::CheckFailed { text: same(text) },
            Error::Unwell(text) => Self::Unwell { text: same(text) },
        }
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Self {
        match wire {
            WireError::Posix { errno } => Self::Posix(errno),
            WireError::Io { what, errno, text } => Self::Io {
                what,
                // Without an errno the text is all there is; with one, the text of the host is made again.
                source: errno.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error),
            },
            WireError::Damaged { text } => Self::Damaged(text),
            WireError::Unusable { text } => Self::Unusable(text),
            WireError::Latched { text } => Self::Latched(text),
            WireError::NotAStore { text } => Self::NotAStore(text),
            WireError::Busy { text } => Self::Busy(text),
            WireError::Usage { text } => Self::Usage(text),
            WireError::Format { text } => Self::Format(text),
            WireError::CycleEnded { text } => Self::CycleEnded(text),
            WireError::Environment { text } => Self::Environment(text),
            WireError::CheckFailed { text } => Self::CheckFailed(text),
            WireError::Unwell { text } => Self::Unwell(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_keeps_its_sentence_and_exit_code() {
        let all = || {
            [
                Error::Posix(libc::ENOENT),
                Error::io("writing p", io::Error::from_raw_os_error(libc::ENOSPC)),
                Error::io("reading q", io::Error::other("odd")),
                Error::Damaged("a".into()),
                Error::Unusable("j".into()),
                Error::Latched("b".into()),
                Error::NotAStore("c".into()),
                Error::Busy("d".into()),
                Error::Usage("e".into()),
                Error::Format("f".into()),
                Error::CycleEnded("g".into()),
                Error::Environment("h".into()),
                Error::CheckFailed("i".into()),
                Error::Unwell("k".into()),
            ]
        };
        for error in all() {
            let line = serde_json::to_string(&WireError::from(&error)).unwrap();
            let back: Error = serde_json::from_str::<WireError>(&line).unwrap().into();
            assert_eq!(back.to_string(), error.to_string());
            assert_eq!(back.exit_code(), error.exit_code());
            assert_eq!(back.errno(), error.errno());
        }
    }

    #[test]
    fn the_words_of_the_requests_stay() {
        let word = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(word(&Request::Hello { token: None }), r#"{"hello":{}}"#);
        assert_eq!(word(&Request::Hello { token: Some("t".into()) }), r#"{"hello":{"token":"t"}}"#);
        assert_eq!(word(&Request::Status), r#""status""#);
        assert_eq!(word(&Request::Gc { dry_run: true }), r#"{"gc":{"dry_run":true}}"#);
        assert_eq!(word(&Request::GcSoon), r#""gc_soon""#);
        let structure = CheckRequest::default();
        assert_eq!(word(&Request::Check(structure)), r#"{"check":{"data":false}}"#);
        let resumed = CheckRequest { data: true, limit: Some(7), resume: true, all_names: false };
        assert_eq!(word(&Request::Check(resumed)), r#"{"check":{"data":true,"limit":7,"resume":true}}"#);
        assert_eq!(word(&Request::Sync), r#""sync""#);
        let place = Place::Inode(7);
        let set = Task::Set(vec![("group".into(), "yes".into())]);
        assert_eq!(
            word(&Request::Snapshots { place, task: set }),
            r#"{"snapshots":{"place":{"inode":7},"task":{"set":[["group","yes"]]}}}"#
        );
        assert_eq!(word(&Request::AwaitClose), r#""await_close""#);
    }
}
