//! Options that several commands share, and how durations and sizes are written.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::archive::{self, Archive};
use crate::codec::Compression;
use crate::staging;
use crate::store::{self, Location, PathStyle, Patience};

/// Nobody waits longer; used where a wait has no end of its own.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Which archive, and how to reach its store.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// URL of an S3 server that is not AWS (also AWS_ENDPOINT_URL)
    #[arg(long, value_name = "URL", env = "WALFS_ENDPOINT", help_heading = "Store")]
    pub endpoint: Option<String>,
    /// Region of the bucket (also AWS_REGION)
    #[arg(long, value_name = "REGION", env = "WALFS_REGION", help_heading = "Store")]
    pub region: Option<String>,
    /// Address buckets as URL/bucket (always) or bucket.URL (never); auto finds out
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        env = "WALFS_PATH_STYLE",
        help_heading = "Store"
    )]
    pub path_style: PathStyleArg,
    /// Profile of the AWS configuration files (also AWS_PROFILE)
    #[arg(long, value_name = "NAME", env = "WALFS_PROFILE", help_heading = "Store")]
    pub profile: Option<String>,
    /// Take S3 access keys from this file (as ~/.aws/credentials) and from nowhere else; it may be replaced at any time
    #[arg(
        long,
        value_name = "FILE",
        env = "WALFS_CREDENTIALS_FILE",
        help_heading = "Store"
    )]
    pub credentials_file: Option<PathBuf>,
    /// Total time that archiving may wait for the store, retries included
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = duration, env = "WALFS_DEADLINE",
          help_heading = "Store")]
    pub deadline: Duration,
    /// Give up reading after this time; by default reading waits for as long as the store is away, because PostgreSQL
    /// takes an error for the end of the WAL
    #[arg(long, value_name = "TIME", value_parser = duration, env = "WALFS_READ_DEADLINE", help_heading = "Store")]
    pub read_deadline: Option<Duration>,
}

/// How what is written is packed and staged.
#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    /// lz4, lz4:ACCELERATION, zstd, zstd:LEVEL or none; lz4 for a new archive, then the archive's own
    #[arg(
        long,
        value_name = "CODEC",
        env = "WALFS_COMPRESSION",
        help_heading = "Writing"
    )]
    pub compression: Option<Compression>,
    /// Directory for what does not fit in memory while it is written; not on the mount
    #[arg(long, value_name = "DIR", env = "WALFS_STAGING_DIR", help_heading = "Writing")]
    pub staging_dir: Option<PathBuf>,
}

impl WriteArgs {
    /// For [`staging::Staging`].
    pub fn staging(&self) -> staging::Options {
        let usual = staging::Options::default();
        staging::Options {
            directory: self.staging_dir.clone().unwrap_or(usual.directory),
            ..usual
        }
    }
}

/// See [`PathStyle`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PathStyleArg {
    /// Find out.
    Auto,
    /// URL/bucket.
    Always,
    /// bucket.URL.
    Never,
}

impl From<PathStyleArg> for PathStyle {
    fn from(argument: PathStyleArg) -> Self {
        match argument {
            PathStyleArg::Auto => Self::Auto,
            PathStyleArg::Always => Self::Always,
            PathStyleArg::Never => Self::Never,
        }
    }
}

/// What opening an archive may end with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The place is spelled wrongly.
    #[error(transparent)]
    Location(#[from] store::LocationError),
    /// The store did not open.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The archive did not.
    #[error(transparent)]
    Archive(#[from] archive::Error),
}

impl StoreArgs {
    /// How long a reader waits.
    pub fn read_wait(&self) -> Duration {
        self.read_deadline.unwrap_or(FOR_EVER)
    }

    /// See [`Patience`], for a reader.
    pub fn read_patience(&self) -> Patience {
        self.read_deadline
            .map_or(Patience::Forever, Patience::for_at_most)
    }

    /// Opens the archive, waiting for the store at most `wait`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        &self,
        place: &str,
        options: &archive::Options,
        wait: Duration,
    ) -> Result<Archive, OpenError> {
        let location = Location::parse(place)?;
        let store_options = store::Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style.into(),
            profile: self.profile.clone(),
            create: options.create,
            open_within: wait,
            credentials_file: self.credentials_file.clone(),
        };
        let store = store::open(&location, &store_options).await?;
        Ok(Archive::open(store, options, Patience::for_at_most(wait)).await?)
    }
}

/// Reads `45s`, `10m`, `1h 30m`.
///
/// # Errors
/// A sentence.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |reason: &dyn std::fmt::Display| format!("{text:?} is no duration like 45s or 10m: {reason}");
    let parsed: jiff::SignedDuration = text.parse().map_err(|error| wrong(&error))?;
    let duration: Duration = parsed.try_into().map_err(|error| wrong(&error))?;
    if duration < Duration::from_secs(1) {
        Err(wrong(&"it is under a second"))
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
}
