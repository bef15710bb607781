//! One table of what criterion measured in this run, from the files in which it keeps its estimates.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::table::Table;

/// Where criterion keeps them.
fn home() -> PathBuf {
    let target = || Some(Path::new(option_env!("CARGO_TARGET_TMPDIR")?).parent()?.join("criterion"));
    let named = std::env::var_os("CRITERION_HOME").map(PathBuf::from);
    named.or_else(target).unwrap_or_else(|| PathBuf::from("target/criterion"))
}

/// Prints the medians of everything that was measured since `began`.
pub fn print(began: SystemTime) {
    let mut found = Vec::new();
    for group in directories(&home()) {
        for benchmark in
            directories(&group).iter().flat_map(|dir| [dir.clone()].into_iter().chain(directories(dir)))
        {
            found.extend(measured(&benchmark.join("new"), began));
        }
    }
    if found.is_empty() {
        return;
    }
    found.sort();
    let mut table = Table::new(["part", "median of the time", "rate"]);
    for (_, row) in found {
        table.row(row);
    }
    println!("\n{table}");
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// A row of the table, with when it was measured.
fn measured(dir: &Path, began: SystemTime) -> Option<(SystemTime, [String; 3])> {
    let written = std::fs::metadata(dir.join("estimates.json")).ok()?.modified().ok()?;
    let read =
        |name: &str| -> Option<Value> { serde_json::from_slice(&std::fs::read(dir.join(name)).ok()?).ok() };
    let (benchmark, estimates) = (read("benchmark.json")?, read("estimates.json")?);
    let seconds = estimates["median"]["point_estimate"].as_f64()? / 1e9;
    let rate = match (&benchmark["throughput"]["Bytes"], &benchmark["throughput"]["Elements"]) {
        (Value::Number(bytes), _) => format!("{:.2} GB/s", bytes.as_f64()? / seconds / 1e9),
        (_, Value::Number(elements)) => format!("{:.0} /s", elements.as_f64()? / seconds),
        _ => String::new(),
    };
    let name = benchmark["full_id"].as_str()?.to_owned();
    (written >= began).then(|| (written, [name, format!("{:.3} ms", seconds * 1e3), rate]))
}
