//! Where an archive is, as a person writes it, and the way in.
//!
//! `s3://bucket/prefix`, `file:///var/lib/walfs` or a plain path. Parsing touches nothing; [`open`] does, and answers
//! only when the place has answered.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Error, ErrorKind, Patience, Store, dir::Dir, is_component, s3::S3};

/// The place of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Objects of a bucket under a prefix.
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
    /// A directory of this machine (or one that looks so).
    Dir(PathBuf),
}

/// Why a text is not a [`Location`]. What was written is repeated only where it cannot hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Nothing was written.
    #[error("the archive's location is empty\nHINT: write s3://bucket/prefix, file:///directory or a path")]
    Empty,
    /// A scheme that walfs does not know.
    #[error("unknown scheme {scheme}://\nHINT: write s3://bucket/prefix, file:///directory or a path")]
    Scheme {
        /// The part before `://`.
        scheme: String,
    },
    /// `s3://` without a bucket, or with one that no server would take.
    #[error(
        "no bucket name after s3:// (letters, digits, - . _)\nHINT: write s3://bucket/prefix; \
         keys come from the AWS credential chain, the server from its endpoint setting"
    )]
    Bucket,
    /// A prefix with empty or relative components, other characters, or over 256 bytes.
    #[error(
        "{text}: the prefix may have components of A-Z a-z 0-9 - . _ = + @ between single slashes, \
         {MAX_PREFIX_BYTES} bytes in all"
    )]
    Prefix {
        /// What was written.
        text: String,
    },
    /// `file://` with a host or a relative path.
    #[error("{text}: a file URL has an absolute path and no host\nHINT: write file:///directory")]
    FileUrl {
        /// What was written.
        text: String,
    },
}

/// Longest prefix in bytes: with a key of 400 it stays under S3's 1024 (walfs's own keys are under 200, and so fit
/// under Garage's 479).
const MAX_PREFIX_BYTES: usize = 256;

impl Location {
    /// Reads what a person wrote.
    ///
    /// # Errors
    /// Every [`LocationError`].
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        match text.split_once("://") {
            Some(("s3", rest)) => parse_s3(text, rest),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Dir(path.into())),
            Some(("file", _)) => Err(LocationError::FileUrl { text: text.into() }),
            Some((scheme, _)) if is_scheme(scheme) => Err(LocationError::Scheme {
                scheme: scheme.into(),
            }),
            _ => Ok(Self::Dir(text.into())),
        }
    }
}

impl Location {
    /// The place of this name right below; `None` if no archive can have it.
    pub fn below(&self, name: &str) -> Option<Self> {
        match self {
            Self::S3 { bucket, prefix } => {
                let below = match prefix.as_str() {
                    "" => name.to_owned(),
                    above => format!("{above}/{name}"),
                };
                let is_sane = is_prefix_component(name) && below.len() <= MAX_PREFIX_BYTES;
                is_sane.then(|| Self::S3 {
                    bucket: bucket.clone(),
                    prefix: below,
                })
            }
            Self::Dir(directory) => is_component(name).then(|| Self::Dir(directory.join(name))),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(out, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(out, "s3://{bucket}/{prefix}"),
            Self::Dir(path) => write!(out, "{}", path.display()),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
}

fn parse_s3(text: &str, rest: &str) -> Result<Location, LocationError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if !is_bucket(bucket) {
        return Err(LocationError::Bucket);
    }
    let prefix = prefix.trim_matches('/');
    let sane = prefix.len() <= MAX_PREFIX_BYTES && prefix.split('/').all(is_prefix_component);
    if !prefix.is_empty() && !sane {
        return Err(LocationError::Prefix { text: text.into() });
    }
    Ok(Location::S3 {
        bucket: bucket.into(),
        prefix: prefix.into(),
    })
}

/// Capitals, underscores and short names are for old AWS buckets and for other servers: the server judges in the end.
fn is_bucket(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

fn is_prefix_component(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._=+@".contains(&byte);
    !matches!(name, "" | "." | "..") && name.bytes().all(plain)
}

/// How buckets are addressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PathStyle {
    /// Found out when opening.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`.
    Always,
    /// `https://bucket.endpoint/key`.
    Never,
}

/// What may be said about a store beyond its place. Credentials are never among it: they come from the AWS chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// URL of an S3 server that is not AWS. `None`: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the profile, AWS.
    pub endpoint: Option<String>,
    /// `None`: the AWS chain, then `us-east-1`.
    pub region: Option<String>,
    /// How buckets are addressed.
    pub path_style: PathStyle,
    /// Profile of the AWS configuration files. `None`: `AWS_PROFILE`, then `default`.
    pub profile: Option<String>,
    /// Read access keys from this file (of the form of `~/.aws/credentials`), and from nowhere else. It may be
    /// replaced while walfs runs. `None`: the AWS chain.
    pub credentials_file: Option<PathBuf>,
    /// Make the directory if it is not there. No meaning for S3: buckets are never made.
    pub create: bool,
    /// How long opening may take, retries included. 45 s by default.
    pub open_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: PathStyle::Auto,
            profile: None,
            credentials_file: None,
            create: true,
            open_within: Duration::from_secs(45),
        }
    }
}

/// Opens the store of an archive. For S3 this finds credentials, how the bucket is addressed, and that it exists.
///
/// # Errors
/// `Denied` without usable credentials, `Permanent` if the bucket or directory does not exist or cannot be one,
/// `Transient` if the place did not answer in time.
pub async fn open(location: &Location, options: &Options) -> Result<Store, Error> {
    let store = reach(location, options).await?;
    store.arrive(Patience::for_at_most(options.open_within)).await?;
    Ok(store)
}

/// The store of an archive, with which nobody has spoken yet: an S3 server is not asked whether the bucket is there. Until
/// [`Store::arrive`] has returned, or an object that must be there has come, what it says may be of another place.
///
/// # Errors
/// `Denied` without credentials; of a directory those of [`open`].
pub async fn reach(location: &Location, options: &Options) -> Result<Store, Error> {
    match location {
        Location::Dir(path) => Ok(Store::new(Arc::new(
            Dir::open(path.clone(), options.create).await?,
        ))),
        Location::S3 { bucket, prefix } => {
            check_endpoint(&location.to_string(), options.endpoint.as_deref())?;
            let backend = S3::reach(bucket.clone(), prefix.clone(), options).await?;
            Ok(Store::new(Arc::new(backend)))
        }
    }
}

/// Waiting does not mend what is no URL. A name and password in it would be seen by `ps`, and in every log line.
fn check_endpoint(target: &str, endpoint: Option<&str>) -> Result<(), Error> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let wrong = |message: String| Err(Error::new(ErrorKind::Permanent, "open", target, message));
    if endpoint.contains('@') {
        return wrong(
            "the endpoint's URL holds a user name or password\n\
             HINT: write http://host:port; keys come from the credentials file or the AWS credential chain"
                .into(),
        );
    }
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return wrong(format!(
            "the endpoint {endpoint} is no URL\nHINT: write http://host:port or https://host:port"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, prefix: &str) -> Result<Location, LocationError> {
        Ok(Location::S3 {
            bucket: bucket.into(),
            prefix: prefix.into(),
        })
    }

    #[test]
    fn locations_are_read_as_people_write_them() {
        assert_eq!(Location::parse("s3://b/a/c"), s3("b", "a/c"));
        assert_eq!(Location::parse("s3://b/a/c/"), s3("b", "a/c"));
        assert_eq!(Location::parse("s3://b"), s3("b", ""));
        assert_eq!(Location::parse("s3://b/"), s3("b", ""));
        assert_eq!(
            Location::parse("file:///var/x"),
            Ok(Location::Dir("/var/x".into()))
        );
        assert_eq!(
            Location::parse("./some where"),
            Ok(Location::Dir("./some where".into()))
        );
    }

    #[test]
    fn what_is_no_location_is_refused_by_name() {
        assert_eq!(Location::parse(""), Err(LocationError::Empty));
        assert!(
            matches!(Location::parse("gs://b/x"), Err(LocationError::Scheme { scheme }) if scheme == "gs")
        );
        assert_eq!(Location::parse("s3:///x"), Err(LocationError::Bucket));
        assert!(matches!(
            Location::parse("s3://b/a//c"),
            Err(LocationError::Prefix { .. })
        ));
        assert!(matches!(
            Location::parse("s3://b/../c"),
            Err(LocationError::Prefix { .. })
        ));
        assert!(matches!(
            Location::parse("file://host/x"),
            Err(LocationError::FileUrl { .. })
        ));
    }

    #[test]
    fn a_password_in_the_url_is_refused_without_repeating_it() {
        let error = Location::parse("s3://key:hush@b/x").unwrap_err();
        assert!(!error.to_string().contains("hush"));
    }

    #[tokio::test]
    async fn an_endpoint_that_is_no_url_is_refused_at_once_and_a_password_in_it_not_repeated() {
        let refused = |endpoint: &str| {
            let options = Options {
                endpoint: Some(endpoint.into()),
                ..Options::default()
            };
            async move { open(&s3("b", "x").unwrap(), &options).await.unwrap_err() }
        };
        let error = refused("127.0.0.1:9000").await;
        assert_eq!(error.kind, ErrorKind::Permanent);
        assert!(error.to_string().contains("127.0.0.1:9000 is no URL"), "{error}");
        let error = refused("http://key:hush@host").await;
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn a_location_is_shown_as_it_is_written() {
        for text in ["s3://b/a/c", "s3://b", "/var/x"] {
            assert_eq!(Location::parse(text).unwrap().to_string(), text);
        }
    }
}
