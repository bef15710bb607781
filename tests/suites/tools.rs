//! The programs of the suites, and where they are.

use std::env;
use std::path::{Path, PathBuf};

/// Where `.ci/run` installs them: `tools/bin` in cargo's target directory.
fn installed() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("cargo's directory for temporary files is in its target directory").join("tools/bin")
}

/// A suite's program: as installed by `.ci/run`, or in PATH. `None`, and how to install it, where it is missing.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = [installed()].into_iter().chain(env::split_paths(&path)).map(|dir| dir.join(name));
    let found = found.into_iter().find(|program| program.is_file());
    if found.is_none() {
        println!("skipped: {name} is not installed; `.ci/run` does it, or `cargo install --locked {name}`");
    }
    found
}
