//! The table of options, continued: connections, and who is let in.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::ConfigError;
use super::options::{Config, Seconds};

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct TrustOptions {
    /// PEM file of the certificate that the server shows, with those that lead to its authority: turns TLS on. Read
    /// again within two seconds of a change, at SIGHUP at once, as are the other files here: new connections meet the new
    /// one; a broken one changes nothing
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of authorities: a client must show a certificate that one of them signed (mutual TLS)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca: Option<PathBuf>,
    /// File of API keys, of which every call must bring one (`authorization: Bearer KEY`); health and reflection need
    /// none. A line is `NAME:HASH`, as `pcqa-server key --name NAME` prints it, and may go on with `max_calls=N` (calls
    /// in progress) and `max_frames_per_second=X` (an image is 1, a video as many as are scored of it). A name may have
    /// several keys, for rotation, on lines with the same limits, which they share. What is over a limit is refused with
    /// RESOURCE_EXHAUSTED and the time to wait; a key that is taken out is refused at once
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_file: Option<PathBuf>,
    /// Serve whoever reaches the port. Without it, an address beyond loopback needs --keys-file or --tls-client-ca
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false",
          action = clap::ArgAction::Set)]
    pub allow_unprotected: bool,
}

/// How connections live.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct ConnectionOptions {
    /// Age at which a connection is ended, in seconds, each up to a tenth earlier or later: its client is told (GOAWAY),
    /// what it has begun is finished, and it connects anew, perhaps to another replica. Default: never
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_age_seconds: Option<Seconds>,
    /// Time to finish what was begun on a connection that has reached its age, in seconds; then it is cut
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub max_connection_age_grace_seconds: Seconds,
    /// How often a connection is asked for a sign of life, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub keepalive_interval_seconds: Seconds,
    /// Time to give it, in seconds; then the connection is closed and its places are free
    #[arg(long, value_name = "SECONDS", default_value = "20")]
    pub keepalive_timeout_seconds: Seconds,
    /// Open connections; who comes when there are that many is hung up on at once, and can go to another replica. One
    /// address has at most as many as it leaves free. No more than the process may have open files (`ulimit -Hn`), less
    /// 256
    #[arg(long, value_name = "COUNT", default_value = "4096")]
    pub max_connections: NonZeroU32,
    /// Calls that one connection may have open at once; more wait at the client. Each costs memory even where it is
    /// refused
    #[arg(long, value_name = "COUNT", default_value = "1024")]
    pub max_concurrent_streams: NonZeroU32,
    /// Longest headers of a call, in bytes as HTTP/2 counts them (with 32 for each)
    #[arg(long, value_name = "BYTES", default_value = "16384")]
    pub max_header_bytes: NonZeroU32,
}

impl Config {
    /// Refuses half a TLS, and to let everybody in from everywhere unless that is what was asked for.
    pub(super) fn check_trust(&self) -> Result<(), ConfigError> {
        let TrustOptions { tls_certificate, tls_key, tls_client_ca, keys_file, allow_unprotected } = &self.trust;
        let missing = match (tls_certificate, tls_key, tls_client_ca) {
            (Some(_), None, _) => Some(("tls_key", "tls_certificate")),
            (None, Some(_), _) => Some(("tls_certificate", "tls_key")),
            (None, _, Some(_)) => Some(("tls_certificate", "tls_client_ca")),
            _ => None,
        };
        if let Some((missing, given)) = missing {
            return Err(ConfigError(format!("{given}: needs {missing} too")));
        }
        if is_loopback(self.listen.ip()) || *allow_unprotected || keys_file.is_some() || tls_client_ca.is_some() {
            return Ok(());
        }
        let listen = self.listen;
        Err(ConfigError(format!(
            "listen: {listen} can be reached from other machines, and everybody would be let in; set keys_file or \
             tls_client_ca, or allow_unprotected = true if that is meant"
        )))
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
