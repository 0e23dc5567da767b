//! Whose turn a scheduled job is: each due run is one host's, however many have the same schedule (promise A2).
//!
//! Nobody holds a lock. A *turn* is one due run, and a number: the first host that stores its *claim* has it. While it is at
//! work it stores a sign of life, again and again; in the end, that it is done. Whoever else has the schedule looks at that
//! as long as it is not done. If nothing changes for long enough, he claims the next number, and that ends the turn before it:
//! before a job makes anything that lasts, it looks whether its turn is still the newest ([`Archive::is_newest`]). So one
//! that was frozen and wakes up makes nothing. No clock of one host is compared with that of another.
//!
//! `schedule/<job>/<due>.<number>.claim.json`, `.alive.json`, `.done.json`; `schedule/<job>/plan.json` says when it is due.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tree::begun::Process;
use super::{Archive, Error, put_mode};
use crate::store::{ByteRange, ErrorKind, Key, Meta, Patience, PutMode};

mod duty;

pub use duty::Duty;

const SCHEDULE: &str = "schedule/";
const CLAIM: &str = ".claim.json";
const ALIVE: &str = ".alive.json";
const DONE: &str = ".done.json";
const PLAN: &str = "plan.json";

/// How due times are written in keys.
const DUE: &str = "%Y%m%dT%H%M%SZ";

/// The longest word.
const WORD_BYTES: u64 = 1 << 20;

/// Due runs of a job of which the words are kept.
pub const KEPT_TURNS: usize = 50;

/// What is due later than this is not due: a host whose clock was ahead has said so. Clocks may differ that far.
pub fn horizon(now: Timestamp) -> Timestamp {
    now.checked_add(SignedDuration::from_hours(1)).unwrap_or(now)
}

/// Where the store does not judge who came first: how long one waits before he looks who came last.
const SETTLING: Duration = Duration::from_secs(3);

/// What is done by a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// `walfs backup`.
    Backup,
    /// `walfs prune`.
    Prune,
    /// `walfs verify`.
    Verify,
    /// `walfs copy`.
    Copy,
    /// `walfs dump --all`.
    Dump,
    /// `walfs files --all`.
    Files,
}

impl Job {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Backup,
        Self::Prune,
        Self::Verify,
        Self::Copy,
        Self::Dump,
        Self::Files,
    ];

    /// The command that does it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Prune => "prune",
            Self::Verify => "verify",
            Self::Copy => "copy",
            Self::Dump => "dump",
            Self::Files => "files",
        }
    }
}

/// One due run of a job, and how often it was claimed before. Later ones are greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The job.
    pub duty: Duty,
    /// When it was due, in whole seconds.
    pub due: Timestamp,
    /// From 1.
    pub number: u32,
}

impl Turn {
    fn stem(&self) -> String {
        format!(
            "{}{}.{:04}",
            self.duty.folder(),
            self.due.strftime(DUE),
            self.number
        )
    }

    fn key(&self, word: &str) -> Key {
        Key::new(format!("{}{word}", self.stem()))
    }

    /// The turn and the word of which this is the name in the job's folder.
    fn read(duty: &Duty, name: &str) -> Option<(Self, &'static str)> {
        let word = [CLAIM, ALIVE, DONE]
            .into_iter()
            .find(|word| name.ends_with(word))?;
        let (due, number) = name.strip_suffix(word)?.split_once('.')?;
        let due = DateTime::strptime(DUE, due).ok()?.to_zoned(TimeZone::UTC).ok()?;
        let due = due.timestamp();
        let turn = Self {
            duty: duty.clone(),
            due,
            number: number.parse().ok()?,
        };
        // Only what this program writes: nothing else is read or deleted.
        (turn.key(word).as_str() == format!("{}{name}", duty.folder())).then_some((turn, word))
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.stem().strip_prefix(SCHEDULE).unwrap_or_default())
    }
}

impl FromStr for Turn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (folder, rest) = text.split_once('/').unwrap_or_default();
        let duty = Duty::of_folder(folder);
        duty.and_then(|duty| Self::read(&duty, &format!("{rest}{CLAIM}")))
            .map(|(turn, _)| turn)
            .ok_or_else(|| format!("{text:?} is no turn"))
    }
}

/// When a job is due, for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// As it was written.
    pub schedule: String,
    /// The zone of its hours, if it has a name.
    pub zone: Option<String>,
    /// Since when: what was due before was not missed.
    pub since: Timestamp,
}

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The process.
    pub by: Process,
    /// When, by its clock.
    pub at: Timestamp,
    /// Random: of two claims one is its own.
    pub id: String,
}

/// A sign of life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Counted, so that no two are the same.
    pub count: u64,
    /// How often the job was tried.
    pub tries: u32,
    /// Why the last try failed, until the next one begins.
    pub error: Option<String>,
}

/// How a turn has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// When, by the host's clock.
    pub at: Timestamp,
    /// How long it took, in seconds, all tries together.
    pub seconds: f64,
    /// How often it was tried.
    pub tries: u32,
    /// What somebody should look at, though the job has done its work.
    pub trouble: Option<String>,
}

/// What is stored of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The turn.
    pub turn: Turn,
    /// Is it over?
    pub is_done: bool,
    /// What was stored of it, and when: if this stays the same, nobody is at it.
    pub signs: Vec<(Key, SystemTime, u64)>,
}

impl Archive {
    /// The turns of a job that are stored, from the oldest to the newest.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn turns(&self, duty: &Duty, patience: Patience) -> Result<Vec<Told>, Error> {
        let listed = self.list_all(&duty.folder(), patience).await?;
        Ok(turns_of(duty, &listed))
    }

    /// All jobs that have ever had a schedule, with their turns.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn scheduled(&self, patience: Patience) -> Result<Vec<(Duty, Vec<Told>)>, Error> {
        let listed = self.list_all(SCHEDULE, patience).await?;
        let folders = listed.iter().filter_map(|(key, _)| {
            let (folder, _) = key.as_str().strip_prefix(SCHEDULE)?.split_once('/')?;
            Duty::of_folder(folder)
        });
        let duties: BTreeSet<Duty> = folders.collect();
        let told = |duty: Duty| {
            let turns = turns_of(&duty, &listed);
            (duty, turns)
        };
        Ok(duties.into_iter().map(told).collect())
    }

    /// Claims a turn; `false` if another has it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn claim_turn(&self, turn: &Turn, patience: Patience) -> Result<bool, Error> {
        let claim = Claim {
            by: Process::this(),
            at: Timestamp::now(),
            id: format!("{:016x}", fastrand::u64(..)),
        };
        let key = turn.key(CLAIM);
        match self
            .put_word(&key, &claim, put_mode(self.marker.put_if_absent), patience)
            .await
        {
            Err(Error::Store(error)) if error.kind == ErrorKind::AlreadyExists => {}
            put => put?,
        }
        if !self.marker.put_if_absent {
            tokio::time::sleep(SETTLING).await;
        }
        // The answer to our own first try may have been lost, and a store may not judge.
        let stored: Option<Claim> = self.word(&key, patience).await?;
        Ok(stored.is_some_and(|stored| stored.id == claim.id))
    }

    /// Is this the newest turn of its job?
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn is_newest(&self, turn: &Turn, patience: Patience) -> Result<bool, Error> {
        let turns = self.turns(&turn.duty, patience).await?;
        let latest = horizon(Timestamp::now()).max(turn.due);
        let newest = turns.iter().rfind(|told| told.turn.due <= latest);
        Ok(newest.is_none_or(|newest| newest.turn <= *turn))
    }

    /// Stores a sign of life.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn beat_turn(&self, turn: &Turn, alive: &Alive, patience: Patience) -> Result<(), Error> {
        self.put_word(&turn.key(ALIVE), alive, PutMode::Overwrite, patience)
            .await
    }

    /// Stores that it is done.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn end_turn(&self, turn: &Turn, done: &Done, patience: Patience) -> Result<(), Error> {
        self.put_word(&turn.key(DONE), done, PutMode::Overwrite, patience)
            .await
    }

    /// Whose it is, its last sign of life and its end, as far as they are there and can be read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn told(
        &self,
        turn: &Turn,
        patience: Patience,
    ) -> Result<(Option<Claim>, Option<Alive>, Option<Done>), Error> {
        Ok((
            self.word(&turn.key(CLAIM), patience).await?,
            self.word(&turn.key(ALIVE), patience).await?,
            self.word(&turn.key(DONE), patience).await?,
        ))
    }

    /// When a job is due, as was stored last.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn plan(&self, duty: &Duty, patience: Patience) -> Result<Option<Plan>, Error> {
        let key = Key::new(format!("{}{PLAN}", duty.folder()));
        self.word(&key, patience).await
    }

    /// Stores when a job is due.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_plan(&self, duty: &Duty, plan: &Plan, patience: Patience) -> Result<(), Error> {
        let key = Key::new(format!("{}{PLAN}", duty.folder()));
        self.put_word(&key, plan, PutMode::Overwrite, patience).await
    }

    /// Deletes the words of all but the newest turns.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn forget_turns(&self, turns: &[Told], patience: Patience) -> Result<(), Error> {
        let old = turns.len().saturating_sub(KEPT_TURNS);
        let keys = turns[..old].iter().flat_map(|told| &told.signs);
        let keys: Vec<Key> = keys.map(|(key, ..)| key.clone()).collect();
        match keys.is_empty() {
            true => Ok(()),
            false => Ok(self.store().delete(&keys, patience).await?),
        }
    }

    async fn put_word(
        &self,
        key: &Key,
        word: &impl Serialize,
        mode: PutMode,
        patience: Patience,
    ) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(word).expect("plain data becomes JSON");
        Ok(self.store().put(key, text.into(), mode, patience).await?)
    }

    /// One that is not there, or cannot be read, says nothing.
    async fn word<W: DeserializeOwned>(&self, key: &Key, patience: Patience) -> Result<Option<W>, Error> {
        match self
            .store()
            .get(key, ByteRange::AtMost(WORD_BYTES), patience)
            .await
        {
            Ok(fetched) => Ok(serde_json::from_slice(&fetched.bytes).ok()),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Damaged) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The turns of a job among listed objects, from the oldest to the newest.
fn turns_of(duty: &Duty, listed: &[(Key, Meta)]) -> Vec<Told> {
    let folder = duty.folder();
    let mut turns: BTreeMap<Turn, Told> = BTreeMap::new();
    for (key, meta) in listed {
        let name = key.as_str().strip_prefix(&folder);
        let Some((turn, word)) = name.and_then(|name| Turn::read(duty, name)) else {
            continue;
        };
        let told = turns.entry(turn.clone()).or_insert_with(|| Told {
            turn,
            is_done: false,
            signs: Vec::new(),
        });
        told.is_done |= word == DONE;
        told.signs.push((key.clone(), meta.modified, meta.stored_bytes));
    }
    turns.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_read_back_from_its_name_and_nothing_else_is_one() {
        let turn = Turn {
            duty: Duty::here(Job::Backup),
            due: "2026-11-30T03:00:00Z".parse().unwrap(),
            number: 2,
        };
        assert_eq!(turn.to_string(), "backup/20261130T030000Z.0002");
        assert_eq!(turn.to_string().parse(), Ok(turn.clone()));
        assert_eq!(
            Turn::read(&Duty::here(Job::Backup), "20261130T030000Z.0002.done.json"),
            Some((turn, DONE))
        );
        for name in [
            "plan.json",
            "20261130T030000Z.2.done.json",
            "20261130T030000Z.0002.other.json",
            "20261330T030000Z.0002.done.json",
            "20261130T030000Z.0002.0003.done.json",
        ] {
            assert_eq!(Turn::read(&Duty::here(Job::Backup), name), None, "{name}");
        }
        assert!("dance/20261130T030000Z.0001".parse::<Turn>().is_err());
        assert!("".parse::<Turn>().is_err());
    }

    #[test]
    fn a_later_turn_is_greater() {
        let turn = |due: &str, number| Turn {
            duty: Duty::here(Job::Backup),
            due: due.parse().unwrap(),
            number,
        };
        let first = turn("2026-11-30T03:00:00Z", 1);
        assert!(first < turn("2026-11-30T03:00:00Z", 2));
        assert!(turn("2026-11-30T03:00:00Z", 2) < turn("2026-12-01T03:00:00Z", 1));
    }
}
