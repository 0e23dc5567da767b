//! Answers: a status, a text, or a stream of bytes.

use bytes::Bytes;
use futures::Stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

/// An answer. A stream that fails ends the connection before its promised length: no client takes it for whole.
pub(super) type Answer = Response<BoxBody<Bytes, std::io::Error>>;

/// A line of text, or several.
pub(super) fn text(status: StatusCode, text: impl std::fmt::Display) -> Answer {
    typed(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// A body of a type.
pub(super) fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// So many bytes, as they come.
pub(super) fn stream(
    bytes: u64,
    pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
) -> Answer {
    use futures::TryStreamExt;

    let body = StreamBody::new(pieces.map_ok(Frame::data));
    let mut answer = Response::new(BodyExt::boxed(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, bytes.into());
    answer
}
