//! What the server must show, and what it is shown: authorities, a certificate, a key. Secrets come from files and the
//! environment, never from the command line, which other users of the machine can read.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::Error;
use super::args::{ServerArgs, TrustArgs};
use super::call;

const KEY_VARIABLE: &str = "PCQA_API_KEY";

/// What a certificate begins with in a PEM file.
const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Sent with every call, where there is one.
#[derive(Debug, Clone)]
pub struct ApiKey(Option<MetadataValue<Ascii>>);

impl ApiKey {
    /// From the file, else from the environment.
    ///
    /// # Errors
    /// [`Error::Usage`] for a file that cannot be read, or what no key can be.
    pub fn of(args: &TrustArgs) -> Result<Self, Error> {
        let (source, text) = match &args.key_file {
            Some(path) => (path.display().to_string(), String::from_utf8(read("key-file", path)?).unwrap_or_default()),
            None => match std::env::var(KEY_VARIABLE) {
                Ok(text) if !text.trim().is_empty() => (KEY_VARIABLE.to_owned(), text),
                _ => return Ok(Self(None)),
            },
        };
        let key = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let value = key.and_then(|key| MetadataValue::try_from(format!("Bearer {key}")).ok());
        let mut value = value.ok_or_else(|| Error::Usage(format!("{source}: holds no API key")))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// `endpoint`, with TLS where the address says `https`.
///
/// # Errors
/// [`Error::Usage`] for files that cannot be read or do not fit each other.
pub fn with_tls(endpoint: Endpoint, args: &ServerArgs) -> Result<Endpoint, Error> {
    let TrustArgs { tls_ca, tls_cert, tls_key, .. } = &args.trust;
    if args.server.scheme_str() != Some("https") {
        return match [tls_ca, tls_cert, tls_key].iter().any(|file| file.is_some()) {
            true => Err(Error::Usage("--tls-ca, --tls-cert and --tls-key need --server https://HOST:PORT".to_owned())),
            false => Ok(endpoint),
        };
    }
    let mut tls = ClientTlsConfig::new();
    tls = match tls_ca {
        Some(path) => {
            let pem = read("tls-ca", path)?;
            if !pem.windows(PEM_CERTIFICATE.len()).any(|part| part == PEM_CERTIFICATE) {
                return Err(Error::Usage(format!("--tls-ca {}: holds no certificate", path.display())));
            }
            tls.ca_certificate(Certificate::from_pem(pem))
        }
        None => tls.with_native_roots(),
    };
    tls = match (tls_cert, tls_key) {
        (Some(cert), Some(key)) => tls.identity(Identity::from_pem(read("tls-cert", cert)?, read("tls-key", key)?)),
        (None, None) => tls,
        _ => return Err(Error::Usage("--tls-cert and --tls-key need each other".to_owned())),
    };
    endpoint.tls_config(tls).map_err(|error| Error::Usage(format!("TLS: {}", call::root_cause(&error))))
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Usage(format!("--{flag} {}: {error}", path.display())))
}
