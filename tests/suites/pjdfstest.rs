//! pjdfstest: what each system call has to answer, and to whom.
//!
//! The cases of a read-only file system remount the one they run on. They run by themselves, since an ext4 that other
//! cases have just used is busy for a moment, and with mount(8) told to leave helpers and the mount table alone: then
//! the kernel alone does it, on both sides.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::results::{Excuse, Results, Verdict};
use crate::world::{command, run, tool};

/// Cases that ext4 passes and a mount need not.
pub const EXCUSED: [Excuse; 1] = [(
    "link::link_count_max",
    "pathconf(_PC_LINK_MAX) is answered by the C library from the type of the file system, and FUSE is none that it \
     knows; the suite then skips the case. The bound is 1,000,000",
)];

/// What one run is to do.
pub struct Run<'a> {
    pub program: &'a Path,
    /// Where it works.
    pub top: &'a Path,
    /// A directory on another file system, for the cases of EXDEV.
    pub elsewhere: &'a Path,
    /// Only cases whose names contain this.
    pub only: &'a str,
}

impl Run<'_> {
    /// Runs the suite; cases that remount run if `remount` is true.
    pub fn results(&self, remount: bool) -> Results {
        let mut results = self.part(self.only, false);
        if remount {
            results.0.extend(self.part("erofs", true).0);
        }
        results
    }

    fn part(&self, only: &str, remount: bool) -> Results {
        let dir = TempDir::with_prefix("cairnfs-pjdfstest-").unwrap();
        let config = dir.path().join("pjdfstest.toml");
        fs::write(&config, configuration(remount)).unwrap();
        let mut command = command(self.program);
        command.arg("-c").arg(&config).arg("-p").arg(self.top).arg("-s").arg(self.elsewhere);
        if !only.is_empty() {
            command.arg(only);
        }
        let outcome = run(command.env("NO_COLOR", "1").env("PATH", path_with_plain_mount(dir.path())));
        parse(&outcome.out).unwrap_or_else(|wrong| panic!("pjdfstest: {wrong}: {}", outcome.said()))
    }
}

/// The suite's configuration: what Linux has, and two users that every Linux has.
fn configuration(remount: bool) -> String {
    let group = |user: &str| tool!("id", "-gn", user).trim().to_owned();
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.02\nallow_remount = {remount}\n\
         [dummy_auth]\nentries = [[\"nobody\", \"{}\"], [\"daemon\", \"{}\"]]\n",
        group("nobody"),
        group("daemon"),
    )
}

/// PATH with a mount(8) before all others that uses neither helpers nor the options it finds in the mount table.
fn path_with_plain_mount(dir: &Path) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let real = env::split_paths(&path).map(|dir| dir.join("mount")).find(|mount| mount.is_file());
    let real = real.unwrap_or_else(|| "/bin/mount".into());
    let script = format!("#!/bin/sh\nexec {} -i --options-mode ignore \"$@\"\n", real.display());
    fs::write(dir.join("mount"), script).unwrap();
    fs::set_permissions(dir.join("mount"), PermissionsExt::from_mode(0o755)).unwrap();
    env::join_paths([dir.to_owned()].into_iter().chain(env::split_paths(&path))).expect("no colon in a path")
}

/// Reads the suite's report: a line for each case, with lines that explain it indented below, and a sum at the end,
/// which has to be that of the lines.
fn parse(report: &str) -> Result<Results, String> {
    let mut results = Results::default();
    let mut last = None;
    for line in report.lines() {
        if let Some(sum) = line.strip_prefix("Summary: ") {
            let wrong = format!("{sum:?} is not the sum of {results}");
            let numbers = sum.split(", ").map(|part| part.split(' ').next()?.parse().ok());
            let counts = [Verdict::Fail, Verdict::Skip, Verdict::Pass].map(|it| Some(results.count(it)));
            let expected = counts.into_iter().chain([Some(0), Some(results.0.len())]);
            return if numbers.eq(expected) { Ok(results) } else { Err(wrong) };
        }
        if line.starts_with(char::is_whitespace) {
            if let Some(case) = last.as_ref().and_then(|name| results.0.get_mut(name))
                && case.why.is_empty()
            {
                case.why = line.trim().to_owned();
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        last = match words[..] {
            [name, verdict] => {
                let verdict = match verdict {
                    "ok" => Verdict::Pass,
                    "FAILED" => Verdict::Fail,
                    "skipped" => Verdict::Skip,
                    _ => return Err(format!("{line:?} is no verdict")),
                };
                results.add(name, verdict, "");
                Some(name.to_owned())
            }
            _ => None,
        };
    }
    Err(String::from("it did not come to its end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "chmod::errno    ok\nlink::max    FAILED\n\tassertion failed\nBacktrace:\n  0: main\n\
                          open::ro    skipped\n\tnot here\n\n";

    #[test]
    fn a_report_is_read_with_its_reasons() {
        let sum = "Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";
        let results = parse(&format!("{REPORT}{sum}")).unwrap();
        assert_eq!(results.to_string(), "1 / 1 / 1");
        assert_eq!(results.0["link::max"].why, "assertion failed");
        assert_eq!(results.0["open::ro"].why, "not here");
    }

    #[test]
    fn a_report_that_is_cut_off_or_does_not_add_up_is_refused() {
        assert!(parse(REPORT).is_err());
        let sum = "Summary: 0 failed, 1 skipped, 2 passed, 0 expected failures, 3 total\n";
        assert!(parse(&format!("{REPORT}{sum}")).is_err());
    }
}
