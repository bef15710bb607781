//! Checks whether each metadata backup is complete. Nothing else reads them before they are needed.

use std::io;

use crate::error::{Error, Result};
use crate::store::{list_backups, open_backup};

use super::findings::{Affected, Kind, sentence};
use super::run::CheckRun;

/// Reads every backup to its end and compares its sums.
pub(super) fn check(run: &mut CheckRun<'_>) -> Result<()> {
    let store = run.store.clone();
    for number in list_backups(store.media())? {
        match read(run, number) {
            Ok(()) => run.report.backups += 1,
            // A newer one has taken its place.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error @ Error::Posix(_)) => return Err(error),
            Err(error) if error.is_access_error() => return Err(error),
            Err(error) => {
                let what = format!(
                    "the metadata backup {number:08}.cmb is of no use, the next one takes its place: {}",
                    sentence(&error)
                );
                run.findings.add(Kind::Backup, what, Affected::default());
            }
        }
    }
    Ok(())
}

fn read(run: &mut CheckRun<'_>, number: u64) -> Result<()> {
    let mut backup = open_backup(run.store.media(), number)?;
    if backup.head.store != *run.store.config().uuid.as_bytes() {
        return Err(Error::damaged("it belongs to another store"));
    }
    while backup.next_row()?.is_some() {
        run.extra_work(1)?;
    }
    Ok(())
}
