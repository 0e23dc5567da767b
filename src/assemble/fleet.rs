//! Several archives of one place, in one mount and in one memory.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Stay, rooms};
use crate::archive::{self, below};
use crate::cache::Cache;
use crate::config::Config;
use crate::mount::fleet::{Archives, Fleet, MOST_OPEN};
use crate::mount::fs::One;
use crate::read::Together;
use crate::store::{self, Patience, Store};

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
    let (read_deadline, buffers) = (config.read_deadline, config.memory.buffers.clone());
    let below = Below {
        config,
        store,
        mountpoint,
        longest,
        together,
        opened: AtomicU32::new(0),
    };
    Fleet::new(Arc::new(below), read_deadline, buffers)
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

    async fn open(&self, name: &str, first_tree: u32) -> Result<One, archive::Error> {
        let config = self
            .config
            .below(name)
            .ok_or_else(|| archive::Error::NotAnArchive {
                place: format!("{}/{name}", self.config.place),
                nearby: vec![],
            })?;
        // Asked again: what was listed as a directory may be a link by now.
        let patience = Patience::for_at_most(config.deadline);
        if !below::is_one(&self.store, &self.config.location, name, patience).await? {
            return Err(archive::Error::NotAnArchive {
                place: config.place,
                nearby: vec![],
            });
        }
        let archive = match super::archive(&config, Stay::Long, config.deadline).await {
            Ok(archive) => Arc::new(archive),
            Err(super::Error::Store(error)) => return Err(error.into()),
            Err(super::Error::Archive(error)) => return Err(error),
        };
        let together = self
            .together
            .of_archive(self.opened.fetch_add(1, Ordering::Relaxed));
        let mountpoint = self.mountpoint.join(name);
        let one = rooms(&config, archive, &together, mountpoint, self.longest);
        let one = one.map_err(|error| archive::Error::Staging {
            name: config.place.clone(),
            reason: format!("cache directory: {error}"),
        })?;
        Ok(one.numbering_trees_from(first_tree))
    }
}
