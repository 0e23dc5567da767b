//! What a signature is made over.
//!
//! A signed request names the SHA-256 of its body, so that nobody on the way can exchange it. Inside TLS nobody can; then
//! the hash is left out, as other clients of S3 do, and archiving a segment is spared a twentieth of its CPU time. Against
//! accidents there is the CRC32C, which is signed with the other headers. By plain http bodies stay signed.

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

/// Leaves the body of a request out of its signature if it goes by https.
#[derive(Debug)]
pub(super) struct TlsVouches;

impl Intercept for TlsVouches {
    fn name(&self) -> &'static str {
        "TlsVouches"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.request().uri().starts_with("https://") {
            config
                .interceptor_state()
                .store_put(PayloadSigningOverride::unsigned_payload());
        }
        Ok(())
    }
}
