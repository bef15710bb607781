//! The one place that lets a test go without running, in whole or in part.
//!
//! Keeps true: where the environment has `CI=true`, what is not there is a failure and not a skip. So a green run of CI
//! has run everything. `tests/filesystem/structure.rs` fails for a test that ends early by other means.

use std::env;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::sys;
use crate::world::RING_SWITCH;

/// What is said of a missing thing; as a panic where a run must be complete.
fn tell(complete: bool, what: impl Display) {
    assert!(!complete, "CI is set, and there nothing is skipped; what is missing: {what}");
    println!("skipped: {what}");
}

/// True if this run must be complete.
fn is_ci() -> bool {
    env::var("CI").is_ok_and(|word| !matches!(word.as_str(), "" | "0" | "false"))
}

/// True if `there`. If not, the test that asks for it ends, or does without: that is told here, or is a failure in CI.
pub fn need(there: bool, what: impl Display) -> bool {
    if !there {
        tell(is_ci(), what);
    }
    there
}

/// The same for the privileges of root.
pub fn need_root(what: &str) -> bool {
    need(sys::is_root(), format_args!("{what}: only root may do that"))
}

/// The same for programs in PATH.
pub fn need_programs(names: &[&str]) -> bool {
    names.iter().all(|name| need(in_path(name).is_some(), format_args!("no program {name} in PATH")))
}

/// Where a program is.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// The same for what a kernel may be built without, which nobody can install: CI names in `CAIRNFS_CI_WITHOUT` what it has
/// to do without, in words between commas, and only that is skipped there.
pub fn need_kernel(there: bool, feature: &str) -> bool {
    let excused = env::var("CAIRNFS_CI_WITHOUT").unwrap_or_default();
    if !there {
        tell(
            is_ci() && !excused.split(',').any(|word| word == feature),
            format_args!("a kernel with {feature}"),
        );
    }
    there
}

/// True if requests can come over io_uring.
pub fn need_rings() -> bool {
    need_root("FUSE over io_uring") && need_kernel(Path::new(RING_SWITCH).exists(), "fuse-io-uring")
}

/// True if FUSE can be used.
pub fn need_fuse() -> bool {
    match std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => true,
        Err(error) => need(false, format_args!("no /dev/fuse ({error})")),
    }
}

#[test]
fn what_is_missing_in_ci_is_a_failure() {
    assert!(std::panic::catch_unwind(|| tell(true, "a disk")).is_err());
    assert!(std::panic::catch_unwind(|| tell(false, "a disk")).is_ok());
    assert!(need(true, "nothing"));
    assert!(need_programs(&["sh", "cat"]));
}
