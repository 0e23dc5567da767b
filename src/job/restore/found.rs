//! What is in a directory that is to become a data directory, for who restores only where nothing is.

use std::path::Path;

use super::error::Error;
use super::place::{self, CONTROL, Holds};
use super::spot::Held;

/// Each is a sign of a cluster, be it one that is being made or has lost something.
const SIGNS: [&str; 3] = ["PG_VERSION", "postmaster.pid", CONTROL];

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or a restore that was interrupted and can go on.
    Free,
    /// A cluster, or something of one.
    Cluster,
    /// Other files.
    Others,
}

/// Looks, and touches nothing.
///
/// # Errors
/// [`Error::System`].
pub fn look_at(directory: &Path) -> Result<Found, Error> {
    let held = Held::open(directory)?;
    let (Holds::Files, Some(root)) = (place::look(held.root())?, held.root()) else {
        return Ok(Found::Free);
    };
    for sign in SIGNS {
        // What stands in the place of a directory holds none of it.
        if matches!(root.kind(Path::new(sign)), Ok(Some(_))) {
            return Ok(Found::Cluster);
        }
    }
    Ok(Found::Others)
}
