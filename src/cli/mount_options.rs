//! The words after `-o`: what they mean to us, what mount(8), fstab and systemd add for themselves, and a sentence for
//! the rest.

use std::time::Duration;

use super::size::{parse_size, show_size};
use crate::error::{Error, Result};
use crate::fs::AccessTimes;
use crate::fuse::IoUring;

/// What the words of `-o` ask for. None where nothing was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A mount that is there is to be changed.
    pub remount: bool,
    pub read_only: bool,
    pub atime: AccessTimes,
    pub allow_other: Option<bool>,
    /// Without it ACLs are not applied either.
    pub default_permissions: bool,
    pub suid: Option<bool>,
    pub dev: Option<bool>,
    pub exec: Option<bool>,
    pub acl: Option<bool>,
    pub writeback: Option<bool>,
    pub commit: Option<Duration>,
    pub cache: Option<u64>,
    pub gc_auto: bool,
    pub gc_interval: Option<Duration>,
    pub scrub: Option<Duration>,
    pub threads: Option<usize>,
    pub io_uring: IoUring,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            remount: false,
            read_only: false,
            atime: AccessTimes::Relative,
            allow_other: None,
            default_permissions: true,
            suid: None,
            dev: None,
            exec: None,
            acl: None,
            writeback: None,
            commit: None,
            cache: None,
            gc_auto: true,
            gc_interval: None,
            scrub: Some(DAY * 30),
            threads: None,
            io_uring: IoUring::Auto,
        }
    }
}

/// The words for people, as the message about an unknown one lists them.
pub(super) const KNOWN: &str = "ro, rw, remount, noatime, relatime, strictatime, allow_other, default_permissions, \
                     nodefault_permissions, \
                     commit=SECONDS, cache=SIZE, gc=auto|off, gc_interval=TIME, scrub=TIME|off, threads=N, \
                     io_uring=auto|on|off, acl, noacl, writeback, nowriteback, suid, nosuid, dev, nodev, exec, \
                     noexec";

/// Words that mount(8), /etc/fstab and systemd use among themselves, and words of which the kernel or mount(8) takes
/// care; none of them is for us.
const NOT_OURS: &[&str] = &[
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "defaults",
    "sync",
    "async",
    "dirsync",
    "silent",
    "loud",
    "nodiratime",
    "diratime",
    "lazytime",
    "nolazytime",
    "norelatime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "symfollow",
];

/// The same with a value or a rest.
const NOT_OURS_PREFIXES: &[&str] = &["x-", "X-", "comment=", "user=", "helper=", "uhelper="];

/// With `remount`, mount(8) also hands over what the table of mounts has.
const FROM_THE_TABLE: &[&str] = &["user_id=", "group_id=", "max_read=", "blksize=", "subtype=", "fsname="];

/// Less would hold hardly a few regions.
const SMALLEST_CACHE: u64 = 1 << 20;

/// A cache fills with time, and a daemon that takes all memory is killed in the middle of a backup.
const MOST_OF_MEMORY: (u64, u64) = (3, 4);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The longest time that written data may stay in memory only.
const LONGEST_COMMIT: u64 = 3600;

/// More often, a store would do little else.
const SHORTEST_GC_INTERVAL: Duration = Duration::from_secs(60);
/// Reading has a most rate of its own, however short the time is.
const SHORTEST_SCRUB: Duration = Duration::from_secs(1);

/// More threads than this only wake each other.
const MOST_THREADS: usize = 64;

/// Reads all words in order; a later one overrides an earlier one. With `sloppy` unknown words are ignored.
pub(super) fn parse(lists: &[String], sloppy: bool) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    let remounts = lists.iter().flat_map(|list| list.split(',')).any(|word| word == "remount");
    let of_the_table = if remounts { FROM_THE_TABLE } else { &[] };
    for word in lists.iter().flat_map(|list| list.split(',')) {
        if word.is_empty() || is_not_ours(word) {
            continue;
        }
        let is_known = apply(&mut wanted, word)? || of_the_table.iter().any(|p| word.starts_with(p));
        if !is_known && !sloppy {
            return Err(Error::Usage(format!("the mount option `{word}` is not known; known are {KNOWN}")));
        }
    }
    if !wanted.default_permissions && wanted.acl == Some(true) {
        return Err(Error::Usage(String::from(
            "the mount options `nodefault_permissions` and `acl` exclude each other: the kernel checks all permissions \
             where it applies ACLs; leave one of them out",
        )));
    }
    Ok(wanted)
}

/// Refuses a cache that would not fit into `memory` bytes with what else the machine has to hold.
pub(super) fn refuse_more_than(memory: u64, wanted: &Wanted) -> Result<()> {
    let most = memory / MOST_OF_MEMORY.1 * MOST_OF_MEMORY.0;
    match wanted.cache {
        Some(bytes) if bytes > most => Err(Error::Usage(format!(
            "the mount option `cache`: {} are more than three quarters of the memory of this machine; write at most \
             cache={}M",
            show_size(bytes),
            most >> 20
        ))),
        _ => Ok(()),
    }
}

/// Bytes of memory that this machine has.
#[allow(clippy::useless_conversion, reason = "the number has 32 bits on machines of 32")]
pub(super) fn memory_of_this_machine() -> u64 {
    let info = rustix::system::sysinfo();
    u64::try_from(info.totalram).unwrap_or(u64::MAX).saturating_mul(info.mem_unit.into())
}

fn is_not_ours(word: &str) -> bool {
    NOT_OURS.contains(&word) || NOT_OURS_PREFIXES.iter().any(|p| word.starts_with(p))
}

/// Applies one word; false if it is not known.
fn apply(wanted: &mut Wanted, word: &str) -> Result<bool> {
    match word {
        "ro" => wanted.read_only = true,
        "rw" => wanted.read_only = false,
        "noatime" => wanted.atime = AccessTimes::Never,
        "relatime" | "atime" | "nostrictatime" => wanted.atime = AccessTimes::Relative,
        "strictatime" => wanted.atime = AccessTimes::Always,
        "allow_other" => wanted.allow_other = Some(true),
        "default_permissions" => wanted.default_permissions = true,
        "nodefault_permissions" => wanted.default_permissions = false,
        "suid" => wanted.suid = Some(true),
        "nosuid" => wanted.suid = Some(false),
        "dev" => wanted.dev = Some(true),
        "nodev" => wanted.dev = Some(false),
        "exec" => wanted.exec = Some(true),
        "noexec" => wanted.exec = Some(false),
        "acl" => wanted.acl = Some(true),
        "noacl" => wanted.acl = Some(false),
        "writeback" => wanted.writeback = Some(true),
        "nowriteback" => wanted.writeback = Some(false),
        "remount" => wanted.remount = true,
        _ => return apply_value(wanted, word),
    }
    Ok(true)
}

fn apply_value(wanted: &mut Wanted, word: &str) -> Result<bool> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    match name {
        "uid" | "gid" => {
            return Err(Error::Usage(format!(
                "the mount option `{word}`: a store keeps the owner of every file, so none can be given for all; leave \
                 it out, and use chown for single files"
            )));
        }
        "commit" => {
            let seconds = number(word, value, 1, LONGEST_COMMIT)?;
            wanted.commit = Some(Duration::from_secs(seconds));
        }
        "threads" => wanted.threads = Some(number(word, value, 1, MOST_THREADS)?),
        "cache" => {
            let bytes =
                parse_size(value).map_err(|e| Error::Usage(format!("the mount option `{word}`: {e}")))?;
            if bytes < SMALLEST_CACHE {
                return Err(Error::Usage(format!(
                    "the mount option `{word}`: a cache needs at least {}",
                    show_size(SMALLEST_CACHE)
                )));
            }
            wanted.cache = Some(bytes);
        }
        "scrub" => wanted.scrub = scrub_period(word, value)?,
        "gc" => {
            wanted.gc_auto = match value {
                "auto" => true,
                "off" => false,
                _ => {
                    return Err(Error::Usage(format!("the mount option `{word}`: write gc=auto or gc=off")));
                }
            };
        }
        "gc_interval" => wanted.gc_interval = Some(gc_interval(word, value)?),
        "io_uring" => {
            wanted.io_uring = match value {
                "auto" => IoUring::Auto,
                "on" => IoUring::On,
                "off" => IoUring::Off,
                _ => {
                    return Err(Error::Usage(format!(
                        "the mount option `{word}`: write io_uring=auto, io_uring=on or io_uring=off"
                    )));
                }
            };
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A time such as `90s`, `30m`, `12h`, `30d`.
fn time(value: &str) -> Option<Duration> {
    let (at, unit) = value.char_indices().next_back()?;
    let unit = match unit {
        's' => DAY / 86_400,
        'm' => DAY / 1_440,
        'h' => DAY / 24,
        'd' => DAY,
        _ => return None,
    };
    unit.checked_mul(value[..at].parse().ok()?)
}

/// `30d`, `12h`, or `off`.
fn scrub_period(word: &str, value: &str) -> Result<Option<Duration>> {
    if value == "off" {
        return Ok(None);
    }
    time(value).filter(|time| *time >= SHORTEST_SCRUB).map(Some).ok_or_else(|| {
        Error::Usage(format!(
            "the mount option `{word}`: write the time in which all data is to be read, such as scrub=30d or scrub=12h, \
             or scrub=off"
        ))
    })
}

fn gc_interval(word: &str, value: &str) -> Result<Duration> {
    time(value).filter(|time| *time >= SHORTEST_GC_INTERVAL).ok_or_else(|| {
        Error::Usage(format!(
            "the mount option `{word}`: write a time of at least a minute, such as gc_interval=12h or gc_interval=1d"
        ))
    })
}

fn number<N>(word: &str, value: &str, least: N, most: N) -> Result<N>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match value.parse::<N>() {
        Ok(n) if n >= least && n <= most => Ok(n),
        _ => Err(Error::Usage(format!(
            "the mount option `{word}`: the value is a number from {least} to {most}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Result<Wanted> {
        parse(&[text.to_owned()], false)
    }

    #[test]
    fn every_known_word_has_its_effect() {
        let wanted = words(
            "ro,noatime,allow_other,nodefault_permissions,noacl,writeback,commit=30,cache=256M,gc=off,gc_interval=12h,\
             scrub=12h,threads=3,io_uring=off,nosuid,nodev,noexec",
        )
        .unwrap();
        assert_eq!(
            wanted,
            Wanted {
                read_only: true,
                remount: false,
                atime: AccessTimes::Never,
                allow_other: Some(true),
                default_permissions: false,
                suid: Some(false),
                dev: Some(false),
                exec: Some(false),
                acl: Some(false),
                writeback: Some(true),
                commit: Some(Duration::from_secs(30)),
                cache: Some(256 << 20),
                gc_auto: false,
                gc_interval: Some(Duration::from_secs(12 * 3600)),
                scrub: Some(DAY / 2),
                threads: Some(3),
                io_uring: IoUring::Off,
            }
        );
        let back = words(
            "ro,noatime,nosuid,nodev,noexec,gc=off,nodefault_permissions,acl,writeback,rw,relatime,suid,dev,exec,\
             gc=auto,default_permissions,noacl,nowriteback",
        );
        assert_eq!(
            back.unwrap(),
            Wanted {
                suid: Some(true),
                dev: Some(true),
                exec: Some(true),
                acl: Some(false),
                writeback: Some(false),
                ..Wanted::default()
            }
        );
    }

    #[test]
    fn what_fstab_and_systemd_add_is_ignored() {
        let added = "rw,auto,noauto,user,users,nofail,_netdev,defaults,x-systemd.automount,x-systemd.requires=/srv,\
                     comment=backups,sync,async,dirsync,user=joe,uhelper=cairnfs,,";
        assert_eq!(words(added).unwrap(), Wanted::default());
        assert_eq!(parse(&[], false).unwrap(), Wanted::default());
    }

    #[test]
    fn the_last_word_on_access_times_counts() {
        for (text, atime) in [
            ("noatime,strictatime", AccessTimes::Always),
            ("strictatime,nostrictatime", AccessTimes::Relative),
            ("noatime,atime", AccessTimes::Relative),
            ("strictatime,noatime,nodiratime,lazytime", AccessTimes::Never),
        ] {
            assert_eq!(words(text).unwrap().atime, atime, "{text}");
        }
    }

    #[test]
    fn a_remount_takes_the_words_of_the_table_of_mounts() {
        let wanted = words("rw,nosuid,user_id=0,group_id=0,allow_other,max_read=131072,remount,ro").unwrap();
        assert!(wanted.remount && wanted.read_only && wanted.suid == Some(false));
    }

    #[test]
    fn several_lists_are_one() {
        let wanted = parse(&["ro,commit=9".into(), "rw".into()], false).unwrap();
        assert!(!wanted.read_only);
        assert_eq!(wanted.commit, Some(Duration::from_secs(9)));
    }

    #[test]
    fn wrong_words_are_named() {
        for (text, said) in [
            ("rw,fast", "`fast` is not known; known are ro, rw"),
            ("sync=1", "`sync=1` is not known"),
            ("commit=0", "from 1 to 3600"),
            ("commit=", "from 1 to 3600"),
            ("commit", "from 1 to 3600"),
            ("uid=1000", "keeps the owner of every file"),
            ("gid=", "keeps the owner of every file"),
            ("cache=lots", "`lots` is not a size"),
            ("cache=1K", "at least 1.00 MiB"),
            ("gc=maybe", "gc=auto or gc=off"),
            ("gc_interval=soon", "at least a minute"),
            ("gc_interval=59s", "at least a minute"),
            ("gc_interval=", "at least a minute"),
            ("gc_interval=99999999999999999d", "at least a minute"),
            ("gc_interval=1\u{e9}", "at least a minute"),
            ("scrub=0d", "such as scrub=30d"),
            ("scrub=30", "such as scrub=30d"),
            ("scrub=é", "such as scrub=30d"),
            ("threads=0", "from 1 to 64"),
            ("io_uring=yes", "io_uring=auto, io_uring=on or io_uring=off"),
            ("user_id=0", "`user_id=0` is not known"),
            ("acl,nodefault_permissions", "exclude each other"),
        ] {
            let error = words(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
        assert!(parse(&["fast".into()], true).is_ok(), "sloppy");
    }

    #[test]
    fn a_cache_that_is_larger_than_the_memory_is_refused() {
        let cache = |text| refuse_more_than(16 << 30, &words(text).unwrap());
        assert!(cache("cache=12G").is_ok() && cache("ro").is_ok());
        let error = cache("cache=1T").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("at most cache=12288M"), "{error}");
        assert!((1 << 20..1 << 50).contains(&memory_of_this_machine()));
    }

    proptest! {
        /// Any words, and any near those that are known: an option or a sentence, and never a panic.
        #[test]
        fn any_words_are_read_or_refused(
            text: String,
            words in prop::collection::vec(
                prop::sample::select(KNOWN.split([' ', ',']).collect::<Vec<_>>()), 0..6),
            value in "[0-9a-zA-Z=,.-]{0,12}",
            sloppy: bool,
        ) {
            let near = format!("{}{value}", words.join(","));
            for list in [text, near] {
                if let Err(error) = parse(&[list], sloppy) {
                    prop_assert!(matches!(error, Error::Usage(_)), "{error}");
                }
            }
        }
    }
}
