//! The words after `-o`: what they ask of the parts of a mount, what mount(8), fstab and systemd add for themselves,
//! and a sentence for the rest. The options themselves are declared in [`table`], once each.

mod manual;
mod table;
mod wanted;

pub(super) use self::manual::help;
use self::table::{ALIASES, DefaultValue, Effect, OPTIONS, Spelling};
pub(super) use self::wanted::Wanted;
use super::size::show_size;
use crate::error::{Error, Result};

/// What holds without any word.
fn defaults() -> Wanted {
    let mut wanted = Wanted::of_the_parts();
    for option in OPTIONS {
        if let DefaultValue::Word(word) = option.default {
            let applied = apply(&mut wanted, word);
            debug_assert!(matches!(applied, Ok(true)), "`{word}` is a word of its option");
        }
    }
    wanted.given.clear();
    wanted
}

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

/// Words of other file systems that would be taken amiss if they were ignored.
const REFUSED: &[&str] = &["uid", "gid"];

/// A cache fills with time, and a daemon that takes all memory is killed in the middle of a backup.
const MAX_OF_MEMORY: (u64, u64) = (3, 4);

/// Reads all words in order; a later one overrides an earlier one. With `sloppy` unknown words are ignored.
pub(super) fn parse(lists: &[String], sloppy: bool) -> Result<Wanted> {
    let mut wanted = defaults();
    let words = || lists.iter().flat_map(|list| list.split(','));
    let of_the_table = if words().any(|word| word == "remount") { FROM_THE_TABLE } else { &[] };
    for word in words() {
        if word.is_empty() || is_not_ours(word) {
            continue;
        }
        let is_known = apply(&mut wanted, word)? || of_the_table.iter().any(|p| word.starts_with(p));
        if !is_known && !sloppy {
            let known = manual::known();
            return Err(Error::Usage(format!("the mount option `{word}` is not known; known are {known}")));
        }
    }
    if !wanted.fuse.default_permissions && wanted.given_last("acl", "noacl") == Some(true) {
        return Err(Error::Usage(String::from(
            "the mount options `nodefault_permissions` and `acl` exclude each other: the kernel checks all permissions \
             where it applies ACLs; leave one of them out",
        )));
    }
    wanted.settle();
    Ok(wanted)
}

/// Applies one word; false if it is not known.
fn apply(wanted: &mut Wanted, word: &str) -> Result<bool> {
    let refused = |why: String| Err(Error::Usage(format!("the mount option `{word}`: {why}")));
    let (name, text) = word.split_once('=').unwrap_or((word, ""));
    if REFUSED.contains(&name) {
        return refused(String::from(
            "a store keeps the owner of every file, so none can be given for all; leave it out, and use chown for \
             single files",
        ));
    }
    let word = ALIASES.iter().find(|(alias, _)| *alias == word).map_or(word, |(_, meant)| meant);
    let spellings = || OPTIONS.iter().flat_map(|option| option.spellings);
    let is_whole = |s: &&Spelling| matches!(s.effect, Effect::Word(_)) && s.word == word;
    let takes_value = |s: &&Spelling| matches!(s.effect, Effect::Value(_)) && s.name() == name;
    let Some(spelling) = spellings().find(is_whole).or_else(|| spellings().find(takes_value)) else {
        return match manual::written_as(name) {
            Some(words) => refused(format!("write {words}")),
            None => Ok(false),
        };
    };
    match spelling.effect {
        Effect::Word(set) => set(wanted),
        Effect::Value(read) => {
            if let Err(why) = read(wanted, text) {
                return refused(why);
            }
        }
    }
    wanted.given.push(spelling.word);
    Ok(true)
}

fn is_not_ours(word: &str) -> bool {
    NOT_OURS.contains(&word) || NOT_OURS_PREFIXES.iter().any(|p| word.starts_with(p))
}

/// Refuses a cache that would not fit into `memory` bytes with what else the machine has to hold.
pub(super) fn refuse_more_than(memory: u64, wanted: &Wanted) -> Result<()> {
    let most = memory / MAX_OF_MEMORY.1 * MAX_OF_MEMORY.0;
    let bytes = wanted.open.cache_bytes;
    // The default was not asked for, and a small machine has no better one.
    if bytes <= most || !wanted.given.contains(&"cache=SIZE") {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the mount option `cache`: {} are more than three quarters of the memory of this machine; write at most cache={}M",
        show_size(bytes),
        most >> 20
    )))
}

/// Bytes of memory that this machine has.
#[allow(clippy::useless_conversion, reason = "the number has 32 bits on machines of 32")]
pub(super) fn memory_of_this_machine() -> u64 {
    let info = rustix::system::sysinfo();
    u64::try_from(info.totalram).unwrap_or(u64::MAX).saturating_mul(info.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::fs::{AccessTimes, FsOptions};
    use crate::fuse::{IoUring, MountOptions};
    use crate::store::OpenOptions;

    fn words(text: &str) -> Result<Wanted> {
        parse(&[text.to_owned()], false)
    }

    /// Everything that is asked for, without the words that did it.
    fn effects(text: &str) -> String {
        format!("{:?}", Wanted { given: Vec::new(), ..words(text).unwrap() })
    }

    #[test]
    fn every_word_has_its_effect() {
        let wanted = words(
            "ro,noatime,allow_other,nodefault_permissions,noacl,writeback,commit=30,cache=256M,threads=3,io_uring=off,\
             suid,dev,noexec",
        )
        .unwrap();
        assert!(wanted.open.read_only && wanted.fuse.read_only && !wanted.remount);
        assert_eq!((wanted.fs.atime, wanted.fuse.atime), (AccessTimes::Never, AccessTimes::Never));
        assert_eq!(wanted.fs.commit_interval, Duration::from_secs(30));
        assert_eq!(wanted.open.cache_bytes, 256 << 20);
        let MountOptions { allow_other, default_permissions, posix_acl, writeback, .. } = wanted.fuse;
        assert_eq!((allow_other, default_permissions, posix_acl, writeback), (true, false, false, true));
        assert_eq!((wanted.fuse.threads, wanted.fuse.io_uring), (3, IoUring::Off));
        assert_eq!((wanted.fuse.suid, wanted.fuse.dev, wanted.fuse.exec), (true, true, false));

        let wanted = words("gc=off,gc_interval=12h,scrub=12h").unwrap();
        let half_a_day = Some(Duration::from_secs(12 * 3600));
        assert_eq!((wanted.collect, wanted.collect_interval, wanted.scrub), (false, half_a_day, half_a_day));
        assert_eq!(words("scrub=off").unwrap().scrub, None);
    }

    #[test]
    fn nothing_runs_by_itself_in_a_mount_that_is_read_only() {
        let wanted = words("gc=auto,gc_interval=12h,scrub=12h,ro").unwrap();
        assert_eq!((wanted.collect, wanted.collect_interval, wanted.scrub), (false, None, None));
    }

    #[test]
    fn every_default_is_what_the_parts_have_by_themselves() {
        let wanted = words("").unwrap();
        assert_eq!(format!("{:?}", wanted.open), format!("{:?}", OpenOptions::default()));
        assert_eq!(format!("{:?}", wanted.fs), format!("{:?}", FsOptions::default()));
        assert_eq!(wanted.fuse, MountOptions::default());
        assert_eq!((wanted.collect, wanted.collect_interval), (true, None));
        assert_eq!(wanted.scrub, Some(Duration::from_secs(30 * 24 * 3600)));
        for option in OPTIONS {
            if let DefaultValue::Word(word) = option.default {
                assert_eq!(effects(word), effects(""), "{word}");
            }
        }
    }

    #[test]
    fn the_words_of_an_option_differ_and_the_last_counts() {
        let is_word = |s: &&Spelling| matches!(s.effect, Effect::Word(_));
        let mut seen = 0;
        for option in OPTIONS {
            for one in option.spellings.iter().filter(is_word) {
                for other in option.spellings.iter().filter(is_word).filter(|other| other.word != one.word) {
                    seen += 1;
                    let both = effects(&format!("{},{}", one.word, other.word));
                    assert_eq!(both, effects(other.word), "{} then {}", one.word, other.word);
                    assert_ne!(both, effects(one.word), "{} then {}", one.word, other.word);
                }
            }
        }
        assert!(seen > 20, "{seen}");
        let names: Vec<_> = OPTIONS.iter().flat_map(|option| option.spellings).map(|s| s.word).collect();
        for word in &names {
            assert!(names.iter().filter(|name| *name == word).count() == 1, "{word} is declared twice");
            assert!(!is_not_ours(word), "{word} would be ignored");
        }
    }

    #[test]
    fn what_a_remount_changes_is_what_was_given_last() {
        let given = |lists: &[&str]| {
            let lists: Vec<_> = lists.iter().map(|&list| list.to_owned()).collect();
            parse(&lists, false).unwrap().given_last("ro", "rw")
        };
        assert_eq!(given(&["remount,noatime"]), None);
        assert_eq!(given(&["rw,noatime,remount,ro"]), Some(true));
        assert_eq!(given(&["remount,ro", "rw"]), Some(false));
    }

    #[test]
    fn what_fstab_and_systemd_add_is_ignored() {
        let added = "rw,auto,noauto,user,users,nofail,_netdev,defaults,x-systemd.automount,x-systemd.requires=/srv,\
                     comment=backups,sync,async,dirsync,user=joe,uhelper=cairnfs,,";
        assert_eq!(effects(added), effects(""));
        let nothing = Wanted { given: Vec::new(), ..parse(&[], false).unwrap() };
        assert_eq!(format!("{nothing:?}"), effects(""));
    }

    #[test]
    fn the_last_word_on_access_times_counts() {
        for (text, atime) in [
            ("noatime,strictatime", AccessTimes::Always),
            ("strictatime,nostrictatime", AccessTimes::Relative),
            ("noatime,atime", AccessTimes::Relative),
            ("strictatime,noatime,nodiratime,lazytime", AccessTimes::Never),
        ] {
            let wanted = words(text).unwrap();
            assert_eq!((wanted.fs.atime, wanted.fuse.atime), (atime, atime), "{text}");
            assert_eq!(wanted.fuse.no_open, atime != AccessTimes::Always, "{text}");
        }
    }

    #[test]
    fn a_remount_takes_the_words_of_the_table_of_mounts() {
        let wanted = words("rw,nosuid,user_id=0,group_id=0,allow_other,max_read=131072,remount,ro").unwrap();
        assert!(wanted.remount && wanted.fuse.read_only);
        assert_eq!(
            (wanted.given_last("suid", "nosuid"), wanted.given_last("dev", "nodev")),
            (Some(false), None)
        );
    }

    #[test]
    fn several_lists_are_one() {
        let wanted = parse(&["ro,commit=9".into(), "rw".into()], false).unwrap();
        assert!(!wanted.fuse.read_only);
        assert_eq!(wanted.fs.commit_interval, Duration::from_secs(9));
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
                prop::sample::select(
                    OPTIONS.iter().flat_map(|option| option.spellings).map(|s| s.word).collect::<Vec<_>>()), 0..6),
            value in "[0-9a-zA-Z=,.-]{0,12}",
            sloppy: bool,
        ) {
            let near = format!("{}{value}", words.join(","));
            let names: Vec<_> = words.iter().map(|word| word.split('=').next().unwrap_or_default()).collect();
            let of_names = format!("{}={value}", names.join(","));
            for list in [text, near, of_names] {
                if let Err(error) = parse(&[list], sloppy) {
                    prop_assert!(matches!(error, Error::Usage(_)), "{error}");
                }
            }
        }
    }
}
