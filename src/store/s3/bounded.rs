//! How much of an answer is read.
//!
//! The SDK takes all of an answer into memory, whatever its length, but the body of an object that it was asked for. A
//! broken or hostile server may send without end; so an answer ends in an error after more than any right one has.

use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The longest is a page of a listing: a thousand keys of 1024 bytes at most, each byte spelled as up to six.
const ANSWER_BYTES: u64 = 16 << 20;

/// A refusal has a code, a message and some names.
const REFUSAL_BYTES: u64 = 1 << 20;

/// Bounds an answer.
#[derive(Debug)]
pub(super) enum Bounded {
    /// If it is none of success. Of every request: `read.rs` takes an object's content piece by piece.
    Refusal,
    /// If it is one of success. Of every request but that.
    Answer,
}

impl Intercept for Bounded {
    fn name(&self) -> &'static str {
        "Bounded"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let left = match (self, response.status().is_success()) {
            (Self::Refusal, false) => REFUSAL_BYTES,
            (Self::Answer, true) => ANSWER_BYTES,
            _ => return Ok(()),
        };
        let body = std::mem::replace(response.body_mut(), SdkBody::taken());
        *response.body_mut() = SdkBody::from_body_1_x(BoundedBody { body, left });
        Ok(())
    }
}

/// A body, or an error once more has come than is left.
struct BoundedBody {
    body: SdkBody,
    left: u64,
}

impl Body for BoundedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(Some(Ok(frame))) = polled else {
            return polled;
        };
        let came = frame.data_ref().map_or(0, |data| data.len() as u64);
        Poll::Ready(Some(match self.left.checked_sub(came) {
            Some(left) => {
                self.left = left;
                Ok(frame)
            }
            None => Err("the answer does not end: it is longer than any right one".into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_longer_than_it_may_be_is_an_error() {
        for (left, is_right) in [(6, true), (5, false)] {
            let body = SdkBody::from("object");
            let read = BoundedBody { body, left }.collect().await;
            assert_eq!(read.is_ok(), is_right);
        }
    }
}
