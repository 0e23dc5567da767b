//! Is a server who it says it is?

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Who signs certificates of servers.
#[derive(Debug)]
pub(super) struct Authority {
    /// Follows signatures up to its certificates.
    pub(super) verifier: Arc<WebPkiServerVerifier>,
    /// Those.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// Judges certificates. That a server has the key of the one that it shows is looked at in any case.
#[derive(Debug)]
pub(super) struct Judge {
    /// `None`: any certificate will do.
    pub(super) authority: Option<Authority>,
    /// Must the certificate have the name of the host?
    pub(super) knows_name: bool,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Authority {
    /// Has it signed this certificate? `Ok(false)`: it has, for another host.
    fn has_signed(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<bool, Error> {
        match self
            .verifier
            .verify_server_cert(certificate, between, name, &[], now)
        {
            Ok(_) => Ok(true),
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(false),
            // A certificate that has signed itself, and could sign others: no error of its time or its purpose.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.certificates.contains(certificate) =>
            {
                let parsed = ParsedCertificate::try_from(certificate)?;
                Ok(verify_server_name(&parsed, name).is_ok())
            }
            Err(error) => Err(error),
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(authority) = &self.authority {
            let has_name = authority.has_signed(certificate, between, name, now)?;
            if self.knows_name && !has_name {
                return Err(CertificateError::NotValidForName.into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
