//! What others have stored of a segment that is being received: another receiver, or somebody who archives it whole.
//!
//! A sync must not say yes for bytes that nobody will get back, because recovery takes the whole segment, or another
//! server's bytes. So the store is asked, beside each put, what else there is of the segment, and all of it is compared with
//! what has come here. Of two receivers that put at one moment each may be answered before the other's put. So who has put
//! nothing yet asks before, to put nothing in vain, and after; and who is not alone asks after each put.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Kept, Received};
use crate::archive::wal::{Compared, Found, Fragment, Prefixes};
use crate::archive::{Archive, Error};
use crate::pg::{SegmentName, WalName};
use crate::store::{ErrorKind, Patience};

/// Who has put fragments of the segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Company {
    /// Nobody has asked since something was put here.
    #[default]
    Unknown,
    /// Nobody else.
    Alone,
    /// Others, of the same content.
    Shared,
}

/// Fragments of the last listing, all of the same content.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed {
    own: HashSet<Fragment>,
    others: HashSet<Fragment>,
}

impl Listed {
    /// Those of others.
    pub(super) fn into_others(self) -> impl Iterator<Item = Fragment> {
        self.others.into_iter()
    }
}

/// What the store has of a segment.
struct Stored {
    whole: Found,
    fragments: Vec<Fragment>,
}

async fn stored(archive: Arc<Archive>, segment: SegmentName, patience: Patience) -> Result<Stored, Error> {
    let (whole, fragments) = futures::try_join!(
        archive.look(WalName::Segment(segment), patience),
        archive.received(segment, patience)
    )?;
    Ok(Stored { whole, fragments })
}

impl Received {
    /// Stores what has come, unless others have other content.
    pub(super) async fn put_beside_others(&mut self, patience: Patience) -> Result<(), Error> {
        // Whatever cuts this short, the next one asks first.
        let company = std::mem::take(&mut self.kept.company);
        let put = self.put_and_ask(company, patience).await;
        match put {
            Ok(()) => self.kept.before = None,
            Err(Error::Kept { .. } | Error::Conflict { .. }) => self.take_back(patience).await,
            Err(_) => {}
        }
        put
    }

    async fn put_and_ask(&mut self, company: Company, patience: Patience) -> Result<(), Error> {
        if company == Company::Unknown {
            self.ask(patience).await?;
            self.kept.before = None;
        }
        self.kept.company = Company::Unknown;
        if !self.has_more() {
            self.kept.company = company;
            return Ok(());
        }
        self.kept.new.clear();
        self.kept.before = Some(Box::new(self.kept.clone()));
        if company == Company::Alone {
            let asked = stored(self.archive.clone(), self.segment, patience);
            let (put, found) = futures::join!(self.put_all(patience), asked);
            put?;
            self.compare_with(found?, patience).await?;
            if self.kept.company == Company::Alone {
                return Ok(());
            }
            self.kept.company = Company::Unknown;
        } else {
            self.put_all(patience).await?;
        }
        self.ask(patience).await
    }

    async fn ask(&mut self, patience: Patience) -> Result<(), Error> {
        let found = stored(self.archive.clone(), self.segment, patience).await?;
        self.compare_with(found, patience).await
    }

    /// Is everything that the store has the same as far as it has come here?
    async fn compare_with(&mut self, stored: Stored, patience: Patience) -> Result<(), Error> {
        let mut own = self.kept.prefixes.clone();
        self.add_up(&mut own, self.filled).await?;
        if let Found::Archived(table) = stored.whole {
            let name = WalName::Segment(self.segment);
            let compared = self
                .archive
                .compare_first(name, own.bytes(), own.hash(), patience);
            if compared.await? == Compared::Other {
                return Err(Error::Conflict {
                    name,
                    place: self.archive.place(),
                    archived: table.hash(),
                    offered: own.hash(),
                });
            }
        }
        let (own, mut others): (Vec<_>, Vec<_>) = stored
            .fragments
            .into_iter()
            .partition(|fragment| self.kept.is_own(fragment));
        others.sort_by_key(|fragment| fragment.range.end);
        let mut listed = Listed {
            own: own.into_iter().collect(),
            ..Listed::default()
        };
        let (mut up_to, is_alone) = (Prefixes::default(), others.is_empty());
        for other in others {
            if self.kept.listed.others.contains(&other) {
                listed.others.insert(other);
            } else if other.range.end > self.filled {
                self.compare_longer(&other, patience).await?;
            } else {
                self.add_up(&mut up_to, other.range.end).await?;
                if up_to.prefix() != other.after {
                    return Err(self.other_is_kept(&other));
                }
                listed.others.insert(other);
            }
        }
        self.kept.listed = listed;
        self.kept.company = match is_alone {
            true => Company::Alone,
            false => Company::Shared,
        };
        Ok(())
    }

    /// One that leads further than what has come here.
    async fn compare_longer(&mut self, other: &Fragment, patience: Patience) -> Result<(), Error> {
        let (start, filled) = (other.range.start, self.filled);
        if start >= filled {
            return Ok(());
        }
        if self.prefix_of(start).await? != other.before {
            return Err(self.other_is_kept(other));
        }
        let theirs = match self.archive.fetch_fragment(other, patience).await {
            Ok(theirs) => theirs,
            // A longer one has taken its place, of which the next question tells.
            Err(Error::Store(error)) if error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let own = self.draft().read(start, (filled - start) as usize).await;
        let own = own.map_err(|error| self.staging_error(&error))?;
        match theirs.starts_with(&own) {
            true => Ok(()),
            false => Err(self.other_is_kept(other)),
        }
    }

    fn other_is_kept(&self, other: &Fragment) -> Error {
        Error::Kept {
            name: WalName::Partial(self.segment),
            place: self.archive.place(),
            kept_bytes: other.range.end,
        }
    }

    /// What was put and must not be acknowledged goes again, for it would stand in the way of what was.
    async fn take_back(&mut self, patience: Patience) {
        let Some(before) = self.kept.before.take() else {
            return;
        };
        let put = std::mem::replace(&mut self.kept, *before).new;
        if let Err(error) = self.archive.forget_fragments(&put, patience).await {
            tracing::warn!(
                "{} objects of {}.partial that contradict others could not be deleted: {error}",
                put.len(),
                self.segment
            );
        }
    }
}

impl Kept {
    fn is_own(&self, fragment: &Fragment) -> bool {
        let mut known = self.fragments.iter().chain(&self.replaced).chain(&self.found);
        fragment.bytes() == 0 || self.listed.own.contains(fragment) || known.any(|known| known == fragment)
    }
}
