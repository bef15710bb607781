//! What each choice a FUSE daemon has is worth: the floor, mounted in every way, under the commands that
//! people use. It decides what cairnfs negotiates, and can be run again on another kernel.
//!
//! Every variant differs from the first in what its name says. The variants take turns, so that
//! what else the machine does falls on all of them alike; only ratios within a run mean something.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use crate::floor::negotiation::Negotiation;
use crate::floor::process::FloorProcess;
use crate::measure::{Outcome, median, process_cpu, quoted, shell};
use crate::table::Table;

const VARIANTS: &[(&str, &str)] = &[
    ("base", ""),
    ("1 thread", "threads=1"),
    ("clone_fd", "clone_fd=yes"),
    ("1 thread polls", "threads=1,spin=1000"),
    ("everything answered", "open=yes,opendir=yes,flush=yes,direct=no,readdirplus=auto"),
    ("OPEN answered", "open=yes"),
    ("OPENDIR answered", "opendir=yes"),
    ("FLUSH answered", "flush=yes"),
    ("CREATE cached", "direct=no"),
    ("CREATE refused", "create=no"),
    ("writeback", "writeback=yes"),
    ("no killpriv", "killpriv=no"),
    ("readdirplus auto", "readdirplus=auto"),
    ("readdirplus never", "readdirplus=no"),
    ("ACL refused", "acl=refused"),
    ("no permissions", "acl=stored,permissions=no"),
    ("no parallel dirops", "parallel_dirops=no"),
    ("no negative names", "negative=no"),
    ("no xattrs", "getxattr=no"),
    ("read-ahead 1 MiB", "readahead=1024"),
    ("timeout 0", "timeout=0,negative=no"),
    ("leanest", "acl=stored,permissions=no,readahead=1024"),
    ("leanest, 1 thread", "acl=stored,permissions=no,readahead=1024,threads=1"),
];

/// One command on the mount. `{src}` and `{mnt}` stand for the source tree and the mount.
struct Op {
    name: &'static str,
    /// Nothing of the mount is in the kernel's caches when it starts.
    cold: bool,
    line: &'static str,
    per: Per,
}

#[derive(PartialEq)]
enum Per {
    File,
    Mebibyte(u64),
}

const OPS: &[Op] = &[
    op("cp -a", false, "cp -a {src} {mnt}/a"),
    op("tar c", true, "tar cf - -C {mnt} a | cat >/dev/null"),
    op("find -ls", true, "find {mnt}/a -ls >/dev/null"),
    op("find -ls again", false, "find {mnt}/a -ls >/dev/null"),
    op("cp -a inside", false, "cp -a {mnt}/a {mnt}/c"),
    op("rsync -a", false, "rsync -a {src}/ {mnt}/b/"),
    op("rsync unchanged", true, "rsync -a {src}/ {mnt}/b/"),
    op("rsync inplace", true, "rsync -aI --inplace -W {src}/ {mnt}/c/"),
    op("rm -rf", false, "rm -rf {mnt}/a"),
    op("rm -rf cold", true, "rm -rf {mnt}/b"),
    big("write 1 MiB", 512, false, "dd if=/dev/zero of={mnt}/big bs=1M count=512"),
    big("read 1 MiB", 512, true, "dd if={mnt}/big of=/dev/null bs=1M"),
    big("write 4 KiB", 32, false, "dd if=/dev/zero of={mnt}/small bs=4k count=8192"),
];

const fn op(name: &'static str, cold: bool, line: &'static str) -> Op {
    let per = Per::File;
    Op { name, cold, line, per }
}

const fn big(name: &'static str, mebibytes: u64, cold: bool, line: &'static str) -> Op {
    let per = Per::Mebibyte(mebibytes);
    Op { name, cold, line, per }
}

/// What all runs of one command on one variant gave.
#[derive(Default)]
struct Seen {
    seconds: Vec<f64>,
    /// Of the command and of the daemon together.
    cpu: Vec<f64>,
    requests: BTreeMap<String, u64>,
}

pub struct Plan<'a> {
    /// Small files on a fast filesystem.
    pub source: &'a Path,
    pub work: &'a Path,
    pub runs: usize,
    /// Only variants and commands whose name contains one of these; all if empty.
    pub only: &'a [String],
    pub count_requests: bool,
}

pub fn compare(plan: &Plan<'_>) -> Outcome<()> {
    let files = count_files(plan.source)?;
    let variants: Vec<_> = VARIANTS
        .iter()
        .filter(|(name, _)| {
            plan.only.is_empty() || plan.only.iter().any(|wanted| name.contains(wanted.as_str()))
        })
        .collect();
    let mut seen: Vec<Vec<Seen>> =
        variants.iter().map(|_| OPS.iter().map(|_| Seen::default()).collect()).collect();
    let progress = ProgressBar::new((plan.runs * variants.len()) as u64);
    for _ in 0..plan.runs {
        for ((name, choices), seen) in variants.iter().zip(&mut seen) {
            once(plan, choices, seen).map_err(|e| format!("{name}: {e}"))?;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    println!("{files} files, medians of {} runs", plan.runs);
    print_rates(&variants, &seen, files);
    if plan.count_requests {
        print_requests(&variants, &seen, files);
    }
    Ok(())
}

fn once(plan: &Plan<'_>, choices: &str, seen: &mut [Seen]) -> Outcome<()> {
    let mount = tempfile::tempdir_in(plan.work).map_err(|e| format!("a mount point: {e}"))?;
    let negotiation: Negotiation = choices.parse()?;
    let mut floor = FloorProcess::start(mount.path(), &negotiation)?;
    for (op, seen) in OPS.iter().zip(seen) {
        if op.cold {
            floor.remount()?;
        }
        floor.counts()?;
        let line = op.line.replace("{src}", &quoted(plan.source)).replace("{mnt}", &quoted(mount.path()));
        let daemon = process_cpu(floor.pid()).unwrap_or(0.0);
        let cost = shell(&line)?;
        let daemon = process_cpu(floor.pid()).unwrap_or(0.0) - daemon;
        seen.cpu.push(cost.cpu + daemon);
        seen.seconds.push(cost.seconds);
        seen.requests = floor.counts()?;
    }
    Ok(())
}

fn print_rates(variants: &[&(&str, &str)], seen: &[Vec<Seen>], files: u64) {
    let rate = |units: f64, seen: &Seen| median(&seen.seconds).map(|s| units / s);
    let cpu = |units: f64, seen: &Seen| median(&seen.cpu).map(|s| s / units * 1e6);
    print_table("files/s (MiB/s)", variants, seen, files, &rate);
    print_table("CPU us a file (MiB)", variants, seen, files, &cpu);
    // What else the machine does only ever adds: the least of the runs is the steadiest figure.
    let least = |units: f64, seen: &Seen| {
        let least = seen.cpu.iter().copied().min_by(f64::total_cmp);
        least.map(|s| s / units * 1e6)
    };
    print_table("least CPU us", variants, seen, files, &least);
    let best = |units: f64, seen: &Seen| {
        let best = seen.seconds.iter().copied().min_by(f64::total_cmp);
        best.map(|s| units / s)
    };
    print_table("best files/s", variants, seen, files, &best);
}

fn print_table(
    title: &str,
    variants: &[&(&str, &str)],
    seen: &[Vec<Seen>],
    files: u64,
    figure: &dyn Fn(f64, &Seen) -> Option<f64>,
) {
    let mut header = vec![title.to_owned()];
    header.extend(OPS.iter().map(|op| op.name.to_owned()));
    let mut table = Table::new(header);
    for ((name, _), seen) in variants.iter().zip(seen) {
        let mut row = vec![(*name).to_owned()];
        row.extend(OPS.iter().zip(seen).map(|(op, seen)| {
            let units = match op.per {
                Per::File => files,
                Per::Mebibyte(mebibytes) => mebibytes,
            };
            figure(units as f64, seen).map_or("-".into(), |figure| format!("{figure:.0}"))
        }));
        table.row(row);
    }
    println!("\n{table}");
}

/// Requests for each file and command, of which there are enough to matter.
fn print_requests(variants: &[&(&str, &str)], seen: &[Vec<Seen>], files: u64) {
    let mut table = Table::new(["requests per file", "command", "all", "which"]);
    for ((name, _), seen) in variants.iter().zip(seen) {
        for (op, seen) in OPS.iter().zip(seen).filter(|(op, _)| op.per == Per::File) {
            let per_file = |count: u64| count as f64 / files as f64;
            let requests = seen.requests.iter().filter(|(kind, _)| !kind.starts_with("bytes"));
            let all: u64 = requests.clone().map(|(_, count)| count).sum();
            let which: Vec<String> = requests
                .filter(|(_, count)| per_file(**count) >= 0.05)
                .map(|(kind, count)| format!("{kind} {:.2}", per_file(*count)))
                .collect();
            table.row([
                (*name).to_owned(),
                op.name.to_owned(),
                format!("{:.1}", per_file(all)),
                which.join(" "),
            ]);
        }
    }
    println!("\n{table}");
}

fn count_files(tree: &Path) -> Outcome<u64> {
    let mut files = 0;
    let mut dirs: Vec<PathBuf> = vec![tree.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for entry in entries {
            let entry = entry.map_err(|e| format!("{}: {e}", dir.display()))?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => files += 1,
            }
        }
    }
    Ok(files)
}
