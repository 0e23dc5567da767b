//! What pins and prunes say, read back. All of it is read by each run: it is small, and whether it still holds depends on what
//! else there is.

use jiff::Timestamp;

use super::Run;
use super::finding::{Cost, Kind};
use super::task::Checked;
use crate::archive::object::Object;
use crate::archive::prune::{Order, Record, WORD_BYTES};
use crate::archive::tree::{TreeKind, TreeName};
use crate::archive::{Archive, Error};
use crate::job::proof::Verdict;
use crate::store::{ByteRange, ErrorKind, Key, Meta, Patience};

/// Is it read by each run, whatever its budget?
pub(super) fn is_always_read(object: &Object) -> bool {
    matches!(object, Object::Pin(_) | Object::Order | Object::Pruned)
}

/// A small object of text.
pub(super) async fn read<T>(
    archive: &Archive,
    key: &Key,
    most: u64,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
    patience: Patience,
) -> Result<Checked, Error> {
    let fetched = archive.store().get(key, ByteRange::AtMost(most), patience).await;
    Ok(match fetched {
        Ok(fetched) => match parse(&fetched.bytes) {
            Ok(_) => Checked::default(),
            Err(reason) => Checked::wrong(Kind::Damaged, reason),
        },
        Err(error) if error.kind == ErrorKind::NotFound => Verdict::Gone.into(),
        Err(error) if error.kind == ErrorKind::Damaged => Checked::wrong(Kind::Damaged, error.message),
        Err(error) => return Err(error.into()),
    })
}

pub(super) async fn order(archive: &Archive, key: &Key, patience: Patience) -> Result<Checked, Error> {
    read(archive, key, WORD_BYTES, Order::parse, patience).await
}

pub(super) async fn pruned(archive: &Archive, key: &Key, patience: Patience) -> Result<Checked, Error> {
    read(archive, key, WORD_BYTES, Record::parse, patience).await
}

/// Can it be read, and is what it pins there?
pub(super) async fn pin(archive: &Archive, name: &TreeName, patience: Patience) -> Result<Checked, Error> {
    let pin = match archive.read_pin(name, patience).await? {
        None => return Ok(Verdict::Gone.into()),
        Some(Err(reason)) => return Ok(Checked::wrong(Kind::Damaged, reason)),
        Some(Ok(pin)) => pin,
    };
    if pin.is_over(Timestamp::now()) {
        return Ok(Checked::default());
    }
    let pinned = match archive.summary_of_any(name, patience).await {
        // It is told, and a prune removes nothing.
        Err(Error::TreeDamaged { .. }) => return Ok(Checked::default()),
        pinned => pinned?,
    };
    let reason = match pinned {
        Some(summary) if summary.id == pin.id => return Ok(Checked::default()),
        Some(other) => format!(
            "it pins {} ({:?}), which is not there; the backup of that name is {}",
            pin.id, pin.reason, other.id
        ),
        None => format!("it pins {} ({:?}), which is not there", pin.id, pin.reason),
    };
    // Both may have gone meanwhile, in this order.
    Ok(match archive.read_pin(name, patience).await? {
        None => Verdict::Gone.into(),
        Some(_) => Checked::wrong(Kind::Useless, reason),
    })
}

impl Run<'_> {
    /// What it costs that a pin is not what it should be.
    pub(super) fn costs_of_pin(&self, name: &TreeName, kind: Kind) -> Vec<Cost> {
        let is_there = self.backups.iter().any(|backup| backup.name == *name)
            || TreeKind::ALL
                .iter()
                .any(|kind| self.unreadable.contains_key(&name.summary_key(*kind)));
        let lost = format!("backup {name} is no longer pinned: ");
        vec![Cost::other(match (kind, is_there) {
            (Kind::Damaged, true) => format!(
                "no prune removes backup {name}, but why, and until when, is not known: `walfs backup-pin {name}` says it \
                 anew, `walfs backup-unpin {name}` ends it"
            ),
            (_, true) => format!(
                "{lost}no prune removes the other one of that name instead, until `walfs backup-unpin {name}`"
            ),
            (_, false) => format!("{lost}there is none; `walfs backup-unpin {name}` removes its pin"),
        })]
    }
}

/// What it costs that an order cannot be read.
pub(super) fn costs_of_order() -> Vec<Cost> {
    vec![Cost::other(
        "backups are taken as if there were none before, and no pin is sure to hold, until a `walfs prune` removes it, a day \
         after it was stored",
    )]
}

/// What it costs that the record of a prune cannot be read.
pub(super) fn costs_of_pruned(meta: &Meta) -> Vec<Cost> {
    let at = Timestamp::try_from(meta.modified).unwrap_or(Timestamp::UNIX_EPOCH);
    vec![Cost::other(format!(
        "what the prune of {at:.0}, and those before it, removed cannot be told from a loss"
    ))]
}
