//! WAL, backups and the state of an archive by HTTP: for a server in a container that has neither walfs nor a mount (promise
//! A3).
//!
//! - `PUT /wal/NAME` archives the body; `GET /wal-push/NAME` the file of that name in `pg_wal`, as the sidecar of TimescaleDB did.
//!   200 only when it is in the store.
//! - `GET /wal/NAME` (`/wal-fetch/NAME`, `/fetch/NAME`) is its content. 404 only when the store has said that there is none, nor
//!   anything later of its timeline; `GET /absent/NAME` answers that with 200, for clients that do not tell one error from another.
//! - `/ping`, `/status`, `/status.json`, `/status.svg`, `/metrics`, `/backup-list`; `/backup-push` takes a backup.
//!
//! Loopback or a socket file needs no token; anything else does.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

mod answer;
mod jobs;
mod requests;
mod routes;
mod wal;

pub use requests::Requests;
pub use routes::Side;

/// Connections at a time; the next ones wait.
const MOST_CONNECTIONS: usize = 512;

/// Bodies that are taken at a time; the next ones wait, and keep nobody from an answer that needs none.
pub(crate) const MOST_BODIES: usize = 32;

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(30);

/// How long requests may take to end once the process is told to.
const ENDING: Duration = Duration::from_secs(60);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:5000`.
    Address(SocketAddr),
    /// `/run/walfs/http`, for the user of this process alone.
    Socket(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Socket(text.into()));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return format!("127.0.0.1:{port}").parse();
        }
        text.parse().map(Self::Address).map_err(|_| {
            format!("{text:?} is no place to listen like 127.0.0.1:5000, [::1]:5000 or /run/walfs/http")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(out, "{address}"),
            Self::Socket(path) => write!(out, "{}", path.display()),
        }
    }
}

impl Listen {
    /// Can nobody outside of this machine get there?
    pub fn is_private(&self) -> bool {
        match self {
            Self::Address(address) => address.ip().is_loopback(),
            Self::Socket(_) => true,
        }
    }
}

/// Listens, and has not answered anything yet.
#[derive(Debug)]
pub struct Listener(Bound);

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    /// The listener, which file it made, and where.
    Unix((UnixListener, Option<(u64, u64)>), PathBuf),
}

impl Listener {
    /// Listens there. A socket file that nobody listens to any more is replaced.
    ///
    /// # Errors
    /// It cannot.
    pub async fn bind(place: &Listen) -> io::Result<Self> {
        Ok(Self(match place {
            Listen::Address(address) => Bound::Tcp(TcpListener::bind(address).await?),
            Listen::Socket(path) => Bound::Unix(bind_file(path)?, path.clone()),
        }))
    }

    /// Where it listens: with the port that the system has chosen.
    pub fn place(&self) -> String {
        match &self.0 {
            Bound::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|error| error.to_string(), |at| at.to_string()),
            Bound::Unix(_, path) => path.display().to_string(),
        }
    }

    /// The URL by which somebody on this machine gets there; `None`: it is a file.
    pub fn url(&self) -> Option<String> {
        let Bound::Tcp(listener) = &self.0 else {
            return None;
        };
        let mut address = listener.local_addr().ok()?;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Some(format!("http://{address}"))
    }

    /// Answers until `stop` says so; then lets what is under way end.
    pub async fn serve(self, side: Arc<Side>, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await.expect("it is never closed");
                (place, self.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = told(&mut stop) => break,
                next = next => next,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok(stream) => {
                    let (side, stop) = (side.clone(), stop.clone());
                    connections.spawn(async move {
                        converse(stream, side, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        if let Bound::Unix((_, own), path) = &self.0
            && *own == identity(path)
        {
            let _ = std::fs::remove_file(path);
        }
        let _ =
            tokio::time::timeout(ENDING, async { while connections.join_next().await.is_some() {} }).await;
    }

    async fn accept(&self) -> io::Result<Stream> {
        match &self.0 {
            Bound::Tcp(listener) => Ok(Box::new(listener.accept().await?.0)),
            Bound::Unix((listener, _), _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

type Stream = Box<dyn Duplex>;

trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for S {}

async fn converse(stream: Stream, side: Arc<Side>, mut stop: watch::Receiver<bool>) {
    let service = service_fn(|request| {
        let side = side.clone();
        async move { Ok::<_, Infallible>(side.answer(request).await) }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = std::pin::pin!(connection.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection has ended: {error}");
    }
}

/// Comes when it is time to end.
async fn told(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// Only the user of this process gets in.
fn bind_file(path: &Path) -> io::Result<(UnixListener, Option<(u64, u64)>)> {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|found| found.file_type().is_socket());
    // One that listens there is not pushed aside, also where it is another user's.
    let connected = is_socket.then(|| std::os::unix::net::UnixStream::connect(path));
    if let Some(Err(error)) = connected
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok((listener, identity(path)))
}

/// Device and number of a file, by which it is known again.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = path.symlink_metadata().ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_is_known() {
        for (text, private) in [
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("localhost:80", true),
            ("/run/walfs/http", true),
            ("0.0.0.0:5000", false),
            ("[::]:5000", false),
            ("10.0.0.7:5000", false),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().is_private(), private, "{text}");
        }
        for text in ["", "5000", "example.org:5000", "127.0.0.1", "run/walfs"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
