//! What another archive of the same cluster has, stored here under the same key: only where there is nothing yet.

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::wal::{Committed, Offered, part_ranges};
use super::{Archive, CLUSTER, Cluster, ClusterFile, Error, put_first, put_mode, read_json};
use crate::store::{ByteRange, ErrorKind, Key, Patience};

/// Objects up to this size are stored by one request; larger ones in parts.
pub const SINGLE_PUT_BYTES: u64 = 64 << 20;

impl Archive {
    /// Ties a new archive to the cluster of another one. Returns whose this one is; `None`: neither is anybody's.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Marker`].
    pub async fn adopt_cluster(&self, other: &Self, patience: Patience) -> Result<Option<Cluster>, Error> {
        if let Some(cluster) = self.cluster(patience).await? {
            return Ok(Some(cluster));
        }
        let Some(file) = read_json::<ClusterFile>(&other.store, CLUSTER, patience).await? else {
            return Ok(None);
        };
        let won = put_first(&self.store, CLUSTER, &file, self.marker.put_if_absent, patience).await?;
        self.learn_cluster(&won)
    }

    /// Stores an object as it is. `None`: there is one of this key, and it has other bytes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_copy(
        &self,
        key: &Key,
        object: Bytes,
        patience: Patience,
    ) -> Result<Option<Committed>, Error> {
        let judges = self.marker.put_if_absent;
        if !judges && self.is_there(key, patience).await? {
            return self.is_same(key, &object, patience).await;
        }
        match self
            .store
            .put(key, object.clone(), put_mode(judges), patience)
            .await
        {
            // Somebody was quicker, or the answer to our own first try was lost.
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                self.is_same(key, &object, patience).await
            }
            put => Ok(put.map(|()| Some(Committed::Stored))?),
        }
    }

    /// As [`Archive::put_copy`], of an object that is too long for one request.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_large_copy(
        &self,
        key: &Key,
        object: &dyn Offered,
        patience: Patience,
    ) -> Result<Option<Committed>, Error> {
        let judges = self.marker.complete_if_absent;
        if judges || !self.is_there(key, patience).await? {
            let parts = stream::iter(part_ranges(object.stored_bytes())).then(|range| object.read(range));
            let put = self
                .store
                .put_large(key, parts.boxed(), put_mode(judges), patience)
                .await;
            match put {
                Err(error) if error.kind == ErrorKind::AlreadyExists => {}
                put => return Ok(put.map(|()| Some(Committed::Stored))?),
            }
        }
        match self.seek_table(key, patience).await {
            Ok(table) => Ok((table.hash() == object.hash()).then_some(Committed::AlreadyThere)),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn is_there(&self, key: &Key, patience: Patience) -> Result<bool, Error> {
        match self.store.head(key, patience).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind == ErrorKind::Damaged => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    async fn is_same(
        &self,
        key: &Key,
        object: &Bytes,
        patience: Patience,
    ) -> Result<Option<Committed>, Error> {
        match self
            .store
            .get(key, ByteRange::AtMost(object.len() as u64), patience)
            .await
        {
            Ok(found) if found.bytes == *object => {
                self.store.settle(key, patience).await?;
                Ok(Some(Committed::AlreadyThere))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind == ErrorKind::Damaged => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
