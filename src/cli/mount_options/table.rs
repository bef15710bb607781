//! The mount options, each declared once: its spellings and what they do, its default, what `--help` and
//! docs/operations.md say about it. Reading `-o`, the help, the page and the list of known words all come from here.
//!
//! To add an option: one entry in [`OPTIONS`], a field where it takes effect, and the page written anew (see
//! [`manual`](super::manual)).

use std::time::Duration;

use super::wanted::Wanted;
use crate::cli::size::{parse_size, show_size};
use crate::fs::AccessTimes;
use crate::fuse::IoUring;

/// One mount option.
pub(super) struct MountOption {
    /// The forms in which it can be written.
    pub spellings: &'static [Spelling],
    /// What holds if none of them is.
    pub default: DefaultValue,
    /// What it means, in a few words.
    pub meaning: &'static str,
    /// What else there is to know, in sentences without the last full stop.
    pub details: &'static str,
}

/// One form of an option.
pub(super) struct Spelling {
    /// `noatime`, `gc=off`, or with the kind of its value, as in `commit=SECONDS`.
    pub word: &'static str,
    pub effect: Effect,
}

/// What a spelling does.
pub(super) enum Effect {
    /// The word is all of it.
    Word(fn(&mut Wanted)),
    /// The value behind `=` is read, or a sentence says what it should be.
    Value(fn(&mut Wanted, &str) -> Result<(), String>),
}

/// What holds for an option that is not given.
pub(super) enum DefaultValue {
    /// This word, as if it were written before all others.
    Word(&'static str),
    /// What depends on the machine or the user, in words.
    Described(&'static str),
    /// The option asks for something to be done; there is no state of it.
    None,
}

impl Spelling {
    /// What stands before `=`; the whole word if it takes no value.
    pub fn name(&self) -> &'static str {
        self.word.split('=').next().unwrap_or(self.word)
    }
}

const fn word(word: &'static str, set: fn(&mut Wanted)) -> Spelling {
    Spelling { word, effect: Effect::Word(set) }
}

const fn value(word: &'static str, read: fn(&mut Wanted, &str) -> Result<(), String>) -> Spelling {
    Spelling { word, effect: Effect::Value(read) }
}

/// Less would hold hardly a few regions.
const MIN_CACHE: u64 = 1 << 20;

/// The longest time that written data may stay in memory only, in seconds.
const MAX_COMMIT: u64 = 3600;

/// More often, a store would do little else.
const MIN_GC_INTERVAL: Duration = Duration::from_secs(60);

/// Reading has a most rate of its own, however short the time is.
const MIN_SCRUB: Duration = Duration::from_secs(1);

/// More threads than this only wake each other.
const MAX_THREADS: usize = 64;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// All of them, in the order of the help.
pub(super) const OPTIONS: &[MountOption] = &[
    MountOption {
        spellings: &[word("ro", |w| w.set_read_only(true)), word("rw", |w| w.set_read_only(false))],
        default: DefaultValue::Word("rw"),
        meaning: "the mount cannot be changed, or can",
        details: "The store's directory must be writable all the same",
    },
    MountOption {
        spellings: &[word("remount", |w| w.remount = true)],
        default: DefaultValue::None,
        meaning: "changes a mount that is there, as root: with it go `ro`, `rw`, `suid`, `dev`, `exec` and their opposites",
        details: "All other options stay what they were",
    },
    MountOption {
        spellings: &[
            word("noatime", |w| w.set_atime(AccessTimes::Never)),
            word("relatime", |w| w.set_atime(AccessTimes::Relative)),
            word("strictatime", |w| w.set_atime(AccessTimes::Always)),
        ],
        default: DefaultValue::Word("relatime"),
        meaning: "reading a file never sets its access time, sets it now and then, or each time the file is opened",
        details: "With `strictatime` each open costs a request",
    },
    MountOption {
        spellings: &[word("allow_other", |w| w.fuse.allow_other = true)],
        default: DefaultValue::Described("on if root mounts"),
        meaning: "other users may use the mount; a plain user needs `user_allow_other` in `/etc/fuse.conf`",
        details: "",
    },
    MountOption {
        spellings: &[
            word("default_permissions", |w| w.fuse.default_permissions = true),
            word("nodefault_permissions", |w| w.fuse.default_permissions = false),
        ],
        default: DefaultValue::Word("default_permissions"),
        meaning: "the kernel checks owners and modes, or nobody does",
        details: "`nodefault_permissions` brings `noacl` with it: where the kernel applies ACLs, it checks modes as well",
    },
    MountOption {
        spellings: &[value("commit=SECONDS", |w, text| {
            w.fs.commit_interval = Duration::from_secs(number(text, 1, MAX_COMMIT)?);
            Ok(())
        })],
        default: DefaultValue::Word("commit=5"),
        meaning: "the commit interval, 1 to 3600",
        details: "Written data becomes durable by itself after at least one and at most two intervals",
    },
    MountOption {
        spellings: &[value("cache=SIZE", |w, text| {
            w.open.cache_bytes = cache_size(text)?;
            Ok(())
        })],
        default: DefaultValue::Word("cache=192M"),
        meaning: "memory for decoded data and metadata",
        details: "A third is for decoded regions, two thirds are for metadata. At least 1 MiB and at most three \
                  quarters of the machine's memory",
    },
    MountOption {
        spellings: &[word("gc=auto", |w| w.collect = true), word("gc=off", |w| w.collect = false)],
        default: DefaultValue::Word("gc=auto"),
        meaning: "cycles of the collector start by themselves when enough was deleted, or on `cairnfs gc` only",
        details: "",
    },
    MountOption {
        spellings: &[value("gc_interval=TIME", |w, text| {
            w.collect_interval = Some(gc_interval(text)?);
            Ok(())
        })],
        default: DefaultValue::Described("none"),
        meaning: "a cycle also starts this long after the last one, if something was deleted since",
        details: "A time of at least a minute: `90s`, `30m`, `12h`, `1d`",
    },
    MountOption {
        spellings: &[
            value("scrub=TIME", |w, text| {
                w.scrub = Some(scrub_period(text)?);
                Ok(())
            }),
            word("scrub=off", |w| w.scrub = None),
        ],
        default: DefaultValue::Word("scrub=30d"),
        meaning: "the daemon reads and compares all data once in this time, such as `12h`; with `off`, only \
                  `cairnfs check --data` does",
        details: "",
    },
    MountOption {
        spellings: &[value("threads=N", |w, text| {
            w.fuse.threads = number(text, 1, MAX_THREADS)?;
            Ok(())
        })],
        default: DefaultValue::Described("as many as processors, 2 to 4"),
        meaning: "threads that answer the kernel over `/dev/fuse`, 1 to 64",
        details: "",
    },
    MountOption {
        spellings: &[
            word("io_uring=auto", |w| w.fuse.io_uring = IoUring::Auto),
            word("io_uring=on", |w| w.fuse.io_uring = IoUring::On),
            word("io_uring=off", |w| w.fuse.io_uring = IoUring::Off),
        ],
        default: DefaultValue::Word("io_uring=auto"),
        meaning: "requests come over io_uring where the kernel offers it; always, with root switching it on in the \
                  kernel; or never, but over `/dev/fuse`",
        details: "Up to twice as fast for small files. With `io_uring=on` a mount without it fails",
    },
    MountOption {
        spellings: &[word("acl", |w| w.fuse.posix_acl = true), word("noacl", |w| w.fuse.posix_acl = false)],
        default: DefaultValue::Word("acl"),
        meaning: "POSIX ACLs are kept and the kernel applies them, or not",
        details: "",
    },
    MountOption {
        spellings: &[
            word("writeback", |w| w.fuse.writeback = true),
            word("nowriteback", |w| w.fuse.writeback = false),
        ],
        default: DefaultValue::Word("nowriteback"),
        meaning: "the kernel gathers small writes, or hands each one on",
        details: "",
    },
    MountOption {
        spellings: &[word("suid", |w| w.fuse.suid = true), word("nosuid", |w| w.fuse.suid = false)],
        default: DefaultValue::Word("nosuid"),
        meaning: "set-id bits of programs in the mount count, or do not; they are kept in any case",
        details: "`nosuid` and `nodev` hold whoever mounts, since an old set-uid program in a backup is data. \
                  `defaults` does not bring `suid` and `dev`. A plain user's mounts are always `nosuid,nodev`. A copy \
                  out of the mount has all owners, modes and device numbers",
    },
    MountOption {
        spellings: &[word("dev", |w| w.fuse.dev = true), word("nodev", |w| w.fuse.dev = false)],
        default: DefaultValue::Word("nodev"),
        meaning: "device nodes in the mount work, or do not; they are kept in any case",
        details: "",
    },
    MountOption {
        spellings: &[word("exec", |w| w.fuse.exec = true), word("noexec", |w| w.fuse.exec = false)],
        default: DefaultValue::Word("exec"),
        meaning: "programs in the mount can be started, or not",
        details: "",
    },
];

/// Other words that mount(8) knows for a spelling.
pub(super) const ALIASES: &[(&str, &str)] = &[("atime", "relatime"), ("nostrictatime", "relatime")];

fn number<N>(text: &str, least: N, most: N) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse::<N>() {
        Ok(n) if n >= least && n <= most => Ok(n),
        _ => Err(format!("the value is a number from {least} to {most}")),
    }
}

fn cache_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes < MIN_CACHE => Err(format!("a cache needs at least {}", show_size(MIN_CACHE))),
        bytes => Ok(bytes),
    }
}

/// A time such as `90s`, `30m`, `12h`, `30d`.
fn time(text: &str) -> Option<Duration> {
    let (at, unit) = text.char_indices().next_back()?;
    let unit = match unit {
        's' => DAY / 86_400,
        'm' => DAY / 1_440,
        'h' => DAY / 24,
        'd' => DAY,
        _ => return None,
    };
    unit.checked_mul(text[..at].parse().ok()?)
}

fn scrub_period(text: &str) -> Result<Duration, String> {
    time(text).filter(|time| *time >= MIN_SCRUB).ok_or_else(|| {
        String::from(
            "write the time in which all data is to be read, such as scrub=30d or scrub=12h, or scrub=off",
        )
    })
}

fn gc_interval(text: &str) -> Result<Duration, String> {
    time(text).filter(|time| *time >= MIN_GC_INTERVAL).ok_or_else(|| {
        String::from("write a time of at least a minute, such as gc_interval=12h or gc_interval=1d")
    })
}
