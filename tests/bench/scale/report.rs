//! The tables, and a plot that shows at a glance what grows faster than the store.

use super::cycle::Cycle;
use super::history::{History, KEPT, Seen};
use super::probe::Took;
use super::synthetic::Size;
use super::tree::Step;
use crate::table::Table;

/// Everything about one size.
pub struct Grown {
    pub size: Size,
    pub built: Took,
    /// Bytes of the database.
    pub database: u64,
    pub open: Took,
    pub after_kill: Took,
    /// A cycle that frees one in ten.
    pub freeing: Cycle,
    /// One that finds nothing.
    pub idle: Cycle,
}

/// What the metadata engine may keep in memory: two thirds of the default `cache=`.
const DATABASE_CACHE: f64 = 128.0;
/// Characters of the longest bar.
const BAR: f64 = 40.0;

fn ms(took: &Took) -> String {
    format!("{:.1} ({:.0})", took.seconds * 1e3, took.cpu * 1e3)
}

fn seconds(took: &Took) -> String {
    format!("{:.2} ({:.2})", took.seconds, took.cpu)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// 1000000 as 10^6, 300000 as 3 x 10^5.
fn power(number: u64) -> String {
    let exponent = number.checked_ilog10().unwrap_or(0);
    match number / 10u64.pow(exponent) {
        _ if !number.is_multiple_of(10u64.pow(exponent)) || exponent < 3 => number.to_string(),
        1 => format!("10^{exponent}"),
        factor => format!("{factor} x 10^{exponent}"),
    }
}

pub fn growth(all: &[Grown]) {
    println!(
        "\nIn brackets: seconds of CPU (of open: milliseconds). Peaks are of the process that did it.\n"
    );
    let mut stores = Table::new([
        "chunks",
        "files",
        "snapshots",
        "database, MB",
        "made, s",
        "open, ms",
        "open after a kill, ms",
        "peak of open, MiB",
    ]);
    for grown in all {
        stores.row([
            power(grown.size.chunks),
            power(grown.size.files),
            power(grown.size.snapshots),
            format!("{:.0}", grown.database as f64 / 1e6),
            seconds(&grown.built),
            ms(&grown.open),
            ms(&grown.after_kill),
            format!("{:.0}", mib(grown.open.peak)),
        ]);
    }
    println!("{stores}");
    cycles("cycle that frees: chunks", all, |grown| &grown.freeing);
    cycles("cycle with nothing to free: chunks", all, |grown| &grown.idle);
    plot("CPU seconds of a cycle that frees, for 10^6 chunks and files", all, |grown| {
        grown.freeing.whole.cpu / (grown.size.chunks + grown.size.files) as f64 * 1e6
    });
    plot("CPU seconds of a cycle with nothing to free, for 10^6 chunks and files", all, |grown| {
        grown.idle.whole.cpu / (grown.size.chunks + grown.size.files) as f64 * 1e6
    });
}

fn cycles(title: &str, all: &[Grown], which: impl Fn(&Grown) -> &Cycle) {
    let mut table = Table::new([
        title,
        "references",
        "freed",
        "all, s",
        "mark, s",
        "sweep, s",
        "reclaim, s",
        "peak, MiB",
        "beyond the cache",
        "database grew, MB",
        "written, MB",
        "flip held, ms",
        "an operation, ms",
        "the worst, ms",
    ]);
    for grown in all {
        let cycle = which(grown);
        let stage = |index: usize| cycle.stages.get(index).map_or("-".to_owned(), seconds);
        let (before, after) = cycle.database;
        table.row([
            power(grown.size.chunks),
            power(cycle.record.marked * grown.size.copies),
            power(cycle.record.condemned),
            seconds(&cycle.whole),
            stage(1),
            stage(2),
            stage(3),
            format!("{:.0}", mib(cycle.whole.peak)),
            format!("{:.0}", (mib(cycle.whole.peak) - DATABASE_CACHE).max(0.0)),
            format!("{:.0}", after.saturating_sub(before) as f64 / 1e6),
            format!("{:.0}", cycle.written as f64 / 1e6),
            format!("{:.3}", cycle.record.longest_hold_us as f64 / 1e3),
            format!("{:.2}", cycle.operation_ms.0),
            format!("{:.1}", cycle.operation_ms.1),
        ]);
    }
    println!("{table}");
}

/// Bars of equal length say: in proportion to the size.
fn plot(title: &str, all: &[Grown], figure: impl Fn(&Grown) -> f64) {
    let longest = all.iter().map(&figure).fold(0.0, f64::max);
    if longest <= 0.0 {
        return;
    }
    println!("{title}; bars of one length mean growth in proportion\n");
    for grown in all {
        let value = figure(grown);
        let bar = "#".repeat((value / longest * BAR).ceil() as usize);
        println!("    {:>10}  {bar} {value:.2}", power(grown.size.chunks));
    }
    println!();
}

pub fn steps(title: &str, steps: &[Step]) {
    let header = [title, "times", "all, s", "CPU, s", "each, us", "worst in 100, us", "peak so far, MiB"];
    let mut table = Table::new(header);
    for step in steps {
        let each = |figure: f64| if figure > 0.0 { format!("{figure:.0}") } else { String::new() };
        table.row([
            step.what.clone(),
            step.times.to_string(),
            format!("{:.3}", step.took.seconds),
            format!("{:.2}", step.took.cpu),
            each(step.each_us.0),
            each(step.each_us.1),
            format!("{:.0}", mib(step.took.peak)),
        ]);
    }
    println!("\n{table}");
}

pub fn history(of: &History, seen: &Seen) {
    let title = format!("{} snapshots of {} files, {} changed each day", of.days, of.files, of.changed);
    let mut table = Table::new([title.as_str(), "figure"]);
    let changes = (of.days - 1) * of.changed;
    let (one, all) = seen.rows;
    let two = |(middle, worst): (f64, f64)| format!("{middle:.2}, worst {worst:.1}");
    let both = |(first, second): &(Took, Took)| {
        format!("{} and {} ({:.2}x)", seconds(first), seconds(second), second.cpu / first.cpu.max(0.01))
    };
    let (first, grown, pruned) = seen.database;
    let (rows, reap) = &seen.reaped;
    let entries = [
        ("a clone with a day's changes staged, ms", two(seen.clone_ms)),
        ("a clone with nothing staged, ms", two(seen.bare_clone_ms)),
        ("bytes of rows for each file of the first snapshot", format!("{:.0}", one as f64 / of.files as f64)),
        ("bytes of rows for each file that changed", format!("{:.0}", (all - one) as f64 / changes as f64)),
        (
            "database: first snapshot, all, after the prune, MB",
            [first, grown, pruned].map(|bytes| format!("{:.1}", bytes as f64 / 1e6)).join(", "),
        ),
        ("reading all attributes: first and newest, s", both(&seen.walk)),
        (
            "lookup: a file that never changed, one that did each day, us",
            format!("{:.1}, {:.1}", seen.lookup_us.0, seen.lookup_us.1),
        ),
        ("cycle: over the first and over all, s", both(&seen.cycle)),
        ("check of all, s", seconds(&seen.check)),
        ("opening, ms", ms(&seen.open)),
        ("a removal at once, ms", two(seen.prune_ms)),
        (
            "reaped after all but the newest were removed",
            format!(
                "{rows} rows, {} s, {:.0} a second of CPU",
                seconds(reap),
                *rows as f64 / reap.cpu.max(0.01)
            ),
        ),
    ];
    entries.into_iter().for_each(|(what, figure)| table.row([what.to_owned(), figure]));
    println!(
        "\nIn brackets: seconds of CPU (of the opening: milliseconds). The newest {KEPT} snapshots stay.\n\n{table}"
    );
}
