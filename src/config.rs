//! What an operator wants of walfs: which archive, the way to it, what may be used. One checked [`Config`] for every command,
//! whoever says it; flags and the environment do (`cli::options`). Each room gets its own options from here.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::archive::{self, Identity};
use crate::codec::Compression;
use crate::memory::Memory;
use crate::staging;
use crate::store::{self, Location, LocationError, PathStyle, Patience};

/// The longest wait; used where a wait has no end of its own.
pub const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// All that is configured. What is only for a mount says so; other commands leave it as it is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The archive, as it was written.
    pub place: String,
    /// Where that is.
    pub location: Location,
    /// May a new archive be made?
    pub create: bool,
    /// Who a new one is, if it is a copy of another.
    pub identity: Option<Identity>,
    /// URL of an S3 server that is not AWS.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// How buckets are addressed.
    pub path_style: PathStyle,
    /// Profile of the configuration files of AWS.
    pub profile: Option<String>,
    /// The only file that access keys come from.
    pub credentials_file: Option<PathBuf>,
    /// How long archiving a file may wait for the store, retries included (promise W7).
    pub deadline: Duration,
    /// After how long reading is given up; `None`: never (promise R1).
    pub read_deadline: Option<Duration>,
    /// Codec and level of what is written; `None`: the archive's own.
    pub compression: Option<Compression>,
    /// What may be used of memory.
    pub memory: Memory,
    /// Directory of temporary files; `None`: the system's.
    pub staging_dir: Option<PathBuf>,
    /// Bytes in it above which writers of base backups wait.
    pub staging_space: u64,
    /// Of a mount: where fetched objects are kept too, and up to how many bytes.
    pub disk_cache: Option<(PathBuf, u64)>,
    /// Of a mount: where segments to be sent ahead are.
    pub pg_wal: PgWal,
    /// Of a mount: after how long without a change a version that is written as a directory is complete.
    pub quiet_after: Duration,
    /// Of a mount: refuse every change?
    pub read_only: bool,
}

/// Where to look for segments to send ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PgWal {
    /// Where the archiver copies from.
    Auto,
    /// Nowhere.
    Off,
    /// Here.
    Given(PathBuf),
}

impl PgWal {
    /// The directory, if one is given.
    pub fn given(&self) -> Option<&Path> {
        match self {
            Self::Given(directory) => Some(directory),
            Self::Auto | Self::Off => None,
        }
    }
}

impl FromStr for PgWal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            directory if Path::new(directory).is_absolute() => Ok(Self::Given(directory.into())),
            _ => Err("give an absolute path, auto or off".into()),
        }
    }
}

impl Config {
    /// The usual values, for the archive in this place.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn of(place: &str) -> Result<Self, LocationError> {
        Ok(Self {
            place: place.to_owned(),
            location: Location::parse(place)?,
            create: false,
            identity: None,
            endpoint: None,
            region: None,
            path_style: PathStyle::Auto,
            profile: None,
            credentials_file: None,
            deadline: archive::DEFAULT_DEADLINE,
            read_deadline: None,
            compression: None,
            memory: Memory::default(),
            staging_dir: None,
            staging_space: staging::Options::default().space_bytes,
            disk_cache: None,
            pg_wal: PgWal::Auto,
            quiet_after: Duration::from_secs(60),
            read_only: false,
        })
    }

    /// The same for the archive of this name in the place; `None`: none can have that name.
    pub fn below(&self, name: &str) -> Option<Self> {
        let location = archive::below::place(&self.location, name)?;
        Some(Self {
            place: location.to_string(),
            location,
            create: false,
            ..self.clone()
        })
    }

    /// How long a reader waits.
    pub fn read_wait(&self) -> Duration {
        self.read_deadline.unwrap_or(FOR_EVER)
    }

    /// See [`Patience`], for a person who reads.
    pub fn person_patience(&self) -> Patience {
        self.read_deadline
            .map_or(Patience::WhileAway, Patience::for_at_most)
    }

    /// See [`Patience`], for a server that reads.
    pub fn read_patience(&self) -> Patience {
        self.read_deadline
            .map_or(Patience::Forever, Patience::for_at_most)
    }

    /// For the store, which is waited for at most so long.
    pub(crate) fn store(&self, wait: Duration) -> store::Options {
        store::Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            profile: self.profile.clone(),
            create: self.create && !self.read_only,
            open_within: wait,
            credentials_file: self.credentials_file.clone(),
        }
    }

    /// For the archive.
    pub(crate) fn archive(&self) -> archive::Options {
        archive::Options {
            compression: self.compression,
            create: self.create && !self.read_only,
            identity: self.identity.clone(),
            memory: self.memory.clone(),
        }
    }

    /// For the staging.
    pub(crate) fn staging(&self) -> staging::Options {
        staging::Options {
            directory: self.staging_dir.clone().unwrap_or_else(std::env::temp_dir),
            memory: self.memory.clone(),
            space_bytes: self.staging_space,
        }
    }
}

/// Reads `45s`, `10m`, `1h 30m`.
///
/// # Errors
/// A sentence.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time like 45s, 10m or 1h 30m, of at least a second");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    let duration: Duration = parsed.try_into().map_err(|_| wrong())?;
    if duration < Duration::from_secs(1) {
        Err(wrong())
    } else {
        Ok(duration)
    }
}

/// Reads `128MiB`, `1GiB`, `4096`.
///
/// # Errors
/// A sentence.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size like 128MiB, 1GiB or 4096");
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Reads a size that memory can be divided into.
///
/// # Errors
/// A sentence.
pub fn memory(text: &str) -> Result<Memory, String> {
    Memory::new(bytes(text)?).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        assert_eq!(duration("45s"), Ok(Duration::from_secs(45)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("45").is_err() && duration("-1s").is_err() && duration("1ms").is_err());
        assert_eq!(bytes("128MiB"), Ok(128 << 20));
        assert_eq!(bytes("1 GiB"), Ok(1 << 30));
        assert_eq!(bytes("4096"), Ok(4096));
        assert!(bytes("lots").is_err() && bytes("99999999999TiB").is_err());
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        assert!(memory("159MiB").is_err() && memory("much").is_err());
        assert_eq!(memory("1GiB").unwrap().total_bytes, 1 << 30);
        assert!("pg_wal".parse::<PgWal>().is_err() && Config::of("").is_err());
        assert_eq!("/pg/pg_wal".parse(), Ok(PgWal::Given("/pg/pg_wal".into())));
    }

    #[test]
    fn a_mount_that_only_reads_makes_no_archive() {
        let mut config = Config::of("/srv/archive").unwrap();
        config.create = true;
        assert!(config.archive().create && config.store(FOR_EVER).create);
        config.read_only = true;
        assert!(!config.archive().create && !config.store(FOR_EVER).create);
    }
}
