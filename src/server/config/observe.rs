//! The table of options, continued: what is told about the service to those who watch it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use http::Uri;
use serde::{Serialize, Serializer};

/// Most sources that can be told apart, and the longest name of one: each is a series of its own in every query.
const MAX_SOURCES: usize = 100;
const MAX_SOURCE_BYTES: usize = 64;

/// What is told to those who watch.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub struct ObserveOptions {
    /// Address and port to serve Prometheus metrics on, at /metrics, with /livez and /readyz for probes. Default: there
    /// is no such port and none are collected
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
    /// Callers to tell apart in metrics, by what they say of themselves in metadata `x-pcqa-source`; who says anything
    /// else counts as `other`
    #[arg(long, value_name = "NAME[,NAME...]")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_sources: Option<Sources>,
    /// Collector to send traces to, by OTLP over gRPC: http://HOST:4317, or https. OTEL_EXPORTER_OTLP_HEADERS and
    /// OTEL_RESOURCE_ATTRIBUTES hold as for any program. Default: none are made
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<Collector>,
    /// Part of the calls to trace, 0 to 1. A call whose `traceparent` says whether it is traced is traced or not as that
    /// says
    #[arg(long, value_name = "RATIO", default_value = "0.01", value_parser = ratio)]
    pub trace_sample_ratio: f64,
}

/// Callers that are told apart; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Arc<[Arc<str>]>);

impl Sources {
    /// As metrics name who says `name` of itself, or nothing.
    pub fn label(&self, name: Option<&[u8]>) -> Arc<str> {
        match name {
            None | Some([]) => "".into(),
            Some(name) => self.0.iter().find(|known| known.as_bytes() == name).cloned().unwrap_or("other".into()),
        }
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        if names.len() > MAX_SOURCES {
            return Err(format!("has {} names, the limit is {MAX_SOURCES}", names.len()));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() || name.len() > MAX_SOURCE_BYTES || !name.chars().all(is_plain) {
                return Err(format!(
                    "expected names of 1 to {MAX_SOURCE_BYTES} letters, digits, - _ . with commas between"
                ));
            }
            if *name == "other" {
                return Err("other is the name of those that are not listed".to_owned());
            }
            if names[..index].contains(name) {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(Self(names.into_iter().map(Arc::from).collect()))
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Serialize for Sources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a collector is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Collector(pub String);

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_address = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
        match text.parse::<Uri>() {
            Ok(url) if is_address(&url) => Ok(Self(text.to_owned())),
            _ => Err("expected http://HOST:PORT or https://HOST:PORT".to_owned()),
        }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_sources_become_labels() {
        let sources: Sources = "nightly, web".parse().unwrap();
        let label = |name: Option<&str>| sources.label(name.map(str::as_bytes)).to_string();
        assert_eq!(label(Some("web")), "web");
        assert_eq!(label(Some("nightly")), "nightly");
        for invented in ["Web", "web,", "a lighthouse", "other"] {
            assert_eq!(label(Some(invented)), "other", "{invented}");
        }
        assert_eq!(label(Some("")), "");
        assert_eq!(label(None), "");
        assert_eq!(&*Sources::default().label(Some(b"web")), "other");
    }
}
