//! TLS from PEM files: what the server shows, and whom it asks for a certificate.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::metrics;

/// Certificates that may change while the server runs: connections that are there keep theirs. Clones change together.
#[derive(Clone)]
pub(in crate::server) struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl Tls {
    /// From the PEM files of the chain, its key and, where callers must show a certificate, the authorities that may
    /// have signed it.
    pub fn new(files: &[Vec<u8>]) -> Result<Self> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(config(files)?)))))
    }

    /// From now on, for new connections. As [`new`](Self::new).
    pub fn change(&self, files: &[Vec<u8>]) -> Result<()> {
        let config = Arc::new(config(files)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn config(files: &[Vec<u8>]) -> Result<ServerConfig> {
    let [certificate, key, client_ca @ ..] = files else { bail!("a certificate and its key are needed") };
    let chain = certificates(certificate).context("the certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the key is no PEM of a private key")?;
    let end = expiry(&chain[0])?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // No client would talk to it that looks at certificates: rather the one before, or no service that seems to be one.
    let left = end.checked_sub(now).context("the certificate has expired")?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        [] => builder.with_no_client_auth(),
        [ca, ..] => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca).context("tls_client_ca")? {
                roots.add(certificate).context("tls_client_ca")?;
            }
            let provider = Arc::new(ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.context("tls_client_ca")?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).context("the certificate and its key")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    metrics::certificate_expiry(end);
    tracing::info!(days = left.as_secs() / 86_400, "the certificate is valid for so long");
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    if found.is_empty() {
        bail!("there is none in the PEM file");
    }
    Ok(found)
}

/// Since 1970.
fn expiry(certificate: &CertificateDer<'_>) -> Result<Duration> {
    let certificate = Certificate::from_der(certificate).context("the certificate cannot be read")?;
    Ok(certificate.tbs_certificate.validity.not_after.to_unix_duration())
}
