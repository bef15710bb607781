//! Rules about the sources that a compiler does not know: who may import whom, which names are not used where.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cairnfs::check::repair::RepairReport;
use cairnfs::check::{CheckReport, Finding, Resumed, ScrubStatus};
use cairnfs::control::{DroppedSubvolume, HeldBack, Holder, StatusReport};
use cairnfs::gc::{CycleRecord, Stage};
use cairnfs::retry::RecurringFailure;
use cairnfs::snapshots::{Group, Listing, OwnedSetting, Snapshot};
use cairnfs::store::StoreStatus;
use serde_json::Value;

/// Modules from the bottom up; a module may import those on lines above its own, and what `ALSO` says.
const LAYERS: [&[&str]; 9] = [
    &["error", "sync", "sabotage", "retry"],
    &["chunk", "media"],
    &["pack"],
    &["meta"],
    &["store"],
    &["fs", "gc", "check"],
    &["snapshots"],
    &["fuse", "control"],
    &["daemon", "cli"],
];

/// Modules of one line that know each other: the program's entry and the process it starts.
const ALSO: [(&str, &str); 2] = [("cli", "daemon"), ("daemon", "cli")];

pub fn sources() -> Vec<(PathBuf, String)> {
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// The Rust files below a directory, with their texts.
pub fn rust_files(root: &Path) -> Vec<(PathBuf, String)> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The module below `src` that a file belongs to.
fn module(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// True for unit tests, wherever the sources are.
pub fn is_test(path: &Path) -> bool {
    let below = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path);
    below.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// The lines of a file before its unit tests, with their numbers, without comments.
pub fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("mod tests {"));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(number, line)| (number + 1, line))
}

fn line_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|line| line.contains(&module))
}

#[test]
fn imports_go_down_only() {
    let mut arrows = Vec::new();
    let mut seen = 0;
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let from = module(path);
        let Some(own) = line_of(&from) else { continue };
        for (number, line) in code(text) {
            for part in line.split("crate::").skip(1) {
                let to: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(other) = line_of(&to) else { continue };
                seen += 1;
                let allowed = to == from || other < own || ALSO.contains(&(from.as_str(), to.as_str()));
                if !allowed {
                    arrows.push(format!("{}:{number}: {from} imports {to}", path.display()));
                }
            }
        }
    }
    assert!(seen > 100, "the sources were read");
    assert!(arrows.is_empty(), "{}", arrows.join("\n"));
}

#[test]
fn each_crate_beneath_is_named_in_one_place() {
    let rules: [(&str, &[&str]); 5] = [
        ("redb::", &["meta/kv"]),
        ("fuser::", &["fuse/"]),
        ("unsafe ", &["media/", "fuse/ring/entry.rs"]),
        // What the explorer of schedules replaces, and what must be one step to it.
        ("parking_lot::", &["sync.rs", "meta/kv", "meta/pages.rs", "media/", "fuse/", "daemon/", "control/"]),
        // No clock decides anything about chunks (I10): a span may be measured for display, the time of day is not
        // read.
        ("SystemTime", &["meta/rows/inode.rs", "fuse/", "cli/", "daemon/", "control/"]),
    ];
    for (name, places) in rules {
        for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
            if places.iter().any(|place| path.to_string_lossy().contains(&format!("/src/{place}"))) {
                continue;
            }
            for (number, line) in code(text) {
                assert!(!line.contains(name), "{}:{number} names {name}", path.display());
            }
        }
    }
}

/// Words that read a clock, of whatever kind; the times of the host's files are one.
const CLOCKS: [&str; 16] = [
    "SystemTime",
    "Timestamp::now",
    "Instant",
    "clock_gettime",
    "elapsed(",
    "UNIX_EPOCH",
    "ClockId",
    "gettimeofday",
    "rustix::time",
    "libc::time",
    "chrono",
    "Utc::",
    "OffsetDateTime",
    ".modified()",
    ".created()",
    ".mtime",
];

/// Where a clock may be read below the filesystem, and for what: never to decide about a chunk, a row or a pack (I10).
const MAY_READ_CLOCKS: [(&str, &str); 7] = [
    // When a cycle begins by itself.
    ("src/gc/start.rs", "Instant"),
    // The record of a cycle: when it began, how long its stages took; and when the last one ended, for the start.
    ("src/gc/mod.rs", "Timestamp::now().sec"),
    ("src/gc/mod.rs", "Instant"),
    ("src/gc/mod.rs", "elapsed("),
    // How long writers were held by a flip, for the record.
    ("src/store/batches/batch.rs", ""),
    // How long a fold took, for the status.
    ("src/store/commit/figures.rs", ""),
    // How long the lock of a store is waited for.
    ("src/media/lock.rs", ""),
];

/// The lines of a file that read a clock where nothing may. `file` begins with `src/`.
pub fn clock_readings(file: &str, text: &str) -> Vec<String> {
    let below = [
        "src/store/",
        "src/gc/",
        "src/pack/",
        "src/chunk/",
        "src/meta/kv",
        "src/meta/layers",
        "src/meta/mem",
        "src/media/",
        // What a cycle begins with, handed to it as a function.
        "src/fs/orphans",
        "src/fs/extents",
    ];
    if !below.iter().any(|dir| file.starts_with(dir)) {
        return Vec::new();
    }
    let allowed =
        |line: &str| MAY_READ_CLOCKS.iter().any(|(place, word)| *place == file && line.contains(word));
    let reads = |line: &str| CLOCKS.iter().any(|word| line.contains(word)) && !allowed(line);
    code(text)
        .filter(|(_, line)| reads(line))
        .map(|(n, line)| format!("{file}:{n}: {}", line.trim()))
        .collect()
}

#[test]
fn class_06_no_clock_decides_about_a_chunk() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut readings = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let file = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        readings.extend(clock_readings(&file, text));
    }
    assert!(readings.is_empty(), "{}", readings.join("\n"));
}

#[test]
fn files_stay_readable() {
    let all = sources();
    let files: Vec<_> = all.iter().filter(|(path, _)| !is_test(path)).collect();
    assert!(files.len() > 100, "the sources were read");
    for (path, text) in files {
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
        assert!(text.starts_with("//!"), "{} does not say what it keeps true", path.display());
    }
}

/// The words in backquotes of a text that look like the name of a test: several parts, small letters.
fn names_in(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let word = |name: &&str| {
        name.matches('_').count() >= 2
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.filter(word).collect()
}

/// The files of the tests, by their places below `tests`.
pub fn test_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let place = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    let mut found: Vec<_> = rust_files(&root).into_iter().map(|(path, text)| (place(&path), text)).collect();
    found.sort();
    found
}

/// The functions in whose text one of the words stands.
fn functions_with(words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in test_sources().iter().filter(|(file, _)| !file.ends_with("structure.rs")) {
        let mut function = "";
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("fn ") {
                function = rest.split(['(', '<']).next().unwrap_or_default();
            }
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{file} {function}"));
            }
        }
    }
    found.dedup();
    found
}

/// `MarkOnHit` as the environment has it: `mark-on-hit`.
fn with_dashes(name: &str) -> String {
    let dash = |c: char| if c.is_uppercase() { format!("-{}", c.to_lowercase()) } else { c.to_string() };
    name.chars().map(dash).collect::<String>().trim_start_matches('-').to_owned()
}

#[test]
fn every_protection_is_taken_out_by_a_test() {
    let text = sources().into_iter().find(|(path, _)| path.ends_with("src/sabotage.rs")).unwrap().1;
    let variants = text.split_once("pub enum Protection {").unwrap().1.split_once('}').unwrap().0;
    let names: Vec<&str> = variants
        .lines()
        .map(|line| line.trim().trim_end_matches(','))
        .filter(|n| !n.starts_with('/'))
        .collect();
    let mut seen = 0;
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        seen += 1;
        let tests = functions_with(&[&format!("Protection::{name}"), &with_dashes(name)]);
        assert!(!tests.is_empty(), "no test takes {name} out");
        println!("{name}");
        tests.iter().for_each(|test| println!("    {test}"));
    }
    assert!(seen > 10, "the protections were read");
}

#[test]
fn every_class_of_loss_has_a_test_of_its_name() {
    let tests = test_sources();
    for class in 1..=12 {
        let name = format!("fn class_{class:02}_");
        assert!(tests.iter().any(|(_, text)| text.contains(&name)), "no test of class {class}");
    }
}

#[test]
fn the_documents_name_only_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all: String = sources().into_iter().map(|(_, text)| text).collect();
    all.extend(test_sources().into_iter().map(|(_, text)| text));
    let mut seen = 0;
    for page in ["semantics.md", "collection.md"] {
        let text = fs::read_to_string(root.join("docs").join(page)).unwrap();
        for name in names_in(&text) {
            seen += 1;
            assert!(all.contains(name), "{page} names `{name}`, which is nowhere in the sources");
        }
    }
    assert!(seen > 30, "the pages were read");
}

/// The files in backquotes of a page, without those that a name in capitals stands for.
fn files_in(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_file =
        |word: &&str| word.ends_with(".rs") && word.contains('/') && !word.contains(char::is_uppercase);
    quoted.filter(is_file).collect()
}

#[test]
fn the_documents_name_only_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for page in ["architecture.md", "contributing.md"] {
        let text = fs::read_to_string(root.join("docs").join(page)).unwrap();
        // A code block has three backquotes on each side, so the text around it is paired all the same.
        for file in files_in(&text) {
            seen += 1;
            let is_there = root.join("src").join(file).exists() || root.join(file).exists();
            assert!(is_there, "{page} names `{file}`, which is not there");
        }
    }
    assert!(seen > 60, "the pages were read");
}

/// What stands in backquotes between two words of a sentence is looked for without what differs each time.
#[test]
fn the_messages_that_operations_quotes_are_in_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Strings that go over lines in the sources are joined.
    let joined = |text: &str| text.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let all: String = sources().iter().map(|(_, text)| joined(text)).collect();
    let text = fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let section = text.split("## When something is wrong").nth(1).unwrap().split("\n## ").next().unwrap();
    let section = section.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut seen = 0;
    for quoted in section.split('`').skip(1).step_by(2) {
        if quoted.starts_with("cairnfs") || quoted.starts_with("cp ") || !quoted.contains(' ') {
            continue;
        }
        // Names that stand for others in the page: X, N.
        for part in quoted.split([' ']).collect::<Vec<_>>().split(|word| matches!(*word, "X" | "N")) {
            let part = part.join(" ");
            if part.contains(' ') {
                seen += 1;
                let known = all.contains(&part) || all.contains(&part.replace("meta/cairnfs.redb ", ""));
                assert!(known, "docs/operations.md quotes `{part}`, which no source says");
            }
        }
    }
    assert!(seen > 12, "the section was read");
}

/// The names of all fields in a value, as docs/json.md writes them.
fn fields(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let dot = if prefix.is_empty() { "" } else { "." };
            for (name, value) in map {
                let name = format!("{prefix}{dot}{name}");
                fields(value, &name, found);
                found.insert(name);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, &format!("{prefix}[]"), found)),
        _ => {}
    }
}

/// What `ls --json` prints if everything there can be is there.
fn full_listing(setting: OwnedSetting) -> Listing {
    let snapshot = Snapshot {
        name: String::new(),
        files: 1,
        bytes: 1,
        made: 0,
        changed: 0,
        complete: true,
        sealed: Some(0),
        clone_of: Some(String::new()),
        protected: false,
    };
    let group =
        Group { path: String::new(), group: true, settings: vec![setting], snapshots: vec![snapshot] };
    Listing { groups: vec![group] }
}

/// What `status --json` prints if everything there can be is there.
fn full_status() -> StatusReport {
    let trouble =
        RecurringFailure { what: "cycle".into(), error: "no".into(), failures: 1, since: 0, retry_in: 0 };
    let dropped =
        DroppedSubvolume { number: 1, name: Some(String::new()), held_by: HeldBack::Kernel, remembered: 1 };
    StatusReport {
        version: String::new(),
        path: String::new(),
        holder: Some(Holder { pid: 1, mountpoint: String::new(), read_only: false, detached: false }),
        stage: Stage::Idle,
        last_cycle: None,
        scrub: ScrubStatus::default(),
        dropped: vec![dropped],
        failing: vec![trouble],
        problems: Vec::new(),
        store: StoreStatus::default(),
    }
    .with_problems(Vec::new())
}

#[test]
fn the_fields_of_json_are_those_that_the_documents_have() {
    let finding = Finding { what: String::new(), files: Vec::new(), files_total: 0 };
    let check = CheckReport {
        resumed: Some(Resumed { chunk: 0, bytes: 0 }),
        began_anew: Some(String::new()),
        findings: vec![finding],
        ..CheckReport::default()
    };
    let setting = OwnedSetting { name: String::new(), value: String::new(), origin: String::new() };
    let settings = serde_json::json!({ "settings": [&setting] });
    let printed = [
        ("status", 10, serde_json::to_value(full_status())),
        ("gc", 10, serde_json::to_value(CycleRecord::default())),
        ("ls", 10, serde_json::to_value(full_listing(setting))),
        ("get", 3, Ok(settings)),
        ("check", 10, serde_json::to_value(check)),
        ("repair", 10, serde_json::to_value(RepairReport::default())),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/json.md")).unwrap();
    for (command, more_than, value) in printed {
        let section = text.split(&format!("\n## {command}\n")).nth(1).expect(command);
        let section = section.split("\n## ").next().unwrap();
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: BTreeSet<String> = cells.map(str::to_owned).collect();
        let mut known = BTreeSet::new();
        fields(&value.unwrap(), "", &mut known);
        assert!(known.len() > more_than, "{command}: {known:?}");
        let differ: Vec<_> = known.symmetric_difference(&documented).collect();
        assert!(differ.is_empty(), "docs/json.md and `cairnfs {command} --json` differ in {differ:?}");
    }
}
