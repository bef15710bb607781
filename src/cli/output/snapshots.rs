//! Groups, snapshots and settings, for people.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::super::size::show_size;
use crate::snapshots::{Group, Listing, OwnedSetting, Snapshot};

/// The answer of `cairnfs get --json`.
#[derive(Serialize)]
pub(in crate::cli) struct Settings {
    pub settings: Vec<OwnedSetting>,
}

/// The answer of `cairnfs get`.
pub(in crate::cli) fn settings(settings: &[OwnedSetting]) -> String {
    let rows = settings
        .iter()
        .map(|setting| [setting.name.clone(), setting.value.clone(), format!("from {}", setting.origin)]);
    table(&[], rows.collect())
}

/// The answer of `cairnfs ls`.
pub(in crate::cli) fn listing(listing: &Listing) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
    let groups: Vec<String> = listing.groups.iter().map(|group| shown(group, now)).collect();
    groups.join("\n")
}

fn shown(group: &Group, now: i64) -> String {
    let settings: Vec<String> =
        group.settings.iter().map(|setting| format!(" {}={}", setting.name, setting.value)).collect();
    let rows = group.snapshots.iter().map(|snapshot| line(snapshot, now)).collect();
    let header = ["  snapshot", "files", "size", "made", "changed", "state", "clone of"];
    format!("{}:{}\n{}", group.path, settings.concat(), table(&header, rows))
}

fn line(snapshot: &Snapshot, now: i64) -> [String; 7] {
    let ago = |time: i64| format!("{} ago", span(now.saturating_sub(time)));
    let state = if snapshot.complete { "complete" } else { "open" };
    [
        format!("  {}", snapshot.name),
        snapshot.files.to_string(),
        show_size(snapshot.bytes),
        ago(snapshot.made),
        ago(snapshot.changed),
        if snapshot.protected { format!("{state}, protected") } else { state.to_owned() },
        snapshot.clone_of.clone().unwrap_or_default(),
    ]
}

/// A length of time in its largest unit. What lies ahead, by a clock that was wrong, is no time at all.
fn span(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{} s", seconds.max(0)),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Columns as wide as they must be; the first to the left.
fn table<const N: usize>(header: &[&str], rows: Vec<[String; N]>) -> String {
    let header = (!header.is_empty() && !rows.is_empty())
        .then(|| header.iter().map(|name| (*name).to_owned()).collect());
    let all: Vec<Vec<String>> = header.into_iter().chain(rows.into_iter().map(Vec::from)).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_one_unit() {
        let spans = [-5, 59, 60, 7199, 172_799, 172_800].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "1 h", "47 h", "2 d"]);
    }

    #[test]
    fn a_group_is_told_with_its_snapshots_below_it() {
        let snapshot = Snapshot {
            name: "2026-11-22".into(),
            files: 12,
            bytes: 2048,
            made: 100,
            changed: 160,
            complete: false,
            sealed: None,
            clone_of: Some("/home/2026-11-21".into()),
            protected: true,
        };
        let setting = OwnedSetting { name: "group".into(), value: "yes".into(), origin: "/home".into() };
        let group = Group {
            path: "/home".into(),
            group: true,
            settings: vec![setting.clone()],
            snapshots: vec![snapshot],
        };
        let text = shown(&group, 220);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["/home:", "group=yes"]);
        assert_eq!(lines[2][..2], ["2026-11-22", "12"]);
        assert!(lines[2].ends_with(&["open,", "protected", "/home/2026-11-21"]), "{text}");
        assert_eq!(settings(&[setting]), "group  yes  from /home\n");
    }
}
