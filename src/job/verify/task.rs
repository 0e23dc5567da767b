//! One object, and what reading it back shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::Value;

use super::finding::Kind;
use super::pages::{self, Bad, Piece};
use super::wal::{self, Followed};
use super::words;
use crate::archive::object::Object;
use crate::archive::{Archive, Error, prune};
use crate::job::backup::pages::Rules;
use crate::job::proof::{Expected, Look, Lost, Verdict, held_bytes, prove};
use crate::job::restore::way::Way;
use crate::pg::extent::{Extent, Proved};
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemId, WalName};
use crate::store::{Key, Meta, Patience};

/// The longest word of who is at a tree.
const WORD_BYTES: u64 = 1 << 20;

/// An object that is listed.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) key: Key,
    pub(super) meta: Meta,
    pub(super) object: Object,
    /// When it was proved last.
    pub(super) at: Option<Timestamp>,
    /// Is it read?
    pub(super) is_due: bool,
    /// What a manifest or a summary says of it.
    pub(super) expected: Expected,
    /// The data pages in it.
    pub(super) pages: Option<(Rules, Arc<Vec<Piece>>)>,
    /// Of the first segment of a timeline that has left another, the way to it.
    pub(super) way: Option<Way>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) outcome: Outcome,
    /// Whose a segment is.
    pub(super) system_id: Option<SystemId>,
    pub(super) pages: Vec<Bad>,
}

#[derive(Debug, Default)]
pub(super) enum Outcome {
    #[default]
    Proved,
    Gone,
    Wrong {
        kind: Kind,
        reason: String,
        lost: Lost,
        /// Of a segment, where recovery ends in it or before.
        ends: Option<Lsn>,
    },
}

impl Checked {
    pub(super) fn wrong(kind: Kind, reason: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Wrong {
                kind,
                reason: reason.into(),
                lost: Lost::All,
                ends: None,
            },
            ..Self::default()
        }
    }

    /// A segment in which recovery ends.
    fn useless(reason: String, at: Lsn) -> Self {
        Self {
            outcome: Outcome::Wrong {
                kind: Kind::Useless,
                reason,
                lost: Lost::All,
                ends: Some(at),
            },
            ..Self::default()
        }
    }
}

impl From<Verdict> for Checked {
    fn from(verdict: Verdict) -> Self {
        let outcome = match verdict {
            Verdict::Proved => Outcome::Proved,
            Verdict::Gone => Outcome::Gone,
            Verdict::Damaged(reason, lost) => Outcome::Wrong {
                kind: Kind::Damaged,
                reason,
                lost,
                ends: None,
            },
        };
        Self {
            outcome,
            ..Self::default()
        }
    }
}

fn nothing() -> Arc<Look> {
    Arc::new(|_, _| {})
}

impl Task {
    pub(super) fn new(key: Key, meta: Meta, object: Object, at: Option<Timestamp>, is_due: bool) -> Self {
        Self {
            key,
            meta,
            object,
            at,
            is_due,
            expected: Expected::default(),
            pages: None,
            way: None,
        }
    }

    /// Reads it back. `unreadable` says which summaries cannot be read, and why: all of them were read already.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn check(
        &self,
        archive: &Arc<Archive>,
        size: Option<SegmentSize>,
        unreadable: &BTreeMap<Key, String>,
        patience: Patience,
    ) -> Result<Checked, Error> {
        // How much content there is, only the object says: so room for a window is kept for what may have one.
        let held_bytes = match &self.object {
            Object::Summary(..) | Object::Word(_) | Object::Pin(_) => WORD_BYTES,
            Object::Order | Object::Pruned => self.meta.stored_bytes.min(prune::WORD_BYTES),
            Object::Wal(name) if !name.has_pages() && self.meta.stored_bytes <= WORD_BYTES => {
                4 * self.meta.stored_bytes
            }
            _ => held_bytes(self.meta.stored_bytes),
        };
        let _held = archive.memory().filling.take(held_bytes).await;
        match &self.object {
            Object::Summary(..) => Ok(match unreadable.get(&self.key) {
                Some(reason) => Checked::wrong(Kind::Damaged, reason),
                None => Checked::default(),
            }),
            Object::Word(_) => self.check_word(archive, patience).await,
            Object::Pin(name) => words::pin(archive, name, patience).await,
            Object::Order => words::order(archive, &self.key, patience).await,
            Object::Pruned => words::pruned(archive, &self.key, patience).await,
            Object::Wal(name) => self.check_wal(archive, *name, size, patience).await,
            Object::Fragment(fragment) => {
                let expected = Expected {
                    plain_bytes: Some(fragment.bytes()),
                    hash: None,
                    by: "its name",
                };
                Ok(prove(archive, &self.key, &expected, patience, nothing())
                    .await?
                    .into())
            }
            Object::Part(_) => self.check_part(archive, patience).await,
            _ => Ok(prove(archive, &self.key, &self.expected, patience, nothing())
                .await?
                .into()),
        }
    }

    async fn check_word(&self, archive: &Archive, patience: Patience) -> Result<Checked, Error> {
        let parse = |text: &[u8]| match serde_json::from_slice::<Value>(text) {
            Ok(Value::Object(_)) => Ok(()),
            Ok(_) => Err("it is no JSON object".to_owned()),
            Err(error) => Err(format!("it is no JSON: {error}")),
        };
        words::read(archive, &self.key, WORD_BYTES, parse, patience).await
    }

    async fn check_wal(
        &self,
        archive: &Arc<Archive>,
        name: WalName,
        size: Option<SegmentSize>,
        patience: Patience,
    ) -> Result<Checked, Error> {
        let expected = Expected {
            plain_bytes: size.filter(|_| name.has_pages()).map(SegmentSize::bytes),
            hash: None,
            by: "cluster.json",
        };
        let (look, seen) = wal::look(archive, name, size);
        let verdict = prove(archive, &self.key, &expected, patience, look).await?;
        let mut seen = std::mem::take(&mut *lock(&seen));
        let system_id = seen.system_id.filter(|_| matches!(name, WalName::Segment(_)));
        let proved = seen.proved();
        let checked = match (verdict, seen.misplaced) {
            (Verdict::Proved, Some(reason)) => Checked::wrong(Kind::Misplaced, reason),
            (Verdict::Proved, None) => match (name, size, proved) {
                (WalName::Segment(segment), Some(size), Some(proved)) => {
                    let followed = Followed::new(archive, size, patience);
                    self.check_leading(&followed, segment, &proved).await?
                }
                _ => Checked::default(),
            },
            (verdict, _) => verdict.into(),
        };
        Ok(Checked { system_id, ..checked })
    }

    /// Does recovery come through a segment, and from it into what follows?
    async fn check_leading(
        &self,
        followed: &Followed,
        segment: SegmentName,
        proved: &Proved,
    ) -> Result<Checked, Error> {
        let is_followed = matches!(proved.extent, Extent::Begun(_)) && followed.is_followed(segment).await?;
        if let Some((reason, at)) = wal::obstacle(proved, is_followed) {
            return Ok(Checked::useless(reason, at));
        }
        let Some(walked) = &proved.walked else {
            return Ok(Checked::default());
        };
        if let Some(at) = followed.leads_nowhere(segment, walked).await? {
            let reason =
                format!("no whole record goes on from {at} into the segment behind it: recovery ends there");
            return Ok(Checked::useless(reason, at));
        }
        let Some(way) = &self.way else {
            return Ok(Checked::default());
        };
        if let Some((reason, at)) = wal::is_not_own(segment, walked, way) {
            return Ok(Checked::useless(reason, at));
        }
        if let Some(at) = followed.comes_from_nowhere(segment, (walked, way)).await? {
            let reason = format!(
                "no whole record goes on from {at} into it, from the timeline that its own has left: recovery ends there"
            );
            return Ok(Checked::useless(reason, at));
        }
        Ok(Checked::default())
    }

    async fn check_part(&self, archive: &Archive, patience: Patience) -> Result<Checked, Error> {
        let Some((rules, pieces)) = &self.pages else {
            return Ok(prove(archive, &self.key, &self.expected, patience, nothing())
                .await?
                .into());
        };
        let (look, seen) = pages::look(*rules, pieces.clone());
        let verdict = prove(archive, &self.key, &self.expected, patience, look).await?;
        let pages = std::mem::take(&mut lock(&seen).bad);
        let checked: Checked = verdict.into();
        Ok(Checked { pages, ..checked })
    }
}

fn lock<T>(seen: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
