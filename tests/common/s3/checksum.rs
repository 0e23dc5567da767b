//! The checksums of S3: which ones a request declares, whether they are right, which one an object keeps.
//!
//! The hash functions are those of `s3s`; the tests of this server compare them with values computed by other means.

use hyper::HeaderMap;
use s3s::crypto::{self, Checksum as _, Md5};
use s3s::{S3Result, s3_error};

/// An algorithm that S3 knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// The name in `x-amz-checksum-algorithm`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The algorithm of that name, in any case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    fn header(self) -> String {
        format!("x-amz-checksum-{}", self.name().to_ascii_lowercase())
    }

    /// The checksum's bytes, big endian.
    pub(crate) fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Crc32 => crypto::Crc32::checksum(data).to_vec(),
            Self::Crc32c => crypto::Crc32c::checksum(data).to_vec(),
            Self::Crc64Nvme => crypto::Crc64Nvme::checksum(data).to_vec(),
            Self::Sha1 => crypto::Sha1::checksum(data).to_vec(),
            Self::Sha256 => crypto::Sha256::checksum(data).to_vec(),
        }
    }
}

/// A checksum as S3 tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) algorithm: Algorithm,
    /// Base64; a composite one ends in `-` and the number of parts.
    pub(crate) value: String,
    /// Made of the parts' checksums, not of the object's bytes.
    pub(crate) composite: bool,
}

impl Sum {
    /// The checksum of a whole object or of one part.
    pub(crate) fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        Self {
            algorithm,
            value: base64(&algorithm.digest(data)),
            composite: false,
        }
    }

    /// The checksum of the parts' checksums.
    pub(crate) fn composite<'a>(algorithm: Algorithm, parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let digests: Vec<Vec<u8>> = parts.map(|part| algorithm.digest(part)).collect();
        let value = format!(
            "{}-{}",
            base64(&algorithm.digest(&digests.concat())),
            digests.len()
        );
        Self {
            algorithm,
            value,
            composite: true,
        }
    }
}

/// Puts a `&Sum` into the one of the five checksum fields of an answer that is its own.
macro_rules! tell_sum {
    ($answer:expr, $sum:expr) => {{
        let value = Some($sum.value.clone());
        match $sum.algorithm {
            $crate::common::s3::checksum::Algorithm::Crc32 => $answer.checksum_crc32 = value,
            $crate::common::s3::checksum::Algorithm::Crc32c => $answer.checksum_crc32c = value,
            $crate::common::s3::checksum::Algorithm::Crc64Nvme => $answer.checksum_crc64nvme = value,
            $crate::common::s3::checksum::Algorithm::Sha1 => $answer.checksum_sha1 = value,
            $crate::common::s3::checksum::Algorithm::Sha256 => $answer.checksum_sha256 = value,
        }
    }};
}
pub(crate) use tell_sum;

/// The checksum that a request declares for its body or object, if any, in a header or a trailer.
///
/// # Errors
/// `InvalidRequest` if it declares two, or names an algorithm and gives no value.
pub(crate) fn declared(headers: &HeaderMap, trailers: &HeaderMap) -> S3Result<Option<(Algorithm, String)>> {
    let value_in = |map: &HeaderMap, name: &str| map.get(name)?.to_str().ok().map(str::to_owned);
    let mut found = Algorithm::ALL.into_iter().filter_map(|algorithm| {
        let name = algorithm.header();
        Some((
            algorithm,
            value_in(headers, &name).or_else(|| value_in(trailers, &name))?,
        ))
    });
    let first = found.next();
    if found.next().is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "Expecting a single x-amz-checksum- header"
        ));
    }
    if first.is_none() && headers.contains_key("x-amz-sdk-checksum-algorithm") {
        return Err(s3_error!(
            InvalidRequest,
            "x-amz-sdk-checksum-algorithm specified, but no value found"
        ));
    }
    Ok(first)
}

/// Checks every checksum that a request declares against the body that arrived. Returns the one to keep.
///
/// # Errors
/// `BadDigest` if one is wrong; see also [`declared`].
pub(crate) fn verify(headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> S3Result<Option<Sum>> {
    if let Some(md5) = headers.get("content-md5")
        && md5.as_bytes() != base64(&Md5::checksum(body)).as_bytes()
    {
        return Err(s3_error!(
            BadDigest,
            "The Content-MD5 you specified did not match what we received."
        ));
    }
    let Some((algorithm, value)) = declared(headers, trailers)? else {
        return Ok(None);
    };
    let sum = Sum::of(algorithm, body);
    if sum.value != value {
        return Err(s3_error!(
            BadDigest,
            "The {} you specified did not match.",
            algorithm.name()
        ));
    }
    Ok(Some(sum))
}

/// The entity tag of a single put: MD5 in hexadecimal.
pub(crate) fn etag(body: &[u8]) -> String {
    hex(&Md5::checksum(body))
}

/// The entity tag of a multipart upload: MD5 of the parts' MD5, and their number.
pub(crate) fn multipart_etag<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let digests: Vec<[u8; 16]> = parts.map(Md5::checksum).collect();
    format!("{}-{}", hex(&Md5::checksum(&digests.concat())), digests.len())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize] as char;
            text.push(if place <= group.len() { letter } else { '=' });
        }
    }
    text
}
