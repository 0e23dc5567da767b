//! What was copied: the directory of a server that ran, in backup mode, or of one that was stopped cleanly.

use std::io;
use std::path::Path;

use super::error::{Error, at};
use super::place::Place;
use crate::beneath::Kind;
use crate::pg::backup_manifest::Manifest;
use crate::pg::control::{CONTROL_FILE_BYTES, ClusterState, ControlFile};
use crate::pg::label::{self, BackupLabel};
use crate::pg::{SegmentName, WalName};

/// What every data directory has: a copy without one of them is not whole.
const REQUIRED: [(&str, Kind); 6] = [
    ("PG_VERSION", Kind::File),
    ("base", Kind::Directory),
    ("global/pg_filenode.map", Kind::File),
    ("global/pg_control", Kind::File),
    ("pg_wal", Kind::Directory),
    ("pg_xact", Kind::Directory),
];

/// Longest manifest and label that are read.
const MANIFEST_BYTES: u64 = 512 << 20;
const LABEL_BYTES: u64 = 1 << 20;

/// What a copy was made of.
#[derive(Debug)]
pub(super) struct Source {
    /// Its control file.
    pub(super) control: ControlFile,
    /// The label of a running server's backup; `None`: the server was stopped.
    pub(super) label: Option<BackupLabel>,
}

impl Source {
    /// Looks at a copy.
    ///
    /// # Errors
    /// Any [`Error`] about what lacks, or cannot be read.
    pub(super) fn look(place: &Place) -> Result<Self, Error> {
        check_unnamed(place)?;
        check_whole(place)?;
        let control = read_control(place)?;
        let label = read_label(place)?;
        if label.is_none() {
            check_stopped(place, &control)?;
        }
        Ok(Self { control, label })
    }

    /// Was a segment only made ready by a server that was stopped before it?
    pub(super) fn has_not_reached(&self, segment: SegmentName) -> bool {
        let size = self.control.segment_size;
        let end = self.control.end_of_checkpoint().0.saturating_sub(1);
        self.label.is_none() && segment.number(size) > end / size.bytes()
    }

    /// Is a segment such that a promotion leaves a part of it, of which another part may be archived?
    pub(super) fn may_be_left_behind(&self, name: WalName) -> bool {
        match name {
            WalName::Segment(segment) => segment.timeline < self.control.timeline,
            WalName::Partial(_) => true,
            WalName::History(_) | WalName::Backup(..) => false,
        }
    }

    /// How much of a file of the WAL is WAL: the server that was stopped in the midst of a segment may have gone on since.
    pub(super) fn bytes_of_wal(&self, name: WalName) -> u64 {
        let (size, end) = (self.control.segment_size, self.control.end_of_checkpoint().0);
        match name {
            WalName::Segment(segment) => end.saturating_sub(segment.start(size).0),
            _ => u64::MAX,
        }
    }
}

/// A manifest that somebody finished writing knows the files better than we do, and was refused for a reason.
fn check_unnamed(place: &Place) -> Result<(), Error> {
    let inside = Path::new("backup_manifest.tmp");
    let text = place.backup.read(inside, MANIFEST_BYTES);
    if text.is_ok_and(|text| Manifest::parse(&text).is_ok()) {
        let path = place.shown(inside);
        return Err(Error::OtherManifest { path });
    }
    Ok(())
}

fn check_whole(place: &Place) -> Result<(), Error> {
    for (missing, expected) in REQUIRED {
        let found = place.kind(missing)?;
        // Links are told of, or replaced, by the plan.
        if found != Some(expected) && found != Some(Kind::Link) {
            let path = place.backup.path().to_owned();
            return Err(Error::NotWhole { path, missing });
        }
    }
    Ok(())
}

fn read_control(place: &Place) -> Result<ControlFile, Error> {
    let inside = Path::new("global/pg_control");
    let path = place.shown(inside);
    let bytes = place.backup.read(inside, CONTROL_FILE_BYTES as u64);
    let bytes = bytes.map_err(at("read", &path))?;
    ControlFile::parse(&bytes).map_err(|source| Error::Control { path, source })
}

fn read_label(place: &Place) -> Result<Option<BackupLabel>, Error> {
    let inside = Path::new("backup_label");
    let path = place.shown(inside);
    match place.backup.read(inside, LABEL_BYTES) {
        Ok(bytes) => label::parse(&bytes)
            .map(Some)
            .map_err(|source| Error::Label { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", &path)(error)),
    }
}

/// Without a label only the directory of a server that was stopped can be started from.
fn check_stopped(place: &Place, control: &ControlFile) -> Result<(), Error> {
    let because = match control.state {
        ClusterState::ShutDown if place.kind("postmaster.pid")?.is_none() => return Ok(()),
        ClusterState::ShutDown => "its postmaster.pid says that its server ran",
        ClusterState::ShutDownInRecovery => {
            "its pg_control is that of a standby, which does not say where it ends"
        }
        _ => "its pg_control says that its server ran, or was not stopped cleanly",
    };
    let path = place.backup.path().to_owned();
    Err(Error::NoLabel { path, because })
}
