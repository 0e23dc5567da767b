//! What there is of versions of files and dumps, name by name.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::tree::TreeKind;
use crate::job::look::Known;

/// The versions of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilesStatus {
    /// What they are of.
    pub content: TreeKind,
    /// The name.
    pub name: String,
    /// How many there are that read whole.
    pub versions: u64,
    /// When the newest of them was stored; absent if there is none.
    pub newest: Option<Timestamp>,
    /// Bytes stored for all of them alone.
    pub stored_bytes: u64,
    /// Those that do not read whole, and why.
    pub lacking: Vec<String>,
}

/// Of versions in the order of their names.
pub(super) fn of(versions: &[Known]) -> Vec<FilesStatus> {
    let rows = versions.chunk_by(|one, next| one.row() == next.row());
    rows.map(of_row).collect()
}

fn of_row(row: &[Known]) -> FilesStatus {
    let whole = || row.iter().filter(|known| known.lacks.is_none());
    let lacking = row.iter().filter_map(|known| {
        let lacks = known.lacks.as_ref()?;
        Some(format!(
            "{}: {}",
            known.name,
            lacks.lines().next().unwrap_or_default()
        ))
    });
    let (content, name) = row[0].row();
    FilesStatus {
        content,
        name,
        versions: whole().count() as u64,
        newest: whole().map(|known| known.summary.backup.ended.at).max(),
        stored_bytes: row
            .iter()
            .map(|known| known.summary.stored_bytes)
            .fold(0, u64::saturating_add),
        lacking: lacking.collect(),
    }
}
