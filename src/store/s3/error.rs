//! What an answer of an S3 server means.
//!
//! The rule above all: "there is no such object" is believed only with S3's own error code for it. A gateway, a captive
//! portal or a wrong URL answer 404 as well, and recovery would end early on their word.

use std::fmt::Write as _;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::ErrorKind;
use crate::printable::shortened;

/// What is kept of a server's code for an error: the longest of S3's has 50.
const CODE_BYTES: usize = 200;

/// What is kept of a server's words.
const MESSAGE_BYTES: usize = 2000;

/// A failed request, without the SDK's types.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// HTTP status, if there was an answer.
    pub(super) status: Option<u16>,
    /// S3's error code, if the answer was S3's.
    pub(super) code: Option<String>,
    /// For people.
    pub(super) message: String,
    /// The region the bucket is in, if the answer tells.
    pub(super) region: Option<String>,
}

impl Failure {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let raw = error.raw_response();
        let status = raw.map(|raw| raw.status().as_u16());
        let code = error
            .code()
            .filter(|code| !code.is_empty())
            .map(|code| shortened(code, CODE_BYTES).into_owned());
        let message = match (status, &code) {
            (Some(status), Some(code)) => {
                format!(
                    "the server answered {status} {code}: {}",
                    error.message().unwrap_or("no message")
                )
            }
            (Some(status), None) => format!("answer {status} that is none of S3's: {}", chain(error)),
            (None, _) => chain(error),
        };
        Self {
            status,
            code,
            message: shortened(&message, MESSAGE_BYTES).into_owned(),
            region: raw.and_then(region_of),
        }
    }

    pub(super) fn kind(&self) -> ErrorKind {
        let by_code = self
            .code
            .as_deref()
            .and_then(|code| kind_of_code(code, self.status));
        by_code.unwrap_or_else(|| kind_of_status(self.status, self.code.is_some()))
    }

    /// Might other credentials, or the same ones read again, succeed?
    pub(super) fn is_of_credentials(&self) -> bool {
        matches!(
            self.code.as_deref(),
            Some(
                "ExpiredToken"
                    | "ExpiredTokenException"
                    | "InvalidAccessKeyId"
                    | "InvalidToken"
                    | "TokenRefreshRequired"
                    | "SignatureDoesNotMatch"
                    | "RequestTimeTooSkewed"
            )
        )
    }

    /// Why no TLS came about, if it was that and waiting will not mend it. Told by the words of rustls, which the SDK passes
    /// on as text. A certificate that is over, or not yet valid, may be one of a clock that is not set yet.
    pub(super) fn tls_hint(&self) -> Option<&'static str> {
        let says = |words: &str| self.status.is_none() && self.message.contains(words);
        let is_of_time = ["xpired", "NotValidYet", "not valid yet"].into_iter().any(says);
        if says("invalid peer certificate") && !is_of_time {
            Some(
                "nobody whom this machine trusts vouches for the server: add its CA to the system's certificates, or \
                 name its file in SSL_CERT_FILE",
            )
        } else if says("InvalidContentType") {
            Some("does it speak http and not https? Then the endpoint begins with http://")
        } else {
            None
        }
    }

    /// The message, with advice where there is some.
    pub(super) fn advice(mut self) -> String {
        let hint = match (self.code.as_deref(), self.status) {
            (None, None) => match self.tls_hint() {
                Some(hint) => hint.into(),
                None => return self.message,
            },
            (
                Some(
                    "AuthorizationHeaderMalformed"
                    | "PermanentRedirect"
                    | "IllegalLocationConstraintException",
                ),
                _,
            )
            | (_, Some(301)) => match &self.region {
                Some(region) => format!("the bucket is in region {region}: set that"),
                None => "is the region, or the endpoint, the bucket's?".into(),
            },
            (Some("NoSuchBucket"), _) => "make the bucket first, or correct its name or the endpoint".into(),
            (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch"), _) => {
                "the access key or its secret is not one this server knows".into()
            }
            (Some("RequestTimeTooSkewed"), _) => "is this machine's clock right?".into(),
            (Some("AccessDenied"), _) | (_, Some(401 | 403)) => {
                "are the keys right, and may they list, read and write under this prefix of the bucket?"
                    .into()
            }
            _ => return self.message,
        };
        let _ = write!(self.message, "\nHINT: {hint}");
        self.message
    }
}

/// `None`: the status decides.
fn kind_of_code(code: &str, status: Option<u16>) -> Option<ErrorKind> {
    Some(match code {
        "NoSuchKey" if status == Some(404) => ErrorKind::NotFound,
        "NoSuchUpload" => ErrorKind::NotFound,
        "PreconditionFailed" => ErrorKind::AlreadyExists,
        "NoSuchBucket" | "PermanentRedirect" | "AuthorizationHeaderMalformed" => ErrorKind::Permanent,
        "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => {
            ErrorKind::Denied
        }
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            ErrorKind::Denied
        }
        "QuotaExceeded" | "QuotaExceededException" | "XMinioStorageFull" => ErrorKind::Permanent,
        // What we sent did not arrive as we sent it: the line, or the server's bad moment.
        "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => {
            ErrorKind::Transient
        }
        "SlowDown"
        | "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "RequestTimeoutException" => ErrorKind::Transient,
        "Throttling" | "ThrottlingException" | "TooManyRequestsException" | "RequestLimitExceeded" => {
            ErrorKind::Transient
        }
        "ConditionalRequestConflict" | "OperationAborted" => ErrorKind::Transient,
        _ => return None,
    })
}

/// `by_s3`: the answer had an S3 error code, if one that is not in the table.
fn kind_of_status(status: Option<u16>, by_s3: bool) -> ErrorKind {
    match status {
        Some(401 | 403) => ErrorKind::Denied,
        Some(412) => ErrorKind::AlreadyExists,
        Some(301 | 308 | 501 | 507) => ErrorKind::Permanent,
        // 404 too: whatever was not found, S3 did not say that it was our object.
        Some(404 | 408 | 409 | 425 | 429) => ErrorKind::Transient,
        Some(400..=499) if by_s3 => ErrorKind::Permanent,
        _ => ErrorKind::Transient,
    }
}

/// The causes, outermost first, in one line: "client error (Connect): tcp connect error: Connection refused". The
/// SDK's outermost two say nothing.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(|cause| cause.to_string());
    let telling: Vec<String> = causes
        .filter(|text| text != "dispatch failure" && text != "io error")
        .collect();
    let text = telling.join(": ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// S3 names the right region in a header or in the error's XML.
fn region_of(raw: &HttpResponse) -> Option<String> {
    if let Some(region) = raw.headers().get("x-amz-bucket-region") {
        return Some(region.to_owned());
    }
    let body = std::str::from_utf8(raw.body().bytes()?).ok()?;
    let (_, rest) = body.split_once("<Region>")?;
    let (region, _) = rest.split_once("</Region>")?;
    let sane = region.len() < 64
        && region
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    sane.then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: &str) -> ErrorKind {
        let code = (!code.is_empty()).then(|| code.to_owned());
        Failure {
            status: Some(status),
            code,
            ..Failure::default()
        }
        .kind()
    }

    #[test]
    fn only_s3_itself_can_say_that_an_object_is_not_there() {
        assert_eq!(kind(404, "NoSuchKey"), ErrorKind::NotFound);
        assert_eq!(kind(404, ""), ErrorKind::Transient);
        assert_eq!(kind(404, "NotFound"), ErrorKind::Transient);
        assert_eq!(kind(503, "NoSuchKey"), ErrorKind::Transient);
        assert_eq!(kind(404, "NoSuchBucket"), ErrorKind::Permanent);
    }

    #[test]
    fn conditions() {
        assert_eq!(kind(412, "PreconditionFailed"), ErrorKind::AlreadyExists);
        assert_eq!(kind(412, ""), ErrorKind::AlreadyExists);
        assert_eq!(kind(200, "PreconditionFailed"), ErrorKind::AlreadyExists);
        assert_eq!(kind(409, "ConditionalRequestConflict"), ErrorKind::Transient);
    }

    #[test]
    fn what_goes_away_and_what_does_not() {
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (200, "InternalError"),
            (429, ""),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
            (400, ""),
            (502, ""),
        ] {
            assert_eq!(kind(status, code), ErrorKind::Transient, "{status} {code}");
        }
        for (status, code) in [
            (507, ""),
            (507, "XMinioStorageFull"),
            (403, "QuotaExceeded"),
            (501, "NotImplemented"),
            (400, "InvalidArgument"),
            (301, "PermanentRedirect"),
        ] {
            assert_eq!(kind(status, code), ErrorKind::Permanent, "{status} {code}");
        }
        for (status, code) in [
            (403, "AccessDenied"),
            (403, ""),
            (401, ""),
            (400, "ExpiredToken"),
            (403, "SignatureDoesNotMatch"),
        ] {
            assert_eq!(kind(status, code), ErrorKind::Denied, "{status} {code}");
        }
    }

    #[test]
    fn no_answer_at_all_is_transient() {
        assert_eq!(Failure::default().kind(), ErrorKind::Transient);
    }

    /// Somebody will renew a certificate that has run out, and a clock will be set.
    #[test]
    fn a_certificate_of_another_time_may_become_good() {
        let failure = |why: &str| Failure {
            message: format!("TLS handshake failed: invalid peer certificate: {why}"),
            ..Failure::default()
        };
        for why in [
            "Expired",
            "certificate expired: verification time 1 (UNIX)",
            "NotValidYet",
            "certificate not valid yet: verification time 1 (UNIX)",
        ] {
            assert_eq!(failure(why).tls_hint(), None, "{why}");
        }
        assert!(failure("UnknownIssuer").advice().contains("SSL_CERT_FILE"));
    }

    #[test]
    fn a_wrong_region_is_told_with_the_right_one() {
        let failure = Failure {
            status: Some(400),
            code: Some("AuthorizationHeaderMalformed".into()),
            message: "m".into(),
            region: Some("eu-west-1".into()),
        };
        assert_eq!(failure.kind(), ErrorKind::Permanent);
        assert!(failure.advice().contains("eu-west-1"));
    }
}
