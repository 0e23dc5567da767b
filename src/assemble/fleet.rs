//! Several archives of one place, in one mount and in one memory.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Stay, rooms};
use crate::archive::{self, Archive, below};
use crate::cache::Cache;
use crate::config::Config;
use crate::mount::fleet::{Archives, Fleet, MOST_OPEN};
use crate::mount::fs::One;
use crate::read::Together;
use crate::store::{self, ErrorKind, Location, Patience, Store};

/// What opens them.
#[derive(Debug)]
struct Below {
    /// Of the place.
    config: Config,
    store: Store,
    mountpoint: PathBuf,
    longest: Option<Duration>,
    together: Together,
    /// How many were opened: what one has cached is nobody else's, nor its own when it is opened again.
    opened: AtomicU32,
}

/// The directory that a mount shows over the archives of a place, whose store this is. `longest`: how long the kernel lets a
/// request take.
pub fn fleet(config: &Config, store: Store, mountpoint: PathBuf, longest: Option<Duration>) -> Fleet {
    let mut config = config.clone();
    let together = Together::new(&config.memory, Cache::new(config.memory.cache_bytes));
    config.memory = config.memory.of_one_of(MOST_OPEN as u64);
    let (read_deadline, read_only) = (config.read_deadline, config.read_only);
    let buffers = config.memory.buffers.clone();
    let below = Below {
        config,
        store,
        mountpoint,
        longest,
        together,
        opened: AtomicU32::new(0),
    };
    Fleet::new(Arc::new(below), read_deadline, read_only, buffers)
}

impl Below {
    fn not_one(&self, name: &str) -> archive::Error {
        archive::Error::NotAnArchive {
            place: format!("{}/{name}", self.config.place),
            nearby: vec![],
        }
    }
}

fn of_archive(opened: Result<Archive, super::Error>) -> Result<Archive, archive::Error> {
    opened.map_err(|error| match error {
        super::Error::Store(error) => error.into(),
        super::Error::Archive(error) => error,
    })
}

#[async_trait]
impl Archives for Below {
    async fn list(&self, known: &HashSet<String>) -> Result<Vec<String>, store::Error> {
        let patience = Patience::for_at_most(self.config.deadline);
        below::list(&self.store, &self.config.location, known, patience).await
    }

    async fn is_one(&self, name: &str) -> Result<bool, store::Error> {
        let patience = match self.config.read_deadline {
            Some(deadline) => Patience::for_at_most(deadline),
            None => Patience::WhileAway,
        };
        below::is_one(&self.store, &self.config.location, name, patience).await
    }

    async fn make(&self, name: &str) -> Result<(), archive::Error> {
        let config = self.config.below(name).ok_or_else(|| self.not_one(name))?;
        // The place itself may be a link; what is in it is not followed out of it (promise S6).
        if let Location::Dir(path) = &config.location
            && path.is_symlink()
        {
            return Err(store::Error {
                kind: ErrorKind::Permanent,
                operation: "make an archive in",
                target: path.display().to_string(),
                message: "it is a symbolic link, which is not followed".into(),
            }
            .into());
        }
        let config = Config {
            create: true,
            ..config
        };
        of_archive(super::archive(&config, Stay::Long, config.deadline).await).map(|_| ())
    }

    async fn open(&self, name: &str, first_tree: Option<u32>) -> Result<One, archive::Error> {
        let config = self.config.below(name).ok_or_else(|| self.not_one(name))?;
        // Asked again: what was listed as a directory may be a link by now.
        let patience = Patience::for_at_most(config.deadline);
        if !below::is_one(&self.store, &self.config.location, name, patience).await? {
            return Err(self.not_one(name));
        }
        let archive = of_archive(super::archive(&config, Stay::Long, config.deadline).await)?;
        let archive = Arc::new(archive);
        let together = self
            .together
            .of_archive(self.opened.fetch_add(1, Ordering::Relaxed));
        let mountpoint = self.mountpoint.join(name);
        let one = rooms(&config, archive, &together, mountpoint, self.longest);
        let one = one.map_err(|error| archive::Error::Staging {
            name: config.place.clone(),
            reason: format!("cache directory: {error}"),
        })?;
        Ok(match first_tree {
            Some(first) => one.numbering_trees_from(first),
            None => one,
        })
    }
}
