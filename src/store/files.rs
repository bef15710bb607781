//! The files of a store beside its packs.

use std::io::ErrorKind;

use crate::error::{Error, Result};
use crate::media::Media;

/// Bytes that one of the store's files takes on the host; none if it does not exist.
pub fn allocated(media: &dyn Media, name: &str) -> Result<Option<u64>> {
    let failed = |error| Error::io(format!("looking at {name}"), error);
    match media.open(name, false) {
        Ok(file) => file.allocated().map(Some).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
