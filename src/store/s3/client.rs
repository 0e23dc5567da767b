//! Clients: configuration, credentials, and the way a bucket is addressed.
//!
//! Credentials come from the AWS chain: environment, profile files, a process, web identity, container, instance. The
//! SDK reads a file once; another process may replace it. So when a server refuses a key or a token, everything is
//! read again and a new client made, at most once in five seconds.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{
    Builder, ProvideCredentials, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::bounded::Bounded;
use super::error::{Failure, chain};
use crate::store::{Error, ErrorKind, Options, PathStyle};

/// How long finding credentials and region may take: the chain ends at an address that swallows packets where there
/// is no cloud.
const CHAIN_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection may take to be there.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Credentials are not read again sooner than this after the last time.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Where no region is set anywhere; what servers other than AWS mostly expect.
const USUAL_REGION: &str = "us-east-1";

/// A client, and how many there were before it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    config: SdkConfig,
    path_style: bool,
    generation: u64,
    /// When credentials were last read because a server refused them.
    renewed: Option<Instant>,
}

/// The client in use, and the making of its successor.
pub(super) struct Connections {
    options: Options,
    target: String,
    current: RwLock<Arc<Connection>>,
    renewing: tokio::sync::Mutex<()>,
    /// Has a server ever answered? Then its certificate was trusted, and will be again.
    answered: AtomicBool,
}

impl Connection {
    /// The next one, to the same server by another address.
    fn addressing(&self, path_style: bool) -> Self {
        Self {
            client: client(&self.config, path_style),
            path_style,
            generation: self.generation + 1,
            ..self.clone()
        }
    }
}

impl Connections {
    /// Finds credentials, and asks nothing yet. A server of one's own is addressed with the bucket in the path, AWS with
    /// the bucket in the host name, until [`Connections::arrive`] finds it otherwise.
    pub(super) async fn reach(target: String, options: &Options) -> Result<Self, Error> {
        let config = load(options, &target).await?;
        let path_style = match options.path_style {
            PathStyle::Always => true,
            PathStyle::Never => false,
            PathStyle::Auto => has_endpoint(options, &config),
        };
        let current = Connection {
            client: client(&config, path_style),
            config,
            path_style,
            generation: 0,
            renewed: None,
        };
        Ok(Self {
            options: options.clone(),
            target,
            current: RwLock::new(Arc::new(current)),
            renewing: tokio::sync::Mutex::default(),
            answered: AtomicBool::new(false),
        })
    }

    /// Asks for one page of the listing to see that the bucket is there and how it is addressed: the other way, if the
    /// server says no.
    pub(super) async fn arrive(&self, bucket: &str, prefix: &str) -> Result<(), Error> {
        let used = self.current();
        let Err(refused) = look(&used.client, bucket, prefix).await else {
            self.note_answer();
            return Ok(());
        };
        if self.options.path_style == PathStyle::Auto && refused.kind() != ErrorKind::Transient {
            let other = used.addressing(!used.path_style);
            if look(&other.client, bucket, prefix).await.is_ok() {
                self.replace(other);
                return Ok(());
            }
        }
        let target = self.target.clone();
        Err(Error::new(
            self.kind_of(&refused),
            "open",
            target,
            refused.advice(),
        ))
    }

    /// For the person who wrote the address, where nobody answers.
    pub(super) fn advice(&self) -> String {
        match &self.options.endpoint {
            Some(endpoint) => format!("is {endpoint} the right server, and does it answer from here?"),
            None => "does AWS answer from here? Another S3 server is named by --endpoint or AWS_ENDPOINT_URL"
                .into(),
        }
    }

    fn replace(&self, next: Connection) {
        *self.current.write().expect("no panic inside") = Arc::new(next);
    }

    pub(super) fn current(&self) -> Arc<Connection> {
        Arc::clone(&self.current.read().expect("no panic inside"))
    }

    /// What to tell of a failed request. If it failed for its credentials and others could be had, it becomes
    /// transient: the next attempt uses them.
    pub(super) async fn failed<E>(
        &self,
        used: &Connection,
        operation: &'static str,
        target: String,
        error: &SdkError<E, HttpResponse>,
    ) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = Failure::of(error);
        let renewed = failure.is_of_credentials() && self.renew(used).await;
        let kind = if renewed {
            ErrorKind::Transient
        } else {
            self.kind_of(&failure)
        };
        Error::new(kind, operation, target, failure.advice())
    }

    /// A server has answered, so whoever vouches for it is trusted.
    pub(super) fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// No TLS with a server that has never answered is a mistake in an address or a certificate, and told at once. Later
    /// on it is waited out: somebody will mend it, and a recovery must not end for it.
    fn kind_of(&self, failure: &Failure) -> ErrorKind {
        if failure.status.is_some() {
            self.note_answer();
        }
        if failure.tls_hint().is_some() && !self.answered.load(Ordering::Relaxed) {
            return ErrorKind::Permanent;
        }
        failure.kind()
    }

    /// Reads the credentials again. `false`: that was just done, or did not succeed.
    async fn renew(&self, used: &Connection) -> bool {
        let _one_at_a_time = self.renewing.lock().await;
        let current = self.current();
        if current.generation != used.generation {
            return true;
        }
        if current.renewed.is_some_and(|last| last.elapsed() < RENEW_EVERY) {
            return false;
        }
        let Ok(config) = load(&self.options, &self.target).await else {
            return false;
        };
        self.replace(Connection {
            client: client(&config, current.path_style),
            config,
            path_style: current.path_style,
            generation: current.generation + 1,
            renewed: Some(Instant::now()),
        });
        tracing::info!(
            "{}: the server refused the credentials; read them again",
            self.target
        );
        true
    }
}

/// Configuration with credentials that were found, if not yet tried.
async fn load(options: &Options, target: &str) -> Result<SdkConfig, Error> {
    let late = |_| {
        denied(
            options,
            target,
            format!("none found within {} s", CHAIN_WITHIN.as_secs()),
        )
    };
    tokio::time::timeout(CHAIN_WITHIN, find(options, target))
        .await
        .map_err(late)?
}

async fn find(options: &Options, target: &str) -> Result<SdkConfig, Error> {
    let time_outs = TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(region(options).await)
        .retry_config(RetryConfig::disabled())
        .timeout_config(time_outs);
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(path) = &options.credentials_file {
        small_file(path).map_err(|why| denied(options, target, why))?;
        loader = loader.credentials_provider(from_file(path, options.profile.as_deref()));
    }
    let config = loader.load().await;
    let provider = config
        .credentials_provider()
        .ok_or_else(|| denied(options, target, "no source of them"))?;
    let found = provider.provide_credentials().await;
    found.map_err(|error| denied(options, target, brief(chain(&error))))?;
    Ok(config)
}

/// Most bytes of a file with access keys.
const MOST_KEYS_BYTES: u64 = 1 << 20;

/// The SDK reads a file to its end, wherever that is. What cannot be looked at it tells itself.
fn small_file(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err("it is no regular file".into()),
        Ok(found) if found.len() > MOST_KEYS_BYTES => {
            Err(format!("it is larger than {MOST_KEYS_BYTES} bytes"))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// That each member of the chain has found nothing takes half a page to say.
fn brief(why: String) -> String {
    if why.contains("no credentials found in chain") {
        "none found".into()
    } else {
        why
    }
}

// Deprecated is only the place of the names: the new one is in a crate that only the SDK depends on.
#[expect(deprecated)]
fn from_file(path: &Path, profile: Option<&str>) -> ProfileFileCredentialsProvider {
    use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
    let files = ProfileFiles::builder()
        .with_file(ProfileFileKind::Credentials, path)
        .build();
    let provider = ProfileFileCredentialsProvider::builder().profile_files(files);
    match profile {
        Some(profile) => provider.profile_name(profile).build(),
        None => provider.build(),
    }
}

fn denied(options: &Options, target: &str, why: impl Into<String>) -> Error {
    let why = why.into();
    let message = match &options.credentials_file {
        Some(path) => format!(
            "no AWS credentials in {} ({why})\n\
             HINT: it has the form of ~/.aws/credentials ([default], aws_access_key_id = ..., aws_secret_access_key = \
             ...), and the user that runs walfs must be able to read it",
            path.display()
        ),
        None => format!(
            "no AWS credentials ({why}); looked at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile in \
             ~/.aws/credentials and ~/.aws/config, web identity, container and instance\n\
             HINT: name a --credentials-file, or set the two variables, or AWS_PROFILE, for the user that runs walfs"
        ),
    };
    Error::new(ErrorKind::Denied, "open", target, message)
}

/// The instance's region is asked for only where the bucket may be AWS's: elsewhere nobody answers that question.
async fn region(options: &Options) -> Region {
    if let Some(region) = &options.region {
        return Region::new(region.clone());
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &options.profile {
        profile = profile.profile_name(name);
    }
    let mut chain =
        RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new()).or_else(profile.build());
    if options.endpoint.is_none() && !endpoint_in_environment() {
        chain = chain.or_else(ImdsRegionProvider::builder().build());
    }
    chain.region().await.unwrap_or(Region::from_static(USUAL_REGION))
}

fn endpoint_in_environment() -> bool {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

fn has_endpoint(options: &Options, config: &SdkConfig) -> bool {
    options.endpoint.is_some() || config.endpoint_url().is_some() || endpoint_in_environment()
}

fn client(config: &SdkConfig, path_style: bool) -> Client {
    let config = Builder::from(config)
        .force_path_style(path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().build())
        .interceptor(Bounded::Refusal)
        .build();
    Client::from_conf(config)
}

/// Does the client find the bucket?
async fn look(client: &Client, bucket: &str, prefix: &str) -> Result<(), Failure> {
    let listing = client.list_objects_v2().bucket(bucket).max_keys(1);
    let listing = if prefix.is_empty() {
        listing
    } else {
        listing.prefix(format!("{prefix}/"))
    };
    let listed = listing.customize().interceptor(Bounded::Answer).send().await;
    listed.map(drop).map_err(|error| Failure::of(&error))
}
