//! What commands print: aligned lines for people, exactly one JSON object for programs.

mod snapshots;

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::progress::stage_words;
use super::size::show_size;
use crate::check::CheckReport;
use crate::control::{DroppedSubvolume, HeldBack, ProblemKind, StatusReport};
use crate::error::{Error, Result};
use crate::gc::{CycleRecord, Stage};
use crate::store::LogStatus;

pub(super) use snapshots::{Settings, listing, settings};

/// A failure as `--json` shows it.
#[derive(Serialize)]
pub(super) struct Failure {
    error: String,
    exit_code: u8,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        Self { error: error.to_string(), exit_code: error.exit_code() }
    }

    /// A usage error; `text` is the whole text for people, with the usage below it.
    pub(super) fn of_usage(text: &str) -> Self {
        let first = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = first.split_whitespace().collect();
        let error = words.join(" ");
        Self { error: error.strip_prefix("error: ").unwrap_or(&error).to_owned(), exit_code: 2 }
    }

    /// The command was ended by a signal: the code is the one that a shell shows.
    pub(super) fn by_signal(text: String, signal: i32) -> Self {
        Self { error: text, exit_code: u8::try_from(128 + signal).unwrap_or(u8::MAX) }
    }
}

/// True once the one JSON object of this process was printed.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Prints one JSON object on one line. Only the first call of a process prints: a later failure shows in the exit code.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value).map_err(|e| Error::io("encoding the answer", e.into()))?;
    line.push('\n');
    // Held over both steps, so that a signal ends the process either before or after the answer.
    let out = io::stdout().lock();
    if ANSWERED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    print_to(out, &line)
}

/// Prints text.
pub(super) fn print(text: &str) -> Result<()> {
    print_to(io::stdout().lock(), text)
}

/// A reader that closes the pipe (`| head`) is no error.
fn print_to(mut out: impl io::Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("writing to standard output", e)),
        _ => Ok(()),
    }
}

/// Aligned lines of a name and a text.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, text: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name:<12} {}", text.as_ref());
    }
}

/// The answer of `cairnfs status`.
pub(super) fn status(report: &StatusReport) -> String {
    let store = &report.store;
    let mut lines = Lines::default();
    lines.add("store", format!("{} ({})", report.path, store.uuid));
    match &report.holder {
        Some(holder) if holder.detached => lines.add(
            "mounted",
            format!(
                "no longer: it was detached from {}; process {} serves the programs that still use it",
                holder.mountpoint, holder.pid
            ),
        ),
        Some(holder) => lines.add(
            "mounted",
            format!(
                "at {}{} by process {}",
                holder.mountpoint,
                if holder.read_only { ", read-only," } else { "" },
                holder.pid
            ),
        ),
        None => lines.add("mounted", "no"),
    }
    lines.add("inodes", count(store.inodes));
    add_subvolumes(&mut lines, report);
    lines.add("in files", show_size(store.referenced_bytes));
    lines.add(
        "chunks",
        format!(
            "{}, {} in all, deduplication {}",
            count(store.chunks),
            show_size(store.plain_bytes),
            factor(store.referenced_bytes, store.plain_bytes)
        ),
    );
    lines.add(
        "stored",
        format!(
            "{}: packs {}, database {}, log {}, backups {}, reserve {}; compression {}",
            show_size(store.bytes_on_disk()),
            show_size(store.stored_bytes),
            show_size(store.database_bytes),
            show_size(store.log.bytes_on_disk),
            show_size(store.backup_bytes),
            if store.reserve_given_up { "given up".to_owned() } else { show_size(store.reserve_bytes) },
            factor(store.plain_bytes, store.stored_bytes)
        ),
    );
    lines.add("log", log_line(&store.log));
    if store.deletion_queue > 0 {
        lines.add("deleted", format!("{} files wait to be removed", count(store.deletion_queue)));
    }
    lines.add("disk", format!("{} free of {}", show_size(store.host_free), show_size(store.host_total)));
    if store.reserve_given_up {
        lines.add("reserve", "given up on a full disk; it comes back by itself once there is room");
    }
    for problem in &report.problems {
        lines.add(problem_name(problem.kind), &problem.text);
    }
    if report.scrub.running {
        let (bytes, bad) = (show_size(report.scrub.bytes), count(report.scrub.bad));
        lines.add("scrub", format!("{bytes} read in this pass, {bad} chunks do not read back"));
    }
    if report.scrub.passes > 0 {
        let bad = count(report.scrub.last_bad);
        lines.add("last scrub", format!("{}, {bad} chunks did not read back", ago(report.scrub.last_ended)));
    }
    lines.add("generation", store.generation.to_string());
    lines.add("collector", stage_words(report.stage));
    if let Some(record) = &report.last_cycle {
        lines.add("last cycle", cycle_line(record));
    }
    lines.0
}

/// Removed subvolumes shown to people; the line before says how many there are.
const MAX_DROPPED: usize = 10;

/// How many subvolumes there are, and what holds back those that were removed.
fn add_subvolumes(lines: &mut Lines, report: &StatusReport) {
    let store = &report.store;
    if store.subvolumes + store.subvolumes_dropped > 0 {
        let waiting = match store.subvolumes_dropped {
            0 => String::new(),
            dropped => format!(", {} removed ones wait to be reaped", count(dropped)),
        };
        lines.add("subvolumes", format!("{}{waiting}", count(store.subvolumes)));
    }
    report.dropped.iter().take(MAX_DROPPED).for_each(|dropped| lines.add("removed", held_back(dropped)));
}

/// What holds a removed subvolume back.
fn held_back(dropped: &DroppedSubvolume) -> String {
    let name = dropped.name.clone().unwrap_or_else(|| format!("subvolume {}", dropped.number));
    let why = match dropped.held_by {
        HeldBack::Kernel => format!(
            "the kernel remembers {} inodes of it, as long as they are open or cached",
            count(dropped.remembered)
        ),
        HeldBack::Commit => "its last changes are not durable yet".into(),
        HeldBack::Reap => "is being reaped".into(),
        HeldBack::ReadOnly => "is reaped once the store is mounted with rw".into(),
    };
    format!("{name}: {why}")
}

/// The answer of `cairnfs gc`.
pub(super) fn cycle(record: &CycleRecord) -> String {
    let mut lines = Lines::default();
    let (condemned, freed) =
        if record.dry_run { ("not in use", "would free") } else { ("condemned", "freed") };
    lines.add("generation", record.generation.to_string());
    lines.add("in use", format!("{} chunks of {} files", count(record.marked), count(record.roots)));
    lines.add(
        condemned,
        format!(
            "{} chunks, {} before compression",
            count(record.condemned),
            show_size(record.condemned_bytes)
        ),
    );
    lines.add(
        freed,
        format!(
            "{} (packs: {} removed, {} rewritten, {} punched)",
            show_size(record.freed_bytes),
            count(record.packs_removed),
            count(record.packs_compacted),
            count(record.packs_punched)
        ),
    );
    lines.add(
        "time",
        format!(
            "{} (drain {}, flip {}, mark {}, sweep {}, reclaim {}); writers held for at most {:.1} ms",
            seconds(total_ms(record)),
            seconds(record.drain_ms),
            seconds(record.flip_ms),
            seconds(record.mark_ms),
            seconds(record.sweep_ms),
            seconds(record.reclaim_ms),
            thousandths(record.longest_hold_us)
        ),
    );
    if let Some(why) = &record.ended_early {
        lines.add("ended early", why);
    }
    lines.0
}

fn cycle_line(record: &CycleRecord) -> String {
    let what = match (&record.ended_early, record.dry_run) {
        (Some(why), _) => format!("ended early: {why}"),
        (None, true) => format!("dry run, would free {}", show_size(record.freed_bytes)),
        (None, false) => format!("freed {}", show_size(record.freed_bytes)),
    };
    // A record of an earlier program has no end time.
    let when = if record.ended > 0 { format!(", {}", ago(record.ended)) } else { String::new() };
    format!("generation {}{when}: {what}, in {}", record.generation, seconds(total_ms(record)))
}

/// What is in the log of commits, and how the last fold went.
fn log_line(log: &LogStatus) -> String {
    let now =
        format!("{} of commits, folded after {} more", show_size(log.bytes), show_size(log.bytes_until_fold));
    match log.folds {
        0 => now,
        folds => {
            let last = log.last_fold_us as f64 / 1000.0;
            format!("{now}; {} folds since the store was opened, the last in {last:.1} ms", count(folds))
        }
    }
}

fn problem_name(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::Damage => "DAMAGE",
        ProblemKind::ReadOnly => "READ-ONLY",
        ProblemKind::Killed => "KILLED",
        ProblemKind::Failing => "FAILING",
        ProblemKind::Other => "PROBLEM",
    }
}

/// Files shown to people for one finding. Programs, and the list of `--list-damaged`, get all.
const MAX_NAMES: usize = 100;

/// The answer of `cairnfs check`.
pub(super) fn check(report: &CheckReport) -> String {
    let mut lines = Lines::default();
    lines.add("inodes", count(report.inodes));
    lines.add("names", count(report.dirents));
    lines.add("extents", count(report.extents));
    lines.add(
        "chunks",
        format!("{}, {} of them not in use", count(report.chunks), count(report.unreferenced_chunks)),
    );
    if report.unfound_chunks > 0 {
        lines.add(
            "not shared",
            format!("{} chunks, stored once more if they come again", report.unfound_chunks),
        );
    }
    lines.add("packs", count(report.packs));
    lines.add("backups", format!("{} of the metadata, whole", count(report.backups)));
    lines.add(
        "data",
        if report.data {
            format!("{} read and compared", show_size(report.bytes_read))
        } else {
            "not read (--data reads it)".into()
        },
    );
    match report.resumed {
        Some(from) => lines.add(
            "resumed",
            format!("at chunk {}, {} had been read before", from.chunk, show_size(from.bytes)),
        ),
        None => report
            .began_anew
            .iter()
            .for_each(|why| lines.add("resumed", format!("no, all data was read: {why}"))),
    }
    if report.is_clean() {
        lines.add("result", "clean");
        return lines.0;
    }
    lines.add("result", summary(report));
    for finding in &report.findings {
        let _ = writeln!(lines.0, "\n{}", finding.what);
        for file in finding.files.iter().take(MAX_NAMES) {
            let _ = writeln!(lines.0, "    {file}");
        }
        let named = finding.files.len().min(MAX_NAMES) as u64;
        if finding.files_total > named {
            let more = count(finding.files_total - named);
            let _ = writeln!(lines.0, "    and {more} more");
        }
    }
    lines.0
}

/// The last sentence of a check that found damage.
pub(super) fn summary(report: &CheckReport) -> String {
    let findings = report.findings.len() as u64;
    let noun = if findings == 1 { "finding" } else { "findings" };
    format!("damage: {} {noun}", count(findings))
}

/// The answer of a command that only started a cycle in the daemon.
pub(super) fn started(stage: Stage) -> String {
    match stage {
        Stage::Idle => "a cycle was asked for\n".into(),
        running => format!("a cycle was asked for; one is {} now\n", stage_words(running)),
    }
}

/// A time in the past, for people.
fn ago(then: i64) -> String {
    let now = crate::fs::Timestamp::now().sec;
    match now.saturating_sub(then) {
        ..120 => "just now".to_owned(),
        seconds @ ..7200 => format!("{} minutes ago", seconds / 60),
        seconds @ ..172_800 => format!("{} hours ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

fn total_ms(record: &CycleRecord) -> u64 {
    record.drain_ms + record.flip_ms + record.mark_ms + record.sweep_ms + record.reclaim_ms
}

/// `1234567` as `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How many times smaller: `2.50x`.
pub(super) fn factor(before: u64, after: u64) -> String {
    if before == 0 || after == 0 {
        return "1.00x".into();
    }
    #[allow(clippy::cast_precision_loss, reason = "for display, three digits")]
    let factor = before as f64 / after as f64;
    format!("{factor:.2}x")
}

fn seconds(ms: u64) -> String {
    format!("{:.2} s", thousandths(ms))
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn thousandths(n: u64) -> f64 {
    n as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Finding;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(factor(10, 4), "2.50x");
        assert_eq!(factor(0, 0), "1.00x");
    }

    #[test]
    fn a_check_names_the_files_and_how_many_more() {
        let mut report = CheckReport::default();
        assert!(check(&report).ends_with("result       clean\n"));
        report.findings.push(Finding {
            what: "chunk 5 does not match its digest".into(),
            files: vec!["a/b".into()],
            files_total: 3,
        });
        let text = check(&report);
        assert!(text.contains("result       damage: 1 finding\n"), "{text}");
        assert!(text.ends_with("chunk 5 does not match its digest\n    a/b\n    and 2 more\n"));
    }

    #[test]
    fn a_dry_run_says_would() {
        let mut record = CycleRecord { dry_run: true, freed_bytes: 1 << 20, ..CycleRecord::default() };
        assert!(cycle(&record).contains("would free   1.00 MiB"));
        record.dry_run = false;
        record.ended_early = Some("a row did not decode".into());
        let text = cycle(&record);
        assert!(text.contains("freed        1.00 MiB"), "{text}");
        assert!(text.contains("ended early  a row did not decode"));
    }

    #[test]
    fn a_failure_is_one_object() {
        let failure = Failure::of(&Error::NotAStore("x is no store".into()));
        assert_eq!(serde_json::to_string(&failure).unwrap(), r#"{"error":"x is no store","exit_code":3}"#);
        let usage = Failure::of_usage("error: the words\n  <PATH>\n  are missing\n\nUsage: cairnfs\n");
        assert_eq!((&usage.error[..], usage.exit_code), ("the words <PATH> are missing", 2));
        assert_eq!(Failure::by_signal("x".into(), libc::SIGINT).exit_code, 130);
    }
}
