//! Options that several commands share, and how durations and sizes are written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use indicatif::BinaryBytes;

use crate::archive::Archive;
use crate::assemble::{self, Stay};
use crate::codec::Compression;
use crate::config::{Config, FOR_EVER, bytes, duration, memory};
use crate::linux::cgroup;
use crate::memory::Memory;
use crate::store::{LocationError, PathStyle};

/// Which archive, and how to reach its store.
#[derive(Debug, Clone, Args)]
pub struct ArchiveArgs {
    /// s3://bucket/prefix, file:///directory or a path
    #[arg(
        id = "archive",
        long = "archive",
        value_name = "ARCHIVE",
        env = "WALFS_ARCHIVE",
        hide_env_values = true
    )]
    pub place: String,
    /// How.
    #[command(flatten)]
    pub store: StoreArgs,
}

impl ArchiveArgs {
    /// See [`StoreArgs::config`].
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn config(&self) -> Result<Config, LocationError> {
        self.store.config(&self.place)
    }

    /// The archive, for a command that reads, or runs for long.
    ///
    /// # Errors
    /// [`LocationError`], [`assemble::Error`].
    pub async fn opened(&self) -> Result<Archive, Box<dyn std::error::Error + Send + Sync>> {
        Ok(open(&self.config()?, Stay::Long, self.store.deadline).await?)
    }
}

/// How to reach a store.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// URL of an S3 server that is not AWS [default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile, AWS]
    #[arg(
        long,
        value_name = "URL",
        env = "WALFS_ENDPOINT",
        hide_env_values = true,
        help_heading = "Store"
    )]
    pub endpoint: Option<String>,
    /// Region of the bucket [default: AWS_REGION, the profile, the instance's, us-east-1]
    #[arg(
        long,
        value_name = "REGION",
        env = "WALFS_REGION",
        hide_env_values = true,
        help_heading = "Store"
    )]
    pub region: Option<String>,
    /// How buckets are addressed
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        env = "WALFS_PATH_STYLE",
        hide_env_values = true,
        help_heading = "Store"
    )]
    pub path_style: PathStyleArg,
    /// Profile of the configuration files of AWS [default: AWS_PROFILE, default]
    #[arg(
        long,
        value_name = "NAME",
        env = "WALFS_PROFILE",
        hide_env_values = true,
        help_heading = "Store"
    )]
    pub profile: Option<String>,
    /// Take access keys from this file and from nowhere else [default: where the tools of AWS find them]
    ///
    /// It has the form of ~/.aws/credentials. The user that walfs runs as must be able to read it. It may be replaced
    /// at any time: walfs reads it again when the server refuses a key.
    #[arg(
        long,
        value_name = "FILE",
        env = "WALFS_CREDENTIALS_FILE",
        hide_env_values = true,
        help_heading = "Store"
    )]
    pub credentials_file: Option<PathBuf>,
    /// How long archiving a file may wait for the store, retries included; then it fails, and PostgreSQL tries again
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = duration, env = "WALFS_DEADLINE",
          hide_env_values = true, help_heading = "Store")]
    pub deadline: Duration,
    /// Give up reading after this time [default: never]
    ///
    /// By default a read waits for as long as the store is away: PostgreSQL takes an error of `cp` for the end of the
    /// WAL, and opens the database without the rest.
    #[arg(long, value_name = "TIME", value_parser = duration, env = "WALFS_READ_DEADLINE", hide_env_values = true,
          help_heading = "Store")]
    pub read_deadline: Option<Duration>,
}

/// How much memory a process may use.
#[derive(Debug, Clone, Args)]
pub struct MemoryArgs {
    /// Memory in all, at least 160MiB [default: 256MiB, or half of what the control group allows if that is less]
    #[arg(long, value_name = "SIZE", value_parser = memory, env = "WALFS_MEMORY", hide_env_values = true)]
    memory: Option<Memory>,
}

impl MemoryArgs {
    /// Its shares. What the control group has changed is said in the log.
    pub fn shares(&self) -> Memory {
        let allowed = cgroup::memory_limit(Path::new("/"));
        let usual = Memory::usual(None).total_bytes;
        let memory = self.memory.clone().unwrap_or_else(|| Memory::usual(allowed));
        let total = BinaryBytes(memory.total_bytes);
        match allowed.map(|bytes| (bytes, BinaryBytes(bytes))) {
            Some((bytes, allowed)) if bytes < memory.total_bytes + memory.total_bytes / 4 => tracing::warn!(
                "walfs uses up to {total} of memory, its control group allows {allowed}: it may be killed. \
                 HINT: a higher limit, or a smaller --memory"
            ),
            Some((_, allowed)) if self.memory.is_none() && memory.total_bytes < usual => tracing::info!(
                "walfs uses up to {total} of memory, because its control group allows {allowed}"
            ),
            _ => {}
        }
        memory
    }
}

/// May a new archive be made?
#[derive(Debug, Clone, Copy, Args)]
pub struct CreateArgs {
    /// Make a new archive if the place is empty; without it, that is an error, as of a mistyped name
    #[arg(long, env = "WALFS_CREATE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub create: bool,
}

/// The word on an archive that was just made, for whoever did not mean to.
pub fn newly_made(archive: &Archive) -> Option<String> {
    archive
        .is_new()
        .then(|| format!("{} held no archive: made a new archive there", archive.place()))
}

/// How what is written is packed and staged.
#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    /// lz4, lz4:ACCELERATION, zstd, zstd:LEVEL or none [default: lz4 for a new archive, then the archive's own]
    ///
    /// An archive keeps to the codec it was made with; the level may change, and lz4 and none may be mixed.
    #[arg(
        long,
        value_name = "CODEC",
        env = "WALFS_COMPRESSION",
        hide_env_values = true,
        help_heading = "Writing"
    )]
    pub compression: Option<Compression>,
    /// Directory for what is being written and does not fit into memory; not in the mount [default: TMPDIR, /tmp]
    #[arg(
        long,
        value_name = "DIR",
        env = "WALFS_STAGING_DIR",
        hide_env_values = true,
        help_heading = "Writing"
    )]
    pub staging_dir: Option<PathBuf>,
    /// Bytes in that directory above which writers of base backups wait for their uploads; WAL never waits
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "2GiB",
        value_parser = bytes,
        env = "WALFS_STAGING_SPACE",
        hide_env_values = true,
        help_heading = "Writing"
    )]
    pub staging_space: u64,
}

impl WriteArgs {
    /// Adds what they say.
    pub fn add_to(&self, config: &mut Config) {
        config.compression = self.compression;
        config.staging_dir.clone_from(&self.staging_dir);
        config.staging_space = self.staging_space;
    }
}

/// See [`PathStyle`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PathStyleArg {
    /// walfs finds out
    Auto,
    /// HOST/BUCKET/KEY
    Always,
    /// BUCKET.HOST/KEY
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

impl StoreArgs {
    /// The usual values for the archive in this place, and these.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn config(&self, place: &str) -> Result<Config, LocationError> {
        Ok(Config {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style.into(),
            profile: self.profile.clone(),
            credentials_file: self.credentials_file.clone(),
            deadline: self.deadline,
            read_deadline: self.read_deadline,
            ..Config::of(place)?
        })
    }

    /// The options that were given, as words of another command line: for a `restore_command`. Keys are not among them.
    ///
    /// # Errors
    /// If the current directory, from which a path was given, is gone.
    pub fn words(&self) -> std::io::Result<Vec<OsString>> {
        let mut words = Vec::new();
        let mut push = |name: &str, value: OsString| words.extend([OsString::from(name), value]);
        for (name, value) in [
            ("--endpoint", &self.endpoint),
            ("--region", &self.region),
            ("--profile", &self.profile),
        ] {
            value.iter().for_each(|value| push(name, value.into()));
        }
        match self.path_style {
            PathStyleArg::Auto => {}
            PathStyleArg::Always => push("--path-style", "always".into()),
            PathStyleArg::Never => push("--path-style", "never".into()),
        }
        if let Some(file) = &self.credentials_file {
            push("--credentials-file", std::path::absolute(file)?.into());
        }
        Ok(words)
    }
}

/// After how long somebody who waits for an archive is told so.
const SLOW: Duration = Duration::from_secs(3);

/// Opens the archive, waiting for the store at most `wait`. Says that it does not answer, if it does not soon; whoever waits
/// for most of a minute without a word thinks that nothing is done.
///
/// # Errors
/// [`assemble::Error`].
pub async fn open(config: &Config, stay: Stay, wait: Duration) -> Result<Archive, assemble::Error> {
    let mut opening = std::pin::pin!(assemble::archive(config, stay, wait));
    if let Ok(opened) = tokio::time::timeout(SLOW.min(wait), &mut opening).await {
        return opened;
    }
    if wait > SLOW {
        let until = match wait.as_secs() {
            seconds if wait < FOR_EVER => format!("for at most {seconds} seconds"),
            _ => "until it does".to_owned(),
        };
        super::complain(&format!(
            "{} does not answer yet; trying again {until}",
            config.place
        ));
    }
    opening.await
}
