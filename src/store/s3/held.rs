//! A request body whose last byte waits for leave.
//!
//! A server cannot store an object before it has every byte that its `Content-Length` promised, so what was sent of a
//! body without its last byte can still be withdrawn: by closing the connection. The body is signed and its checksum
//! computed while it is in memory; it is exchanged for this one only when the request leaves, because some servers
//! refuse the signature of a stream over plain http.

use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::store::Leave;

/// Exchanges the body of a request, when it leaves, for one that waits.
#[derive(Debug)]
pub(super) struct HoldBack {
    pub(super) body: Bytes,
    pub(super) leave: Leave,
}

impl Intercept for HoldBack {
    fn name(&self) -> &'static str {
        "HoldBack"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let held = HeldBody::new(self.body.clone(), self.leave.clone());
        *context.request_mut().body_mut() = SdkBody::from_body_1_x(held);
        Ok(())
    }
}

type Waiting = Pin<Box<dyn Future<Output = bool> + Send + Sync>>;

/// All but the last byte at once, the last one when leave is given; an error if it is refused.
struct HeldBody {
    /// What may go now.
    first: Bytes,
    last: Bytes,
    leave: Waiting,
}

impl HeldBody {
    fn new(mut body: Bytes, leave: Leave) -> Self {
        let last = body.split_off(body.len().saturating_sub(1));
        Self {
            first: body,
            last,
            leave: Box::pin(leave.is_given()),
        }
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        if self.last.is_empty() {
            return Poll::Ready(None);
        }
        self.leave.as_mut().poll(context).map(|given| {
            let last = given.then(|| Frame::data(std::mem::take(&mut self.last)));
            Some(last.ok_or_else(|| "withdrawn: it may not be stored".into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.last.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.first.len() + self.last.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::store::leave;

    #[tokio::test]
    async fn the_last_byte_waits() {
        let (grant, leave) = leave();
        let mut body = HeldBody::new(Bytes::from_static(b"object"), leave);
        assert_eq!(body.size_hint().exact(), Some(6));
        let first = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(first.into_data().expect("data"), "objec");
        assert!(futures::poll!(std::pin::pin!(body.frame())).is_pending());
        grant.give();
        let last = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(last.into_data().expect("data"), "t");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn refused_it_never_ends() {
        let (grant, leave) = leave();
        let mut body = HeldBody::new(Bytes::from_static(b"o"), leave);
        drop(grant);
        body.frame().await.expect("a frame").expect_err("withdrawn");
    }
}
