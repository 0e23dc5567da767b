//! Which files have changed since they were opened to be read: what was read of them may be of several moments.

use crate::job::backup::places::Places;
use crate::job::backup::walk::{Source, attributes, is_gone};

use super::Error;

/// Those that are there and have another length, or another time of their last change, than when they were opened. What is
/// gone was whole when it was read.
pub(super) fn since_opened(places: &Places, opened: Vec<Source>) -> Result<Vec<Source>, Error> {
    let mut changed = Vec::new();
    for source in opened {
        match places.metadata(&source.path) {
            // Something else has its name by now.
            Ok(found) if !found.is_file() => {}
            Ok(found) => {
                let is_same = Some(found.len()) == source.bytes
                    && attributes(&found).modified == source.attributes.modified;
                if !is_same {
                    changed.push(source);
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(Error::read(&places.real(&source.path), error)),
        }
    }
    Ok(changed)
}
