//! A hub on loopback: what of the Hugging Face hub's protocol a client of files sees, and what goes wrong with it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A repository as it is at its only commit.
#[derive(Clone)]
pub struct Repository {
    pub name: &'static str,
    pub commit: String,
    pub files: Vec<(&'static str, Vec<u8>)>,
    pub card: Value,
    /// Who has no token gets 401, who has another one 403.
    pub gated: bool,
    /// Whether the description has lengths and digests.
    pub digests: bool,
}

impl Repository {
    pub fn new(name: &'static str, licence: &str, files: Vec<(&'static str, Vec<u8>)>) -> Self {
        let commit = hex(name.as_bytes())[..40].to_owned();
        Self { name, commit, files, card: json!({ "license": licence }), gated: false, digests: true }
    }
}

/// What happens to one request for a large file's bytes.
#[derive(Clone)]
pub enum Fault {
    /// The connection breaks after so many bytes.
    Break(usize),
    /// As many bytes as asked for, of which the last is another one.
    Spoil,
    /// All bytes, whatever was asked for.
    Whole,
    /// Without a length, one byte more than there are.
    Longer,
    /// A `Content-Range` that begins elsewhere.
    Elsewhere,
    /// Another length than the hub says.
    Shorter,
    /// All bytes, whatever was asked for, until the connection breaks after so many.
    WholeUntil(usize),
    /// A page, with status 200.
    Page,
    /// Too many requests; to come back in so many seconds.
    Busy(&'static str),
    /// A status with the hub's code and words.
    Status(u16, &'static str, &'static str),
}

/// What the hub was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub host: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
pub struct State {
    pub repositories: Vec<Repository>,
    /// For the next requests for large files, in order.
    pub faults: VecDeque<Fault>,
    /// For the next requests for descriptions.
    pub description_faults: VecDeque<Fault>,
    pub requests: Vec<Request>,
    /// The token that opens gated repositories.
    pub token: Option<&'static str>,
    /// Where large files are redirected to instead of to this machine's other name.
    pub redirect: Option<String>,
}

pub struct Hub {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn new(repositories: Vec<Repository>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { repositories, ..State::default() }));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                thread::spawn(move || serve(stream.unwrap(), port, &state));
            }
        });
        Self { port, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What was asked of the place where large files lie.
    pub fn content_requests(&self) -> Vec<Request> {
        self.state().requests.iter().filter(|request| request.path.starts_with("/content/")).cloned().collect()
    }
}

pub fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn serve(stream: TcpStream, port: u16, state: &Mutex<State>) {
    let Some(request) = read(&stream) else { return };
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let answer = answer(&mut state, &request, port);
    drop(state);
    let mut stream = stream;
    // A client that has seen enough goes away.
    let _ = stream.write_all(&answer);
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, host: String::new(), range: None, authorization: None };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host = value.to_owned(),
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

type Headers<'a> = &'a [(&'a str, String)];

fn response(status: u16, headers: Headers, body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} -\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    if !headers.iter().any(|(name, _)| *name == "Content-Length" || *name == "No-Length") {
        write!(text, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

fn refusal(status: u16, code: &str, message: &str) -> Vec<u8> {
    let headers = [("X-Error-Code", code.to_owned()), ("X-Error-Message", message.to_owned())];
    response(status, &headers, b"{}")
}

fn busy(seconds: &str) -> Vec<u8> {
    response(429, &[("Retry-After", seconds.to_owned())], b"{}")
}

fn page() -> Vec<u8> {
    response(200, &[("Content-Type", "text/html; charset=utf-8".to_owned())], b"<!doctype html><p>Welcome</p>")
}

fn answer(state: &mut State, request: &Request, port: u16) -> Vec<u8> {
    let path = request.path.split('?').next().unwrap_or_default();
    if let Some(digest) = path.strip_prefix("/content/") {
        return content(state, request, digest);
    }
    if let Some(rest) = path.strip_prefix("/api/models/") {
        return describe(state, request, rest);
    }
    // Small hops within the hub, then out to where the bytes are, as the hub has it.
    let (path, hop) = match path.strip_prefix("/api/resolve-cache/") {
        Some(rest) => (format!("/{rest}"), true),
        None => (path.to_owned(), false),
    };
    let Some((name, rest)) = path[1..].split_once("/resolve/") else { return refusal(404, "RepoNotFound", "") };
    let Some(repository) = state.repositories.iter().find(|repository| repository.name == name) else {
        return refusal(404, "RepoNotFound", "Repository not found");
    };
    if let Some(refused) = locked(state, repository, request) {
        return refused;
    }
    let Some((commit, file)) = rest.split_once('/') else { return refusal(404, "EntryNotFound", "") };
    if commit != repository.commit {
        return refusal(404, "RevisionNotFound", "Invalid rev id");
    }
    let Some((_, bytes)) = repository.files.iter().find(|(name, _)| *name == file) else {
        return refusal(404, "EntryNotFound", "Entry not found");
    };
    let commit = ("X-Repo-Commit", repository.commit.clone());
    if !hop {
        return response(307, &[commit, ("Location", format!("/api/resolve-cache{path}"))], b"");
    }
    if !is_large(file) {
        return response(200, &[commit, ("ETag", "\"small\"".to_owned())], bytes);
    }
    let digest = hex(bytes);
    let place = state.redirect.clone().unwrap_or_else(|| format!("http://localhost:{port}/content/{digest}"));
    let headers = [
        commit,
        ("Location", place),
        ("X-Linked-Etag", format!("\"{digest}\"")),
        ("X-Linked-Size", bytes.len().to_string()),
    ];
    response(302, &headers, b"")
}

fn is_large(file: &str) -> bool {
    file.contains("model")
}

/// What somebody without access to `repository` is told.
fn locked(state: &State, repository: &Repository, request: &Request) -> Option<Vec<u8>> {
    if !repository.gated {
        return None;
    }
    match &request.authorization {
        None => Some(refusal(401, "GatedRepo", "Access to this model is restricted. You must have access to it")),
        given if *given == state.token.map(|token| format!("Bearer {token}")) => None,
        _ => Some(refusal(403, "GatedRepo", "Access to this model is restricted and you are not in the list")),
    }
}

fn describe(state: &mut State, request: &Request, rest: &str) -> Vec<u8> {
    match state.description_faults.pop_front() {
        Some(Fault::Status(status, code, message)) => return refusal(status, code, message),
        Some(Fault::Busy(seconds)) => return busy(seconds),
        Some(_) => return page(),
        None => {}
    }
    let Some((name, revision)) = rest.split_once("/revision/") else { return refusal(404, "RepoNotFound", "") };
    let Some(repository) = state.repositories.iter().find(|repository| repository.name == name) else {
        let status = if request.authorization.is_some() { 404 } else { 401 };
        return refusal(status, "RepoNotFound", "Repository not found");
    };
    if !["main", "v1.0", &repository.commit].contains(&revision) {
        return refusal(404, "RevisionNotFound", "Invalid rev id");
    }
    let siblings: Vec<Value> = repository.files.iter().map(|(file, bytes)| sibling(repository, file, bytes)).collect();
    let body = json!({
        "id": name, "sha": repository.commit, "gated": repository.gated, "cardData": repository.card,
        "siblings": siblings,
    });
    response(200, &[("Content-Type", "application/json".to_owned())], body.to_string().as_bytes())
}

fn sibling(repository: &Repository, file: &str, bytes: &[u8]) -> Value {
    match repository.digests {
        true if is_large(file) => json!({
            "rfilename": file, "size": bytes.len(), "lfs": { "sha256": hex(bytes), "size": bytes.len(), "pointerSize": 134 },
        }),
        _ => json!({ "rfilename": file }),
    }
}

fn content(state: &mut State, request: &Request, digest: &str) -> Vec<u8> {
    let files = state.repositories.iter().flat_map(|repository| &repository.files);
    let bytes = files.map(|(_, bytes)| bytes).find(|bytes| hex(bytes) == digest).unwrap().clone();
    let asked =
        request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let start: usize = asked.unwrap_or(0);
    let range =
        |start: usize| ("Content-Range", format!("bytes {start}-{}/{}", bytes.len().saturating_sub(1), bytes.len()));
    let rest = &bytes[start.min(bytes.len())..];
    let status = if asked.is_some() { 206 } else { 200 };
    match state.faults.pop_front() {
        Some(Fault::Break(after)) => {
            let headers = [range(start), ("Content-Length", rest.len().to_string())];
            response(status, &headers, &rest[..after.min(rest.len())])
        }
        Some(Fault::Spoil) => {
            let mut spoilt = rest.to_vec();
            *spoilt.last_mut().unwrap() ^= 1;
            response(status, &[range(start)], &spoilt)
        }
        Some(Fault::Whole) => response(200, &[], &bytes),
        Some(Fault::Longer) => response(status, &[range(start), ("No-Length", "-".to_owned())], &[rest, b"x"].concat()),
        Some(Fault::Elsewhere) => response(206, &[range(start + 1)], &rest[1..]),
        Some(Fault::Shorter) => response(200, &[], &rest[..rest.len() - 1]),
        Some(Fault::WholeUntil(after)) => {
            response(200, &[("Content-Length", bytes.len().to_string())], &bytes[..after.min(bytes.len())])
        }
        Some(Fault::Page) => page(),
        Some(Fault::Busy(seconds)) => busy(seconds),
        Some(Fault::Status(status, code, message)) => refusal(status, code, message),
        None if start >= bytes.len() => refusal(416, "", ""),
        None => response(status, &[range(start)], rest),
    }
}
