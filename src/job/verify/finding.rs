//! What is found, and what it costs.

use std::collections::HashMap;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::archive::tree::TreeName;
use crate::archive::verified::Found;
use crate::pg::{Lsn, Timeline};

/// Files that are named of one backup and one finding; the others are counted.
pub(super) const NAMED_FILES: usize = 1000;

/// Backups that are remembered of one finding.
const REMEMBERED_BACKUPS: usize = 200;

/// Something that is not as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Its key; of several that are missing one after the other that of the first.
    pub object: String,
    /// What kind of finding.
    pub kind: Kind,
    /// What is wrong with it.
    pub reason: String,
    /// What that costs.
    pub costs: Vec<Cost>,
}

/// What kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is there, and not what was stored.
    Damaged,
    /// It is not there, and should be.
    Missing,
    /// It is whole, and belongs elsewhere.
    Misplaced,
    /// It is what was stored, and that is a damaged data page.
    Page,
    /// Every part of it is right, and not all of it can be used.
    Useless,
}

/// What a finding costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
pub enum Cost {
    /// Files that a backup cannot restore.
    Files {
        /// The backup.
        #[serde(serialize_with = "text")]
        backup: TreeName,
        /// How many.
        count: u64,
        /// The first of them.
        files: Vec<String>,
    },
    /// A backup restores a file with a damaged page.
    Page {
        /// The backup.
        #[serde(serialize_with = "text")]
        backup: TreeName,
        /// The file.
        file: String,
    },
    /// A backup cannot be restored.
    Backup {
        /// The backup.
        #[serde(serialize_with = "text")]
        backup: TreeName,
        /// Why.
        because: String,
    },
    /// A backup recovers up to a position, and not further on that timeline.
    Until {
        /// The backup.
        #[serde(serialize_with = "text")]
        backup: TreeName,
        /// The position.
        #[serde(serialize_with = "text")]
        lsn: Lsn,
        /// The timeline.
        #[serde(serialize_with = "number")]
        timeline: Timeline,
    },
    /// Nothing of a backup, or only comfort.
    Other {
        /// In words.
        what: String,
    },
}

fn text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn number<S: Serializer>(timeline: &Timeline, serializer: S) -> Result<S::Ok, S::Error> {
    timeline.0.serialize(serializer)
}

impl Cost {
    pub(super) fn other(what: impl Into<String>) -> Self {
        Self::Other { what: what.into() }
    }

    /// The backup that cannot be restored whole.
    fn spoils(&self) -> Option<&TreeName> {
        match self {
            Self::Files { backup, .. } | Self::Backup { backup, .. } => Some(backup),
            Self::Page { .. } | Self::Until { .. } | Self::Other { .. } => None,
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files {
                backup,
                count: 1,
                files,
            } => {
                write!(out, "backup {backup} cannot restore file {}", files.join(", "))
            }
            Self::Files { backup, count, files } => {
                write!(
                    out,
                    "backup {backup} cannot restore {count} files: {}",
                    files.join(", ")
                )?;
                let more = count - files.len() as u64;
                match more {
                    0 => Ok(()),
                    _ => write!(out, " and {more} more"),
                }
            }
            Self::Page { backup, file } => write!(out, "backup {backup} restores {file} with this page"),
            Self::Backup { backup, because } => write!(out, "backup {backup} cannot be restored: {because}"),
            Self::Until {
                backup,
                lsn,
                timeline,
            } => {
                write!(
                    out,
                    "backup {backup} recovers no further than {lsn} on timeline {timeline}"
                )
            }
            Self::Other { what } => out.write_str(what),
        }
    }
}

impl Finding {
    /// As it is remembered.
    pub(super) fn remembered(&self, at: jiff::Timestamp, ids: &HashMap<&TreeName, &str>) -> Found {
        // Of what it costs the sentences without the long lists: who wants these verifies again.
        let short = |cost: &Cost| match cost {
            Cost::Files { backup, count, files } => Cost::Files {
                backup: backup.clone(),
                count: *count,
                files: files.iter().take(3).cloned().collect(),
            },
            other => other.clone(),
        };
        Found {
            at,
            object: self.object.clone(),
            reason: self.reason.clone(),
            costs: self
                .costs
                .iter()
                .take(20)
                .map(|cost| short(cost).to_string())
                .collect(),
            backups: self
                .costs
                .iter()
                .filter_map(Cost::spoils)
                .take(REMEMBERED_BACKUPS)
                .filter_map(|name| Some((*ids.get(name)?).to_owned()))
                .collect(),
        }
    }
}
