//! Why the hub does not give what was asked for, in words that help.

use std::time::Duration;

use anyhow::anyhow;
use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::hub::text;

/// What went wrong with a request.
pub(super) enum Failure {
    /// May go well the next time.
    Again(anyhow::Error),
    /// May go well after this time, by the hub.
    After(anyhow::Error, Duration),
    /// Will not.
    Final(anyhow::Error),
}

/// What the answer of `host`, where the hub keeps large files, means. Leave to read them ends: the hub gives another.
pub(super) fn refused_elsewhere(page: &str, host: &str, response: &Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let words = "where the hub keeps its files, does not give this one";
    again(anyhow!("{page}: {host}, {words} (HTTP {status})"), response)
}

/// What may go well the next time, which the answer may say the time of.
fn again(error: anyhow::Error, response: &Response<Body>) -> Failure {
    let after = text(response.headers(), "retry-after").and_then(|seconds| seconds.trim().parse().ok());
    match after.map(Duration::from_secs) {
        Some(after) => Failure::After(error, after),
        None => Failure::Again(error),
    }
}

/// What the answer of the hub about the repository at `page` means to somebody who has a token or has none.
pub(super) fn refused(page: &str, has_token: bool, response: &Response<Body>) -> Failure {
    let status = response.status();
    let code = text(response.headers(), "x-error-code").unwrap_or_default();
    let words = match (status, code) {
        (_, "RepoNotFound") if !has_token => {
            "there is no such repository, or it is private: HF_TOKEN opens those of yours"
        }
        (_, "RepoNotFound") => "there is no such repository, or the token has no access to it",
        (_, "RevisionNotFound") => "there is no such revision",
        (_, "EntryNotFound") => "there is no such file",
        (StatusCode::UNAUTHORIZED, _) if has_token => "the hub does not know the token",
        (StatusCode::UNAUTHORIZED, _) => {
            "the hub wants a token: accept the repository's terms on its page, make a token that may read it, and give \
             it as HF_TOKEN"
        }
        (StatusCode::FORBIDDEN, _) if has_token => {
            "the token's owner has no access: ask for it on the repository's page"
        }
        (StatusCode::FORBIDDEN, _) => "the hub gives no access without a token: HF_TOKEN",
        (StatusCode::NOT_FOUND, _) => "there is no such repository, revision or file",
        (StatusCode::TOO_MANY_REQUESTS, _) if has_token => "the hub has had too many requests from here",
        (StatusCode::TOO_MANY_REQUESTS, _) => {
            "the hub has had too many requests from here; it takes more of those who give a token: HF_TOKEN"
        }
        _ => "the hub does not answer as it should",
    };
    let said = text(response.headers(), "x-error-message").map(|said| format!("; the hub says: {}", plain(said)));
    let error = anyhow!("{page}: {words} (HTTP {}{})", status.as_u16(), said.unwrap_or_default());
    let passes = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    if passes { again(error, response) } else { Failure::Final(error) }
}

/// The beginning of what a peer says, fit for a terminal.
pub(super) fn plain(said: &str) -> String {
    said.chars().filter(|character| !character.is_control()).take(200).collect()
}
