//! The Hugging Face hub, or whatever speaks its protocol at `HF_ENDPOINT`: what a repository holds at a commit, and the
//! bytes of its files.
//!
//! `hf-hub` knows the addresses, the token and the layout of the cache. Files are asked for directly, with the HTTP
//! client that it uses: it gives no way to bound the wait for a silent peer, trusts an answer to be the rest of the file,
//! and does not say why the hub refuses.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::refusal::{Failure, refused, refused_elsewhere};

const PUBLIC: &str = "https://huggingface.co";
/// Longest wait for a connection, and for the next byte of one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest chain of redirections.
const MOST_REDIRECTS: usize = 8;

/// A connection to the hub.
pub(super) struct Hub {
    api: Api,
    agent: Agent,
    cache: Cache,
    endpoint: String,
    token: Option<String>,
}

/// The beginning of an answer that is going to be a file's bytes.
pub(super) struct Answer {
    /// 200 for all of a file, 206 for a part of it.
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// What the hub calls the digest of a large file: its SHA-256.
    pub(super) linked_etag: Option<String>,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, or the public one, with the user's token where there is one. Files are kept in `cache`,
    /// or where the hub's own tools keep them.
    ///
    /// # Errors
    ///
    /// When a variable makes no sense, or there is no place for a cache.
    pub(super) fn from_env(cache: Option<&Path>) -> anyhow::Result<Self> {
        if set("HF_HUB_OFFLINE").is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase())) {
            bail!("HF_HUB_OFFLINE: is set, so nothing is fetched");
        }
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        // It is shown in every other line.
        ensure!(!endpoint.contains('@'), "HF_ENDPOINT: has a name or a password in it: give a token as HF_TOKEN");
        origin(&endpoint).with_context(|| format!("HF_ENDPOINT: is {endpoint:?}"))?;
        let home = home();
        let place = cache.map(Path::to_owned).or_else(|| set_path("HF_HUB_CACHE"));
        let place = place.or_else(|| Some(home.as_ref()?.join("hub")));
        let place = place.context("there is no home directory for downloads: name a place with --cache")?;
        let token = match home {
            Some(home) => token(&Cache::new(home.join("hub")))?,
            None => set("HF_TOKEN"),
        };
        let fits = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            token.as_ref().is_none_or(fits),
            "the token of HF_TOKEN, of HF_TOKEN_PATH or of the hub's login has characters that no token has"
        );
        let cache = Cache::new(place);
        let api = ApiBuilder::from_cache(cache.clone()).with_endpoint(endpoint.clone()).with_token(token.clone());
        let api = api.with_progress(false).build().context("the hub's client cannot be made")?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .accept_encoding("identity")
            .user_agent(concat!("pcqa/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls())
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        Ok(Self { api, agent: agent.into(), cache, endpoint, token })
    }

    /// Where people look at `repository`.
    pub(super) fn page(&self, repository: &str) -> String {
        format!("{}/{repository}", self.endpoint)
    }

    /// The place of `repository` in the cache; `revision` is what was asked for.
    pub(super) fn cached(&self, repository: &str, revision: &str) -> CacheRepo {
        self.cache.repo(Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned()))
    }

    /// The hub's description of `repository` at `revision`, as JSON.
    pub(super) fn describe(&self, repository: &str, revision: &str) -> Result<Vec<u8>, Failure> {
        const LONGEST: u64 = 8 << 20;
        let repo = Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned());
        let request = self.api.repo(repo).info_request().query("blobs", "true").config();
        let request = request.http_status_as_error(false).tls_config(tls()).timeout_global(Some(PATIENCE)).build();
        let response = request.call().map_err(|error| unreached(&self.page(repository), error))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(repository, &response));
        }
        refuse_pages(&response)?;
        let body = response.into_body().into_with_config().limit(LONGEST).read_to_vec();
        body.map_err(|error| Failure::Again(error.into()))
    }

    /// Asks for `file` of `repository` at `commit`, from its byte `from` on.
    pub(super) fn open(&self, repository: &str, commit: &str, file: &str, from: u64) -> Result<Answer, Failure> {
        let repo = Repo::with_revision(repository.to_owned(), RepoType::Model, commit.to_owned());
        let mut url = self.api.repo(repo).url(file);
        let mut linked_etag = None;
        for _ in 0..=MOST_REDIRECTS {
            let response = self.ask(&url, from)?;
            let headers = response.headers();
            if let Some(found) = text(headers, "x-repo-commit").filter(|found| *found != commit) {
                return Err(Failure::Final(anyhow!("{file}: the hub gives commit {found:?}, asked for {commit}")));
            }
            linked_etag = linked_etag.or_else(|| Some(text(headers, "x-linked-etag")?.trim_matches('"').to_owned()));
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    refuse_pages(&response)?;
                    let (parts, body) = response.into_parts();
                    return Ok(Answer { status: parts.status, headers: parts.headers, body, linked_etag });
                }
                status if status.is_redirection() => {
                    let target = text(headers, header::LOCATION.as_str()).unwrap_or_default();
                    url = join(&url, target).map_err(Failure::Final)?;
                }
                _ if self.is_home(&url) => return Err(self.refused(repository, &response)),
                _ => {
                    let host = origin(&url).map(|(_, host, _)| host).unwrap_or_default();
                    return Err(refused_elsewhere(&self.page(repository), &host, &response));
                }
            }
        }
        Err(Failure::Final(anyhow!("{file}: is redirected more than {MOST_REDIRECTS} times")))
    }

    fn ask(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        // Large files are elsewhere, and what is elsewhere need not know the token.
        if let Some(token) = self.token.as_ref().filter(|_| self.is_home(url)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().map_err(|error| unreached(url, error))
    }

    /// Whether `url` is of the hub itself.
    fn is_home(&self, url: &str) -> bool {
        origin(url).ok() == origin(&self.endpoint).ok()
    }

    fn refused(&self, repository: &str, response: &Response<Body>) -> Failure {
        refused(&self.page(repository), self.token.is_some(), response)
    }
}

/// The machine's certificates, so that a company's own are known as well.
fn tls() -> TlsConfig {
    TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build()
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// As [`set`], of a path, which may begin in the user's home as the hub's tools let it.
fn set_path(name: &str) -> Option<PathBuf> {
    let value = set(name)?;
    let in_home = value.strip_prefix("~/").and_then(|rest| Some(env::home_dir()?.join(rest)));
    Some(in_home.unwrap_or_else(|| value.into()))
}

/// Where the hub's tools keep what they know of the user.
fn home() -> Option<PathBuf> {
    let named = set_path("HF_HOME");
    let cache = || set_path("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
    named.or_else(|| Some(cache()?.join("huggingface")))
}

fn token(cache: &Cache) -> anyhow::Result<Option<String>> {
    if let Some(token) = set("HF_TOKEN") {
        return Ok(Some(token));
    }
    if let Some(path) = set_path("HF_TOKEN_PATH") {
        let token = fs::read_to_string(&path).with_context(|| format!("HF_TOKEN_PATH: {path:?}: cannot be read"))?;
        return Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty()));
    }
    Ok(cache.token())
}

/// A header's value, where it is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Captive portals, mirrors that are none and log-in forms answer with pages, and call that success.
fn refuse_pages(response: &Response<Body>) -> Result<(), Failure> {
    let kind = text(response.headers(), header::CONTENT_TYPE.as_str()).unwrap_or_default();
    if kind.starts_with("text/html") {
        let problem = anyhow!("the hub answers with a web page: is HF_ENDPOINT right, is there a portal to log in to?");
        return Err(Failure::Final(problem));
    }
    Ok(())
}

/// Scheme, host and port.
fn origin(url: &str) -> anyhow::Result<(String, String, u16)> {
    let uri: Uri = url.parse().with_context(|| format!("{url:?} is no address"))?;
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    let default = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => bail!("{url:?} is no address of the web"),
    };
    let host = uri.host().with_context(|| format!("{url:?} has no host"))?.to_ascii_lowercase();
    Ok((scheme, host, uri.port_u16().unwrap_or(default)))
}

/// Where `location` is, seen from `url`.
fn join(url: &str, location: &str) -> anyhow::Result<String> {
    let (scheme, ..) = origin(url)?;
    let base: Uri = url.parse()?;
    let authority = base.authority().map(ToString::to_string).unwrap_or_default();
    let target = match location {
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => location.to_owned(),
    };
    let (next, ..) = origin(&target).with_context(|| format!("the hub redirects to {location:?}"))?;
    ensure!(scheme == next || scheme == "http", "the hub redirects from an encrypted connection to {next}");
    Ok(target)
}

/// No answer came from `address`, whose query may be somebody's permission.
fn unreached(address: &str, error: ureq::Error) -> Failure {
    let address = address.split('?').next().unwrap_or_default();
    const PROXIES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
    let proxy = PROXIES.into_iter().find(|name| set(name).is_some());
    let by_way =
        proxy.map(|name| format!(" (by way of {name}, where NO_PROXY does not say otherwise)")).unwrap_or_default();
    let error = match error {
        ureq::Error::Timeout(_) => anyhow!("no answer in {} s", PATIENCE.as_secs()),
        error => error.into(),
    };
    Failure::Again(error.context(format!("{address}{by_way}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_where_they_say() {
        let from = "https://hub.example:8443/a/resolve/main/b";
        assert_eq!(join(from, "/c?d=e").unwrap(), "https://hub.example:8443/c?d=e");
        assert_eq!(join(from, "https://cdn.example/f").unwrap(), "https://cdn.example/f");
        assert_eq!(join(from, "//cdn.example/f").unwrap(), "https://cdn.example/f");
        for refused in ["http://hub.example:8443/c", "ftp://hub.example/c", "c", "", "file:///etc/passwd"] {
            assert!(join(from, refused).is_err(), "{refused:?}");
        }
        assert_eq!(join("http://a.example/b", "https://a.example/b").unwrap(), "https://a.example/b");
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let same = |a: &str, b: &str| origin(a).unwrap() == origin(b).unwrap();
        assert!(same("https://Hub.example/a", "https://hub.example:443/b"));
        assert!(!same("https://hub.example", "http://hub.example"));
        assert!(!same("https://hub.example", "https://hub.example:444"));
        assert!(!same("https://hub.example", "https://hub.example.evil.example"));
        assert!(!same("https://hub.example", "https://hub.example@evil.example"));
        assert!(origin("hub.example").is_err());
    }
}
