//! Every test of this program a second time, with the requests coming the other way: over io_uring, or over `/dev/fuse`
//! where `CAIRNFS_TEST_IO_URING=on` has the first time over io_uring.
//!
//! The second time is a run of the same program beside the first, so what is filtered by a name runs one way only:
//! `CAIRNFS_TEST_IO_URING=on cargo test --features sim --test mount NAME` is the other one.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::skip::need_rings;
use crate::world::{RingSwitch, has_rings};

/// The test below, which a second run leaves out.
const THIS: &str = "every_test_the_other_way";

#[test]
fn every_test_the_other_way() {
    if !need_rings() {
        return;
    }
    let way = if has_rings() { "off" } else { "on" };
    // Held for all of the second run: what it finds and leaves is the same, and this one puts it back.
    let switch = RingSwitch::hold();
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mount-io_uring-{way}.log"));
    let output = File::create(&log).unwrap();
    println!("every test with io_uring={way}; what they say is in {}", log.display());
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--skip", THIS])
        .env("CAIRNFS_TEST_IO_URING", way)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status();
    drop(switch);
    let said = fs::read_to_string(&log).unwrap();
    let result = said.lines().rfind(|line| line.starts_with("test result: ")).unwrap_or("no result");
    assert!(status.unwrap().success(), "with io_uring={way}: {result}\n{said}");
    let passed = result.split(' ').nth(3).and_then(|word| word.parse::<u64>().ok());
    assert!(passed.is_some_and(|passed| passed > 100), "hardly anything ran: {result}");
    println!("with io_uring={way}: {result}");
}
