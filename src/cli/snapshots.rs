//! `cairnfs set`, `get`, `ls` and `seal`: settings, and what groups and snapshots there are.

use super::args::{GetArgs, LsArgs, SealArgs, SetArgs};
use super::location::Location;
use super::{output, show};
use crate::error::{Error, Result};
use crate::snapshots::{Answer, Task};

pub(super) fn set(args: &SetArgs) -> Result<()> {
    let split = |setting: &String| {
        let (name, value) = setting.split_once('=').ok_or_else(|| {
            Error::Usage(format!("{setting}: write NAME=VALUE; nothing behind = takes the setting away"))
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let changes: Vec<(String, String)> = args.settings.iter().map(split).collect::<Result<_>>()?;
    Location::find(&args.place, false, "set")?.perform(&Task::Set(changes)).map(drop)
}

pub(super) fn get(args: &GetArgs) -> Result<()> {
    let Answer::Settings(settings) = Location::find(&args.place, true, "get")?.perform(&Task::Settings)?
    else {
        return Err(unexpected());
    };
    if args.json {
        output::print_json(&output::Settings { settings })
    } else {
        output::print(&output::settings(&settings))
    }
}

pub(super) fn ls(args: &LsArgs) -> Result<()> {
    let Answer::Listing(listing) = Location::find(&args.place, true, "ls")?.perform(&Task::List)? else {
        return Err(unexpected());
    };
    if args.json { output::print_json(&listing) } else { output::print(&output::listing(&listing)) }
}

pub(super) fn seal(args: &SealArgs) -> Result<()> {
    for path in &args.snapshots {
        Location::find(path, false, "seal")?.perform(&Task::Seal).map_err(|error| match &error {
            Error::Io { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => {
                Error::Usage(format!("{} is no snapshot", show(path)))
            }
            _ => error,
        })?;
    }
    Ok(())
}

fn unexpected() -> Error {
    Error::Environment("the process that has the store open sent an unexpected answer".into())
}
