//! WAL files: a body that is archived, a file of `pg_wal` that is archived, content that is sent.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::answer::{self, Answer};
use super::routes::Side;
use crate::archive::wal::Committed;
use crate::job::wal_file::{self, LONGEST_BYTES, Missing};
use crate::pg::WalName;
use crate::read::PIECE_BYTES;
use crate::staging::Draft;
use crate::staging::wal::WalDraft;

/// How long a body may stall: who sends nothing keeps the place of another.
const SILENCE: Duration = Duration::from_secs(20);

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

impl Side {
    /// Archives the body under this name.
    pub(super) async fn take(&self, name: WalName, mut body: Incoming) -> Answer {
        let announced = body.size_hint().exact();
        let mut draft = self.draft(name);
        let mut place = None;
        loop {
            let Ok(frame) = tokio::time::timeout(SILENCE, body.frame()).await else {
                return answer::text(StatusCode::REQUEST_TIMEOUT, "the body has stalled");
            };
            let Some(frame) = frame else { break };
            let data = match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => data,
                Ok(Err(_)) => continue,
                Err(error) => {
                    return answer::text(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"));
                }
            };
            // Who sends nothing at all takes none.
            if place.is_none() {
                place = Some(self.bodies.acquire().await.expect("never closed"));
            }
            let at = draft.bytes();
            if at + data.len() as u64 > LONGEST_BYTES {
                return answer::text(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "longer than 1 GiB, as no WAL file is",
                );
            }
            if let Err(error) = draft.write(at, &data).await {
                return answer::text(StatusCode::INTERNAL_SERVER_ERROR, error);
            }
        }
        if announced.is_some_and(|announced| announced != draft.bytes()) {
            return answer::text(StatusCode::BAD_REQUEST, "the body broke off");
        }
        self.archive_draft(name, draft).await
    }

    /// Archives the file of this name in the server's `pg_wal`.
    pub(super) async fn push(&self, name: WalName) -> Answer {
        let Some(pg_wal) = &self.pg_wal else {
            return answer::text(
                StatusCode::NOT_FOUND,
                "it is not known where pg_wal is. HINT: pgdata in the configuration, or PGDATA; or send the file by PUT /wal/NAME",
            );
        };
        // PostgreSQL marks a file when it is done with it, before it asks for it to be archived. A segment that it is writing
        // looks whole: it is as long as one, with old bytes behind.
        let mark = pg_wal.join(format!("archive_status/{name}.ready"));
        if !tokio::fs::try_exists(&mark).await.unwrap_or(false) {
            return answer::text(
                StatusCode::CONFLICT,
                format!(
                    "{name} is not archived: PostgreSQL has not marked it as ready, there is no {}",
                    mark.display()
                ),
            );
        }
        match self.read(&pg_wal.join(name.to_string()), name).await {
            Ok(draft) => self.archive_draft(name, draft).await,
            Err(error) => answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("cannot read {name} in {}: {error}", pg_wal.display()),
            ),
        }
    }

    async fn read(&self, path: &Path, name: WalName) -> std::io::Result<Draft> {
        let mut file = tokio::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .await?;
        if !file.metadata().await?.is_file() {
            return Err(std::io::Error::other("it is no regular file"));
        }
        let mut draft = self.draft(name);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let bytes = file.read(&mut buffer).await?;
            let at = draft.bytes();
            match bytes {
                0 => return Ok(draft),
                _ if at + bytes as u64 > LONGEST_BYTES => {
                    return Err(std::io::Error::other(
                        "it is longer than 1 GiB, as no WAL file is",
                    ));
                }
                _ => draft.write(at, &buffer[..bytes]).await?,
            }
        }
    }

    fn draft(&self, name: WalName) -> Draft {
        wal_file::draft(&self.rooms.staging, self.rooms.archive.compression(), name)
    }

    /// 200 only when it is in the store, whole and verified.
    async fn archive_draft(&self, name: WalName, draft: Draft) -> Answer {
        let began = Timestamp::now();
        let mut draft = WalDraft::adopt(self.rooms.archive.clone(), draft, name, self.deadline);
        match draft.finish().await {
            Ok(()) => {
                let is_new = matches!(draft.verdict(), Some(Ok(Committed::Stored)));
                let bytes = draft.bytes();
                self.rooms.metrics.archived(name.to_string(), bytes, is_new);
                if is_new {
                    self.jobs.news.archived(name.to_string(), bytes, began);
                }
                if let Some(fork) = draft.fork() {
                    tracing::warn!("{fork}");
                }
                answer::text(StatusCode::OK, format!("{name} is archived"))
            }
            Err(error) => {
                self.rooms.metrics.failed_files.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("{name} is not archived: {error}");
                answer::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{name} is not archived: {error}"),
                )
            }
        }
    }

    /// The content of a file; 404 only if it is proved that there is none.
    pub(super) async fn give(&self, name: WalName) -> Answer {
        let meta = match wal_file::find(&self.rooms.archive, name, self.patience()).await {
            Ok(Some(meta)) => meta,
            Ok(None) => return answer::text(StatusCode::NOT_FOUND, format!("{name} is not archived")),
            Err(error) => return missing(name, &error),
        };
        // The first piece is read before anything is promised.
        let piece = |at: u64| {
            self.rooms
                .reader
                .read(name, meta.bytes, at, PIECE_BYTES as usize, self.patience())
        };
        let first = match piece(0).await {
            Ok(first) => first,
            Err(error) => {
                tracing::warn!("{name} cannot be read: {error}");
                return answer::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("{name} cannot be read: {error}"),
                );
            }
        };
        let (send, receive) = mpsc::channel::<std::io::Result<Bytes>>(1);
        let (reader, patience) = (self.rooms.reader.clone(), self.patience());
        let metrics = self.rooms.metrics.clone();
        tokio::spawn(async move {
            let mut at = first.len() as u64;
            let mut next = Ok(first);
            loop {
                let is_last = next.is_err();
                let bytes = next.as_ref().map_or(0, |piece| piece.len() as u64);
                metrics.read_bytes.fetch_add(bytes, Ordering::Relaxed);
                if send.send(next).await.is_err() || is_last || at >= meta.bytes {
                    return;
                }
                next = match reader
                    .read(name, meta.bytes, at, PIECE_BYTES as usize, patience)
                    .await
                {
                    Ok(piece) => {
                        at += piece.len() as u64;
                        Ok(piece)
                    }
                    Err(error) => {
                        tracing::warn!("{name} cannot be read: {error}");
                        Err(std::io::Error::other(error.to_string()))
                    }
                };
            }
        });
        let pieces = stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|piece| (piece, receive))
        });
        answer::stream(meta.bytes, pieces)
    }

    /// 200 if it is proved that there is no such file.
    pub(super) async fn absent(&self, name: WalName) -> Answer {
        match wal_file::find(&self.rooms.archive, name, self.patience()).await {
            Ok(None) => answer::text(StatusCode::OK, format!("{name} is not archived")),
            Ok(Some(_)) => answer::text(StatusCode::NOT_FOUND, format!("{name} is archived")),
            Err(error) => missing(name, &error),
        }
    }
}

/// A client must not take it for the end of the archive.
fn missing(name: WalName, error: &Missing) -> Answer {
    tracing::warn!("{name}: {error}");
    answer::text(StatusCode::SERVICE_UNAVAILABLE, error)
}

/// The answer to a name that is none of a WAL file.
pub(super) fn no_name(text: &str) -> Answer {
    answer::text(
        StatusCode::BAD_REQUEST,
        format!("{text:?} is no name of a WAL file"),
    )
}
