//! What a machine must have for a mount, checked first, so that a message names what is missing.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fuse;

/// Names what is missing for a mount by this user.
pub(super) fn can_mount() -> Result<()> {
    device(Path::new("/dev/fuse"))?;
    fuse::can_mount()
}

/// Without `/proc`, no mount can be found and no daemon started.
pub(super) fn has_proc() -> Result<()> {
    match fs::metadata("/proc/self/mountinfo") {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Environment(format!(
            "/proc is not mounted here, and a mount needs it ({error}); `mount -t proc proc /proc`"
        ))),
    }
}

fn device(path: &Path) -> Result<()> {
    let shown = path.display();
    let text = match File::options().read(true).write(true).open(path) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => format!(
            "{shown} is not there; load the kernel module (`modprobe fuse`), or give the container the device \
             (`--device /dev/fuse --cap-add SYS_ADMIN`)"
        ),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => format!(
            "{shown} cannot be opened by this user; `chmod 666 {shown}` as root, as Debian has it, or mount as root"
        ),
        Err(e) => format!("{shown} cannot be opened ({e}); is FUSE allowed in this container?"),
    };
    Err(Error::Environment(text))
}

/// A program in PATH.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }

    #[test]
    fn a_missing_device_is_named() {
        let error = device(Path::new("/nonexistent/fuse")).unwrap_err();
        assert_eq!(error.exit_code(), 7);
        assert!(error.to_string().contains("/nonexistent/fuse is not there"));
    }
}
