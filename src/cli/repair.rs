//! `cairnfs repair`: rebuilds the metadata of a store that is not open. Without `--yes` it only reports what it would
//! do.

use super::args::RepairArgs;
use super::interrupt::Interrupt;
use super::output::{self, count};
use super::show;
use super::target::store_of;
use crate::check::repair::{Database, Paths, RepairReport, repair_store};
use crate::error::{Error, Result};

pub(super) fn run(args: &RepairArgs) -> Result<()> {
    let _interrupt = Interrupt::install(args.json, "run `cairnfs repair` again, which begins anew")?;
    let report = repair_store(&store_of(&args.store)?, args.yes)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    match outcome(&report) {
        None => Ok(()),
        Some(what) => Err(Error::CheckFailed(format!("{}: {what}", show(&args.store)))),
    }
}

/// The last sentence; none if all is well now.
fn outcome(report: &RepairReport) -> Option<&'static str> {
    match (report.is_needed(), report.done, report.lost_something()) {
        (true, false, _) => Some("nothing was changed; `cairnfs repair --yes` does what is said above"),
        (_, _, true) => Some("repaired as far as possible; what is lost is said above"),
        _ => None,
    }
}

fn text(report: &RepairReport) -> String {
    let mut lines = Vec::new();
    if !report.is_needed() {
        lines.push("nothing to repair".to_owned());
    }
    lines.push(match report.database {
        Database::Whole => "the metadata database can be read to its end".to_owned(),
        Database::Damaged => format!("the metadata database is damaged: {}", fault(report)),
        Database::Unreadable => format!("the metadata database cannot be opened: {}", fault(report)),
        Database::Missing => "the metadata database is missing or empty".to_owned(),
    });
    lines.extend(of_log(report));
    lines.extend(
        report.damaged_backups.iter().map(|backup| format!("a metadata backup is damaged: {backup}")),
    );
    lines.push(match report.backup {
        Some((number, generation)) => {
            format!("newest whole metadata backup: {number:08}, of generation {generation}")
        }
        None => "there is no whole metadata backup".to_owned(),
    });
    if report.is_without_database() {
        lines.push(match report.backup {
            Some(_) => "what changed after that backup is lost with the database".to_owned(),
            None => "all names are lost; the chunks stay until the next cycle frees them".to_owned(),
        });
    }
    lines.push(format!(
        "{} rows from the database, {} from the backup, {} lost",
        count(report.rows_from_database),
        count(report.rows_from_backup),
        count(report.rows_lost)
    ));
    if !report.tables_with_gaps.is_empty() {
        lines.push(format!(
            "tables with pages that cannot be read, whose rows only the backup has: {}",
            report.tables_with_gaps.join(", ")
        ));
    }
    lines.push(format!("{} chunks in {} packs", count(report.chunks), count(report.packs)));
    if report.chunks_found > 0 {
        lines.push(format!("{} chunks were found in other packs than before", count(report.chunks_found)));
    }
    if report.chunks_missing > 0 {
        lines.push(format!("{} chunks that files need are in no pack", count(report.chunks_missing)));
    }
    add(&mut lines, "packs, or parts of them, that cannot be read", &report.damaged_packs);
    if report.unread_parts > 0 {
        lines.push(
            "the host could not read some of them: look at the disk first, the next cycle frees what was not found"
                .to_owned(),
        );
    }
    add(&mut lines, "files of which something is lost", &report.hurt_files);
    add(&mut lines, "files that lost their attributes or their names", &report.nameless);
    add(&mut lines, "names whose files are lost", &report.names_lost);
    if report.versions_lost > 0 {
        lines.push(format!(
            "{} versions of subvolumes have lost their place: what these saw of older ones is gone",
            count(report.versions_lost)
        ));
    }
    if let Some(dir) = &report.lost_found {
        let verb = if report.done { "are now" } else { "would be" };
        lines.push(format!("the files named above {verb} below /{dir}; what is lost of them reads as EIO"));
    }
    if let Some(aside) = &report.kept_aside {
        lines.push(format!("the old database was kept as {aside}"));
    }
    lines.join("\n") + "\n"
}

fn of_log(report: &RepairReport) -> impl Iterator<Item = String> {
    let entries = report.log_entries;
    let taken = (entries > 0).then(|| format!("{} commits come from the log", count(entries)));
    let lost = report.log_fault.as_ref().map(|what| format!("of the log something is lost: {what}"));
    let unfinished = report.log_unfinished.as_ref().map(|what| {
        format!("the end of the log: {what}; either nobody was told that it is durable, or it is damaged")
    });
    [taken, lost, unfinished].into_iter().flatten()
}

fn fault(report: &RepairReport) -> &str {
    report.database_fault.as_deref().unwrap_or("it does not say why")
}

fn add(lines: &mut Vec<String>, what: &str, paths: &Paths) {
    if paths.total > 0 {
        lines.push(format!("{} {what}:", count(paths.total)));
        lines.extend(paths.named.iter().map(|path| format!("    {path}")));
        let more = paths.total - paths.named.len() as u64;
        if more > 0 {
            lines.push(format!("    and {} more", count(more)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_lost_and_what_to_do() {
        let mut report = RepairReport { database: Database::Whole, ..RepairReport::default() };
        assert!(text(&report).starts_with("nothing to repair\n"));
        assert_eq!(outcome(&report), None);
        report.database = Database::Missing;
        assert!(outcome(&report).is_some_and(|what| what.contains("--yes")));
        report.done = true;
        assert!(text(&report).contains("all names are lost"));
        assert!(outcome(&report).is_some_and(|what| what.contains("as far as possible")));
        report.backup = Some((7, 3));
        assert!(text(&report).contains("what changed after that backup is lost"));
        assert_eq!(outcome(&report), None, "all that is known of was rebuilt");
        report.unread_parts = 1;
        assert!(text(&report).contains("the next cycle frees what was not found"));
        assert!(outcome(&report).is_some_and(|what| what.contains("as far as possible")));
        report.unread_parts = 0;
        report.hurt_files = Paths { named: vec!["a/b".into()], total: 3 };
        assert!(text(&report).contains("3 files of which something is lost:\n    a/b\n    and 2 more\n"));
        assert!(outcome(&report).is_some_and(|what| what.contains("as far as possible")));
    }
}
