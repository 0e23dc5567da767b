//! In front of the store: logs every request and lets the faults happen.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{Request, Response};
use s3s::service::S3Service;

use super::fault::{Action, Faults, error_xml};
use super::net::Link;
use super::request::{Entry, Log, Logged};

/// The HTTP service of the test server.
pub(crate) struct Front {
    pub(crate) s3: S3Service,
    pub(crate) faults: Faults,
    pub(crate) log: Log,
}

impl Front {
    /// Answers one request. An error ends the connection without an answer.
    pub(crate) async fn serve(
        self: Arc<Self>,
        link: Arc<Link>,
        request: Request<Incoming>,
    ) -> io::Result<Response<Answer>> {
        let logged = Logged::of(&request);
        // In this order: a test that has seen the request in the log may remove the rule at once.
        let fault = self.faults.choose(&logged);
        let entry = self.log.arrived(&logged);
        if let Some((rule, action @ (Action::Hang | Action::Reset))) = &fault {
            if *action == Action::Hang {
                self.faults.removed(*rule).await;
            }
            link.reset();
            return Err(broken("reset before the store was asked"));
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        self.log.update(entry, |logged| logged.body_bytes = body.len());
        // A task of its own: a store goes on with what it has received, also when the client no longer waits.
        let action = fault.map(|(_rule, action)| action);
        tokio::spawn(self.handle(link, entry, head, body, action))
            .await
            .map_err(io::Error::other)?
    }

    async fn handle(
        self: Arc<Self>,
        link: Arc<Link>,
        entry: Entry,
        head: Parts,
        body: Bytes,
        action: Option<Action>,
    ) -> io::Result<Response<Answer>> {
        let answer = match &action {
            Some(Action::Answer {
                status,
                content_type,
                body,
            }) => plain(*status, content_type, body),
            Some(Action::ErrorIn200) => plain(200, "application/xml", &error_xml("InternalError")),
            Some(Action::Delay(delay)) => {
                tokio::time::sleep(*delay).await;
                self.ask(&link, head, body).await?
            }
            _ => self.ask(&link, head, body).await?,
        };
        if action == Some(Action::LoseAnswer) {
            return Err(broken("the answer is lost"));
        }
        self.log
            .update(entry, |logged| logged.status = Some(answer.status().as_u16()));
        Ok(spoil(answer, action, link))
    }

    async fn ask(&self, link: &Link, head: Parts, body: Bytes) -> io::Result<Response<Bytes>> {
        if link.stopped() {
            return Err(broken("the server was stopped"));
        }
        let request = Request::from_parts(head, s3s::Body::from(body));
        let answer = self
            .s3
            .call(request)
            .await
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        let (head, body) = answer.into_parts();
        Ok(Response::from_parts(
            head,
            body.collect().await.map_err(io::Error::other)?.to_bytes(),
        ))
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

fn plain(status: u16, content_type: &str, body: &str) -> Response<Bytes> {
    let answer = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type);
    answer
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .expect("a status from 100 to 999 and plain text")
}

/// Makes the answer's body one that arrives damaged, if the action says so.
fn spoil(answer: Response<Bytes>, action: Option<Action>, link: Arc<Link>) -> Response<Answer> {
    let (mut head, mut body) = answer.into_parts();
    // The length of a HEAD's object is there already.
    head.headers
        .entry(CONTENT_LENGTH)
        .or_insert_with(|| body.len().into());
    let mut cut = None;
    match action {
        Some(Action::FlipBody(offset)) => body = flipped(&body, offset),
        Some(Action::CutBody(kept)) if !body.is_empty() => {
            body.truncate(kept.min(body.len() - 1));
            cut = Some(link);
        }
        _ => {}
    }
    Response::from_parts(
        head,
        Answer {
            body: Some(body),
            cut,
        },
    )
}

fn flipped(body: &Bytes, offset: usize) -> Bytes {
    let mut body = body.to_vec();
    if let Some(byte) = body.get_mut(offset) {
        *byte ^= 1;
    }
    body.into()
}

/// The body of an answer: all its bytes, and then perhaps the end of the connection.
pub(crate) struct Answer {
    body: Option<Bytes>,
    cut: Option<Arc<Link>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(body) = self.body.take().filter(|body| !body.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(body))));
        }
        let Some(link) = &self.cut else {
            return Poll::Ready(None);
        };
        // Never wakes: the connection ends by itself when these bytes have been sent.
        link.cut();
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.cut, &self.body) {
            (None, body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            (Some(_), _) => SizeHint::default(),
        }
    }
}
