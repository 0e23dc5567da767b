//! TLS to a server, by the rules of libpq (`fe-secure-openssl.c`): what is tried, whom walfs trusts, and who it says it is.
//!
//! As there, an authority that is known is heeded whatever the mode: with `prefer` and `require`, too, if there is a file of roots.
//! Stricter than there are the certificates: of version 3, with the server's names in subjectAltName.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;
use super::parameters::Parameters;

mod judge;

use judge::{Authority, Judge};

/// A file that is longer has no certificates.
const MOST_BYTES: u64 = 4 << 20;

/// How PostgreSQL is called in a handshake.
const PROTOCOL: &[u8] = b"postgresql";

/// How a server is reached.
#[derive(Clone)]
pub(super) struct Tls {
    /// What is tried, one after the other.
    pub(super) ways: &'static [SslMode],
    /// What makes a session of it, unless none is made.
    pub(super) connector: Option<MakeRustlsConnect>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tls")
            .field("ways", &self.ways)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const MODES: [(&str, Mode); 6] = [
    ("disable", Mode::Disable),
    ("allow", Mode::Allow),
    ("prefer", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

impl Mode {
    fn of(parameters: &Parameters) -> Result<Self, Error> {
        let of_system = parameters.get("sslrootcert") == Some("system");
        let usual = if of_system { "verify-full" } else { "prefer" };
        let name = parameters.get("sslmode").unwrap_or(usual);
        let known = MODES.into_iter().find(|(known, _)| *known == name);
        let (_, mode) = known.ok_or_else(|| super::target::wrong("sslmode", name, "a mode of TLS"))?;
        let is_direct = parameters.get("sslnegotiation") == Some("direct");
        if (is_direct && mode < Mode::Require) || (of_system && mode < Mode::VerifyFull) {
            let (setting, least) = match of_system {
                true => ("sslrootcert=system", "verify-full"),
                false => ("sslnegotiation=direct", "require"),
            };
            return Err(Error::Settings {
                reason: format!("sslmode={name} is too weak for {setting}.\nHINT: sslmode={least}"),
            });
        }
        Ok(mode)
    }

    fn ways(self) -> &'static [SslMode] {
        match self {
            Self::Disable => &[SslMode::Disable],
            Self::Allow => &[SslMode::Disable, SslMode::Require],
            Self::Prefer => &[SslMode::Prefer, SslMode::Disable],
            _ => &[SslMode::Require],
        }
    }
}

impl Tls {
    /// What the parameters say. A Unix socket has no TLS, whatever the mode is, to libpq as well.
    ///
    /// # Errors
    /// [`Error::Settings`]: a mode or a file that is none.
    pub(super) fn of(
        parameters: &Parameters,
        is_by_network: bool,
        has_name: bool,
        home: Option<&Path>,
    ) -> Result<Self, Error> {
        let mode = Mode::of(parameters)?;
        if mode == Mode::Disable || !is_by_network {
            return Ok(Self {
                ways: Mode::Disable.ways(),
                connector: None,
            });
        }
        if mode == Mode::VerifyFull && !has_name {
            return Err(Error::Settings {
                reason: "sslmode=verify-full, and no host is named whose name the certificate should have.\n\
                         HINT: host names it; hostaddr may stay."
                    .into(),
            });
        }
        let config = Files { parameters, home }.client(mode)?;
        Ok(Self {
            ways: mode.ways(),
            connector: Some(MakeRustlsConnect::new(config)),
        })
    }
}

/// A client's certificate with what has signed it, and its key; the file that the former are in comes first.
type Identity = (PathBuf, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Where certificates and keys are.
struct Files<'a> {
    parameters: &'a Parameters,
    home: Option<&'a Path>,
}

impl Files<'_> {
    fn client(&self, mode: Mode) -> Result<ClientConfig, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let judge = Judge {
            authority: self.authority(mode, &provider)?,
            knows_name: mode == Mode::VerifyFull,
            provider: provider.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions()?)
            .map_err(|error| unusable("the versions of TLS", &error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge));
        let mut config = match self.identity()? {
            None => builder.with_no_client_auth(),
            Some((file, chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable(&file.display().to_string(), &error))?,
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.enable_sni = self.parameters.get("sslsni") != Some("0");
        Ok(config)
    }

    /// Who signs the certificates of servers, if that is known.
    fn authority(&self, mode: Mode, provider: &Arc<CryptoProvider>) -> Result<Option<Authority>, Error> {
        let certificates = match self.parameters.get("sslrootcert") {
            Some("system") => rustls_native_certs::load_native_certs().certs,
            _ => match self.file("sslrootcert", "root.crt") {
                Some((path, bytes)) => parsed(&path, &bytes?)?,
                None if mode < Mode::VerifyCa => return Ok(None),
                None => {
                    return Err(Error::Settings {
                        reason: "the certificate of the server is to be verified, and no authority is known.\n\
                                 HINT: sslrootcert names the file with its certificate, or system, or it is ~/.postgresql/root.crt."
                            .into(),
                    });
                }
            },
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .with_crls(self.revoked()?)
            .build()
            .map_err(|error| unusable("the certificates of the authority (sslrootcert)", &error))?;
        Ok(Some(Authority {
            verifier,
            certificates,
        }))
    }

    /// What the authority has revoked.
    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
        if self.parameters.get("sslcrldir").is_some() {
            return Err(Error::Settings {
                reason: "sslcrldir is set, and walfs reads lists of what was revoked from one file only.\n\
                         HINT: sslcrl names it."
                    .into(),
            });
        }
        match self.file("sslcrl", "root.crl") {
            Some((path, bytes)) => parsed(&path, &bytes?),
            None => Ok(Vec::new()),
        }
    }

    /// Who the client is, if it has a certificate.
    fn identity(&self) -> Result<Option<Identity>, Error> {
        if self.parameters.get("sslcertmode") == Some("disable") {
            return Ok(None);
        }
        let Some((path, bytes)) = self.file("sslcert", "postgresql.crt") else {
            return Ok(None);
        };
        let chain = parsed(&path, &bytes?)?;
        let Some((key_path, key)) = self.file("sslkey", "postgresql.key") else {
            return Err(Error::Settings {
                reason: format!(
                    "{} has a certificate of the client, and its key is nowhere.\n\
                     HINT: sslkey names it, or it is ~/.postgresql/postgresql.key.",
                    path.display()
                ),
            });
        };
        let key = key?;
        check_private(&key_path)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| Error::Settings {
            reason: format!(
                "{} has no key that walfs can read: {error}\nHINT: a key in PEM, without a password.",
                key_path.display()
            ),
        })?;
        Ok(Some((path, chain, key)))
    }

    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, Error> {
        let (least, most) = ("ssl_min_protocol_version", "ssl_max_protocol_version");
        let mut versions = vec![&TLS12, &TLS13];
        match self.parameters.get(least) {
            None | Some("TLSv1" | "TLSv1.1" | "TLSv1.2") => {}
            Some("TLSv1.3") => versions.retain(|version| version.version == TLS13.version),
            Some(other) => return Err(super::target::wrong(least, other, "TLSv1.2 or TLSv1.3")),
        }
        match self.parameters.get(most) {
            None | Some("TLSv1.3") => {}
            Some("TLSv1.2") => versions.retain(|version| version.version == TLS12.version),
            Some(other) => return Err(super::target::wrong(most, other, "TLSv1.2 or TLSv1.3")),
        }
        Ok(versions)
    }

    /// The file that a parameter names; else, if it is there, the one of this name that libpq looks for.
    fn file(&self, parameter: &str, usual: &str) -> Option<(PathBuf, Result<Vec<u8>, Error>)> {
        let usual = || Some(self.home?.join(".postgresql").join(usual)).filter(|path| path.exists());
        let path = self.parameters.get(parameter).map(PathBuf::from).or_else(usual)?;
        let read = content(&path).map_err(|error| Error::Settings {
            reason: format!("cannot read {} ({parameter}): {error}", path.display()),
        });
        Some((path, read))
    }
}

fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of a kind that is in a file, at least one.
fn parsed<T: PemObject>(path: &Path, bytes: &[u8]) -> Result<Vec<T>, Error> {
    let found: Result<Vec<T>, _> = T::pem_slice_iter(bytes).collect();
    let why = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "nothing of that is in it".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::Settings {
        reason: format!("{} is not understood as PEM: {why}", path.display()),
    })
}

/// As libpq, and ssh, want a key: of nobody else's eyes, or root's and of its group's at most.
fn check_private(path: &Path) -> Result<(), Error> {
    let found = std::fs::metadata(path).map_err(|error| unusable(&path.display().to_string(), &error))?;
    let others = match found.uid() {
        0 => 0o037,
        _ => 0o077,
    };
    match found.mode() & others {
        0 => Ok(()),
        _ => Err(Error::Settings {
            reason: format!(
                "the key {} has mode {:o}, and others may read it.\nHINT: chmod 600 {0}; of root's it may be 640.",
                path.display(),
                found.mode() & 0o777
            ),
        }),
    }
}

fn unusable(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Settings {
        reason: format!("{what} cannot be used for TLS: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(pairs: &[(&str, &str)], is_by_network: bool) -> Result<&'static [SslMode], String> {
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            parameters.add(name, value, "").unwrap();
        }
        let tls = Tls::of(&parameters, is_by_network, true, None);
        tls.map(|tls| tls.ways).map_err(|error| error.to_string())
    }

    #[test]
    fn modes_are_those_of_libpq() {
        use SslMode::{Disable, Prefer, Require};
        assert_eq!(ways(&[], true).unwrap(), [Prefer, Disable]);
        assert_eq!(ways(&[("sslmode", "allow")], true).unwrap(), [Disable, Require]);
        assert_eq!(ways(&[("sslmode", "disable")], true).unwrap(), [Disable]);
        assert_eq!(ways(&[("sslmode", "require")], true).unwrap(), [Require]);
        assert_eq!(ways(&[("sslmode", "verify-full")], false).unwrap(), [Disable]);
        for (pairs, told) in [
            (&[("sslmode", "odd")][..], "\"odd\""),
            (&[("sslmode", "verify-ca")], "sslrootcert"),
            (&[("sslrootcert", "/nowhere/ca.crt")], "/nowhere/ca.crt"),
            (
                &[("sslrootcert", "system"), ("sslmode", "require")],
                "verify-full",
            ),
            (&[("sslnegotiation", "direct")], "sslmode=require"),
            (&[("ssl_max_protocol_version", "TLSv1.1")], "TLSv1.2"),
            (&[("sslcert", "/nowhere/client.crt")], "/nowhere/client.crt"),
        ] {
            let said = ways(pairs, true).unwrap_err();
            assert!(said.contains(told), "{said}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |mode| {
            file.as_file()
                .set_permissions(std::fs::Permissions::from_mode(mode))
                .unwrap();
            check_private(file.path())
        };
        assert!(check(0o600).is_ok());
        assert!(check(0o644).unwrap_err().to_string().contains("chmod 600"));
    }
}
