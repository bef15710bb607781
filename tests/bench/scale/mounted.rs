//! What needs a mount: what an idle daemon costs, and how many bytes reach the disk for each that is stored.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::guard::Work;
use crate::measure::{Outcome, output, peak_memory, process_cpu};
use crate::random::Random;
use crate::table::Table;

/// A tree of small files: so many of these lengths on average.
const SMALL_FILES: u64 = 5000;
const SMALL: u64 = 8 << 10;
const DIRECTORIES: u64 = 50;
/// One large file.
const LARGE: u64 = 256 << 20;

pub fn missing() -> Option<String> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".to_owned());
    }
    option_env!("CARGO_BIN_EXE_cairnfs").is_none().then(|| "cairnfs was not built with this".to_owned())
}

struct Mount {
    program: PathBuf,
    at: PathBuf,
    daemon: u32,
}

impl Mount {
    fn new(work: &Work, name: &str) -> Outcome<Self> {
        let program = PathBuf::from(option_env!("CARGO_BIN_EXE_cairnfs").ok_or("cairnfs was not built")?);
        let (store, at) = (work.dir(&format!("{name}-store"))?, work.dir(name)?);
        output(Command::new(&program).arg("mkfs").args(["--reserve", "1M"]).arg(&store))?;
        output(Command::new(&program).arg("mount").arg(&store).arg(&at))?;
        let status = output(Command::new(&program).args(["status", "--json"]).arg(&at))?;
        let status: serde_json::Value = serde_json::from_str(&status).map_err(|e| e.to_string())?;
        let daemon = find(&status, "pid").ok_or_else(|| format!("no pid in {status}"))?;
        Ok(Mount { program, at, daemon: daemon as u32 })
    }

    fn sync(&self) -> Outcome<()> {
        output(Command::new(&self.program).arg("sync").arg(&self.at)).map(drop)
    }

    fn status(&self, name: &str) -> Outcome<u64> {
        let status = output(Command::new(&self.program).args(["status", "--json"]).arg(&self.at))?;
        let status: serde_json::Value = serde_json::from_str(&status).map_err(|e| e.to_string())?;
        find(&status, name).ok_or_else(|| format!("no {name} in {status}"))
    }

    fn written(&self) -> Outcome<u64> {
        let path = format!("/proc/{}/io", self.daemon);
        let io = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|bytes| bytes.parse().ok()).ok_or_else(|| format!("{path} has no write_bytes"))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(problem) = output(Command::new(&self.program).arg("umount").arg(&self.at)) {
            eprintln!("{problem}");
        }
    }
}

/// A number anywhere in an answer.
fn find(value: &serde_json::Value, name: &str) -> Option<u64> {
    match value {
        serde_json::Value::Object(fields) => {
            let own = fields.get(name).and_then(serde_json::Value::as_u64);
            own.or_else(|| fields.values().find_map(|value| find(value, name)))
        }
        _ => None,
    }
}

pub fn measure(work: &Work, idle: u64) -> Outcome<()> {
    let mut table = Table::new([
        "write amplification",
        "plain, MB",
        "compressed, MB",
        "to the disk, MB",
        "for each plain byte",
        "for each compressed byte",
    ]);
    let small = format!("{SMALL_FILES} files of {} KiB on average", SMALL >> 10);
    table.row(amplification(work, "small", &small, small_files)?);
    let (row, mount) = {
        let mount = Mount::new(work, "large")?;
        (amplified(&mount, &format!("one file of {} MiB", LARGE >> 20), large_file)?, mount)
    };
    table.row(row);
    println!("\n{table}");

    std::thread::sleep(Duration::from_secs(6));
    let cpu = |mount: &Mount| process_cpu(mount.daemon).ok_or("the daemon is gone");
    let before = cpu(&mount)?;
    std::thread::sleep(Duration::from_secs(idle));
    let used = cpu(&mount)? - before;
    let resident = peak_memory(mount.daemon).unwrap_or(0) >> 20;
    println!("an idle daemon used {used:.2} s of CPU in {idle} s; its peak before was {resident} MiB\n");
    Ok(())
}

fn amplification(
    work: &Work,
    name: &str,
    title: &str,
    write: impl FnOnce(&Path) -> Outcome<()>,
) -> Outcome<Vec<String>> {
    amplified(&Mount::new(work, name)?, title, write)
}

fn amplified(mount: &Mount, title: &str, write: impl FnOnce(&Path) -> Outcome<()>) -> Outcome<Vec<String>> {
    mount.sync()?;
    let before = mount.written()?;
    write(&mount.at)?;
    mount.sync()?;
    let written = mount.written()? - before;
    let (plain, stored) = (mount.status("plain_bytes")?, mount.status("stored_bytes")?);
    Ok(vec![
        title.to_owned(),
        format!("{:.1}", plain as f64 / 1e6),
        format!("{:.1}", stored as f64 / 1e6),
        format!("{:.1}", written as f64 / 1e6),
        format!("{:.2}", written as f64 / plain as f64),
        format!("{:.2}", written as f64 / stored as f64),
    ])
}

/// Bytes of which a compressor gets about a half away, as of most trees.
fn half_random(random: &mut Random, buffer: &mut [u8]) {
    for line in buffer.chunks_mut(64) {
        let middle = line.len() / 2;
        random.fill(&mut line[..middle]);
        line[middle..].fill(b'=');
    }
}

fn small_files(at: &Path) -> Outcome<()> {
    let mut random = Random::new(5);
    for number in 0..SMALL_FILES {
        let dir = at.join(format!("d{}", number % DIRECTORIES));
        let path = dir.join(format!("file-{number}"));
        let mut data = vec![0; (random.next() % (2 * SMALL)) as usize];
        half_random(&mut random, &mut data);
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(&path, &data))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn large_file(at: &Path) -> Outcome<()> {
    let path = at.join("large");
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = File::create(&path).map_err(fail)?;
    let mut random = Random::new(6);
    let mut block = vec![0; 1 << 20];
    for _ in 0..LARGE >> 20 {
        half_random(&mut random, &mut block);
        file.write_all(&block).map_err(fail)?;
    }
    Ok(())
}
