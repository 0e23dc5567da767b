//! Records of the WAL that a backup knows, as its summary has them, for serde's `with`; and which ones it has.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::backup::Backup;
use super::text;
use crate::archive::wal::Sought;
use crate::archive::{Archive, Error};
use crate::pg::landmark::{Known, Landmark, Mismatch};
use crate::pg::record::Checkpoint;
use crate::pg::{Lsn, SegmentName, Timeline};
use crate::store::Patience;

/// Most of them in a summary.
pub(super) const MOST_LANDMARKS: usize = 16;

/// As text.
#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Noted {
    /// A checkpoint begins at `at`.
    Checkpoint {
        #[serde(with = "text")]
        at: Lsn,
        #[serde(with = "text")]
        redo: Lsn,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        more: Option<More>,
    },
    /// The end of the backup that began at `start` ends at `at`.
    BackupEnd {
        #[serde(with = "text")]
        at: Lsn,
        #[serde(with = "text")]
        start: Lsn,
    },
    /// A record ends at `at`, with the backup of a standby that began at `start`.
    Boundary {
        #[serde(with = "text")]
        at: Lsn,
        #[serde(with = "text")]
        start: Lsn,
    },
}

/// What a control file knows of a checkpoint, besides.
#[derive(Serialize, Deserialize)]
struct More {
    #[serde(with = "text")]
    timeline: Timeline,
    time: Timestamp,
}

impl From<&Landmark> for Noted {
    fn from(landmark: &Landmark) -> Self {
        match *landmark {
            Landmark::Checkpoint { at, known } => {
                let (redo, more) = match known {
                    Known::Redo(redo) => (redo, None),
                    Known::All(Checkpoint { redo, timeline, time }) => (redo, Some(More { timeline, time })),
                };
                Self::Checkpoint { at, redo, more }
            }
            Landmark::End { at, start } => Self::BackupEnd { at, start },
            Landmark::Boundary { at, start } => Self::Boundary { at, start },
        }
    }
}

impl From<Noted> for Landmark {
    fn from(noted: Noted) -> Self {
        match noted {
            Noted::Checkpoint { at, redo, more } => {
                let known = match more {
                    None => Known::Redo(redo),
                    Some(More { timeline, time }) => Known::All(Checkpoint { redo, timeline, time }),
                };
                Self::Checkpoint { at, known }
            }
            Noted::BackupEnd { at, start } => Self::End { at, start },
            Noted::Boundary { at, start } => Self::Boundary { at, start },
        }
    }
}

pub(super) fn serialize<S: Serializer>(landmarks: &[Landmark], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(landmarks.iter().map(Noted::from))
}

pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<Landmark>, D::Error> {
    let noted = Vec::<Noted>::deserialize(from)?;
    Ok(noted.into_iter().map(Landmark::from).collect())
}

/// Why the landmarks of a new backup are not settled.
#[derive(Debug)]
pub enum Unsettled {
    /// Another server's WAL is archived.
    Other(SegmentName, Mismatch),
    /// The archive cannot tell.
    Archive(Error),
}

impl From<Error> for Unsettled {
    fn from(error: Error) -> Self {
        Self::Archive(error)
    }
}

impl Archive {
    /// Looks for the landmarks of a backup that is being stored. Those that are archived are its own from then on, for what is
    /// archived does not change, and the backup keeps the others. Of a segment that has been `compared` they are not needed.
    ///
    /// # Errors
    /// [`Unsettled`].
    pub async fn settle_landmarks(
        &self,
        backup: &mut Backup,
        compared: &[SegmentName],
        patience: Patience,
    ) -> Result<(), Unsettled> {
        let landmarks = std::mem::take(&mut backup.landmarks);
        let mut seeker = self.seeker(backup, patience).expect("its WAL was checked");
        let mut unseen = Vec::new();
        for landmark in landmarks {
            let segment = seeker.segment(landmark);
            let is_needed = segment.is_some_and(|segment| !compared.contains(&segment));
            if !is_needed || !backup.spans(landmark) {
                continue;
            }
            match seeker.seek(landmark).await? {
                Sought::There => {}
                Sought::Unseen => unseen.push(landmark),
                Sought::Other(segment, found) => return Err(Unsettled::Other(segment, found)),
            }
        }
        backup.landmarks = unseen;
        Ok(())
    }
}
