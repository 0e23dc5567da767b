//! Which request gets which answer, and who may ask.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, ORIGIN};
use hyper::{HeaderMap, Method, Request, StatusCode};
use tokio::sync::{Mutex, Semaphore, watch};

use super::answer::{self, Answer};
use super::requests::Requests;
use super::wal;
use crate::agent::Program;
use crate::agent::state::State;
use crate::metrics::Rooms;
use crate::metrics::exposition::CONTENT_TYPE;
use crate::overview::{Form, Watched};
use crate::store::Patience;

/// What answers.
#[derive(Debug)]
pub struct Side {
    /// What archives and reads.
    pub(crate) rooms: Arc<Rooms>,
    /// What looks at its state, and all that is counted.
    pub(crate) watched: Arc<Watched>,
    /// What an agent has done.
    pub(crate) jobs: Arc<State>,
    /// What was asked.
    pub(crate) requests: Arc<Requests>,
    /// What takes backups.
    pub(crate) program: Program,
    /// The server's `pg_wal`, if that is known.
    pub(crate) pg_wal: Option<PathBuf>,
    /// What a client has to say, if anything.
    pub(crate) token: Option<String>,
    /// How long archiving may take.
    pub(crate) deadline: Duration,
    /// How long reading may; `None`: as long as the store is away.
    pub(crate) read_deadline: Option<Duration>,
    /// A place of each body that is taken.
    pub(crate) bodies: Semaphore,
    /// Held while a backup is taken.
    pub(crate) backing_up: Mutex<()>,
    /// Says when the process is to end.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Side {
    /// All that it tells to who watches.
    pub fn watched(&self) -> Arc<Watched> {
        self.watched.clone()
    }

    /// How long a reader waits.
    pub(super) fn patience(&self) -> Patience {
        self.read_deadline
            .map_or(Patience::Forever, Patience::for_at_most)
    }

    /// The answer to a request, counted.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = self.answer_to(request).await;
        self.requests.answered(&method, &path, answer.status());
        answer
    }

    async fn answer_to(&self, request: Request<Incoming>) -> Answer {
        if let Some(refusal) = self.refusal(request.headers()) {
            return unread(request.into_body(), refusal).await;
        }
        let path = request.uri().path().to_owned();
        let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let method = request.method().clone();
        let asks = method == Method::GET || method == Method::HEAD;
        let acts = method == Method::GET || method == Method::POST;
        match path[..] {
            ["ping"] if asks => answer::text(StatusCode::OK, "pong"),
            ["status"] if asks => self.told(Form::Screen, "text/plain; charset=utf-8").await,
            ["status.json"] if asks => self.told(Form::Json, "application/json").await,
            ["status.svg"] if asks => self.told(Form::Picture, "image/svg+xml").await,
            ["metrics"] if asks => answer::typed(StatusCode::OK, CONTENT_TYPE, self.watched.metrics().await),
            ["backup-list"] if asks => self.list().await,
            ["backup-push"] if acts => self.back_up().await,
            ["wal-push", name] if acts => match name.parse() {
                Ok(name) => self.push(name).await,
                Err(_) => wal::no_name(name),
            },
            ["wal", name] if method == Method::PUT => match name.parse() {
                Ok(name) => self.take(name, request.into_body()).await,
                Err(_) => unread(request.into_body(), wal::no_name(name)).await,
            },
            ["wal" | "wal-fetch" | "fetch", name] if asks => match name.parse() {
                Ok(name) => self.give(name).await,
                Err(_) => wal::no_name(name),
            },
            ["absent", name] if asks => match name.parse() {
                Ok(name) => self.absent(name).await,
                Err(_) => wal::no_name(name),
            },
            // 404 would be the end of the archive to who asks for WAL.
            _ => answer::text(
                StatusCode::BAD_REQUEST,
                format!("there is no {method} {}", request.uri().path()),
            ),
        }
    }

    /// Who has no token, where one is needed; and a page in a browser on this machine, which could ask for anything here.
    fn refusal(&self, headers: &HeaderMap) -> Option<Answer> {
        if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
            return Some(answer::text(StatusCode::FORBIDDEN, "not for browsers"));
        }
        let token = self.token.as_ref()?;
        let given = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match given.is_some_and(|given| is_same(given, token.as_bytes())) {
            true => None,
            false => Some(answer::text(
                StatusCode::UNAUTHORIZED,
                "a token is needed: Authorization: Bearer TOKEN",
            )),
        }
    }

    async fn told(&self, form: Form, kind: &'static str) -> Answer {
        match self.watched.looks().told(form).await {
            Ok(text) => answer::typed(StatusCode::OK, kind, text),
            Err(error) => answer::text(StatusCode::SERVICE_UNAVAILABLE, error),
        }
    }
}

/// The answer to who still sends: without that read, he would find a broken connection and no answer.
async fn unread(mut body: Incoming, answer: Answer) -> Answer {
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > MOST_UNREAD_BYTES {
                break;
            }
        }
    };
    // Who sends nothing must not keep the place of others, least of all if he may not even ask.
    let _ = tokio::time::timeout(UNREAD, rest).await;
    answer
}

/// How long is read what nobody wants.
const UNREAD: Duration = Duration::from_secs(2);

/// Bytes of a body that are read though nobody wants them: a segment of the usual size.
const MOST_UNREAD_BYTES: usize = 16 << 20;

/// Takes as long for what is nearly right as for what is not.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    blake3::hash(given) == blake3::hash(token)
}
