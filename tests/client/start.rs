//! What `pcqa` makes of a server that is starting, or that never gets ready.

use std::time::Duration;

use pcqa::proto::{Limits, ModelInfo};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::fake::{Server, Start, model};
use super::{Files, PNG, records};

fn full() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(20)));
    Status::with_error_details(Code::ResourceExhausted, "too many calls", details)
}

#[test]
fn a_server_that_is_not_up_yet_is_waited_for() {
    let start = Start { after: Duration::from_millis(700), ..Start::default() };
    let ran = Server::starting(model(), start).pcqa(["info", "--connect-timeout", "60"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_server_that_loads_its_model_or_is_full_is_waited_for() {
    let refusals = vec![full(), Status::unavailable("the model is loading"), full()];
    let server = Server::starting(model(), Start { refusals, ..Start::default() });
    let ran = server.pcqa(["info", "--connect-timeout", "60"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_server_that_never_gets_ready_is_given_up() {
    let refusals = vec![Status::unavailable("the model is loading"); 20];
    let server = Server::starting(model(), Start { refusals, ..Start::default() });
    let ran = server.pcqa(["info", "--connect-timeout", "1"]);
    assert_eq!(ran.code, Some(3));
    let url = format!("http://{}", server.address);
    let problem = "does not describe its model: UNAVAILABLE: the model is loading";
    assert_eq!(ran.stderr, format!("error: server {url}: {problem}\n"));
}

#[test]
fn a_refusal_that_stays_is_believed_at_once() {
    // Asked a second time, this server would answer.
    let start = Start { refusals: vec![Status::permission_denied("not you")], ..Start::default() };
    let ran = Server::starting(model(), start).pcqa(["info", "--connect-timeout", "60"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.ends_with("PERMISSION_DENIED: not you\n"), "{}", ran.stderr);
}

#[test]
fn answers_may_be_longer_than_the_longest_request() {
    let limits = Limits { max_message_bytes: 100, ..model().limits.unwrap() };
    let server = Server::serving(ModelInfo { limits: Some(limits), ..model() });
    let files = Files::new();
    let image = files.media("a.png", PNG, 10);
    let ran = server.pcqa(["score", image.to_str().unwrap(), "--prompt", "p", "--output", "csv"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(records(&ran.stdout).len(), 1);
}
