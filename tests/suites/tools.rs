//! The programs of the suites, and where they are.

use std::path::{Path, PathBuf};

use crate::skip::{in_path, need};

/// Where `.ci/run` installs them: `tools/bin` in cargo's target directory.
fn installed() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("cargo's directory for temporary files is in its target directory").join("tools/bin")
}

/// A suite's program: as installed by `.ci/run`, or in PATH. `None`, and how to install it, where it is missing.
pub fn find(name: &str) -> Option<PathBuf> {
    let own = Some(installed().join(name)).filter(|program| program.is_file());
    let found = own.or_else(|| in_path(name));
    let what = format!("{name} is not installed; `.ci/run` does it, or `cargo install --locked {name}`");
    need(found.is_some(), what);
    found
}
