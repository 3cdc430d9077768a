//! One unary call: its deadline, and trying again when the server asks for it. Scoring changes nothing on the server,
//! so that a call may always be repeated.

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::iter;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::proto::Priority;

/// How long, how often and how urgently.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Deadline of one try.
    pub timeout: Duration,
    /// Tries after the first.
    pub retries: u32,
    /// What the server serves first under load.
    pub priority: Priority,
}

impl Policy {
    /// Sends until there is an answer that trying again cannot better. Returns it with the duration of the last try.
    ///
    /// # Errors
    /// The last try's status.
    pub async fn call<M, R>(
        &self,
        message: M,
        mut send: impl AsyncFnMut(Request<M>) -> Result<Response<R>, Status>,
    ) -> Result<(R, Duration), Status>
    where
        M: Clone,
    {
        let mut tries = 0;
        loop {
            let start = Instant::now();
            let status = match once(self.timeout, message.clone(), async |request| send(request).await).await {
                Ok(answer) => return Ok((answer, start.elapsed())),
                Err(status) => status,
            };
            if !may_pass(&status) || tries == self.retries {
                return Err(status);
            }
            tokio::time::sleep(wait_before(tries, asked_wait(&status), random_fraction())).await;
            tries += 1;
        }
    }
}

/// Whether the same call may succeed later.
pub fn may_pass(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::Unavailable)
}

/// How long the server asks to wait before the next try.
pub fn asked_wait(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// One try. The deadline travels with the call and holds here as well, whatever the server does; it ends in
/// DEADLINE_EXCEEDED. A connection that broke ends in UNAVAILABLE.
///
/// # Errors
/// The status of the server, or one of these two.
pub async fn once<M, R, F>(timeout: Duration, message: M, send: impl FnOnce(Request<M>) -> F) -> Result<R, Status>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let expired = || Status::deadline_exceeded(format!("no answer within {} s", timeout.as_secs_f64()));
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    let start = Instant::now();
    match tokio::time::timeout(timeout, send(request)).await {
        Err(_elapsed) => Err(expired()),
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // Nobody cancels here: tonic says so of a deadline that it watches itself, on either side.
        Ok(Err(status)) if status.code() == Code::Cancelled && start.elapsed() >= timeout => Err(expired()),
        // Only what happened on this side has a source. tonic calls many broken connections UNKNOWN or CANCELLED.
        Ok(Err(status)) if is_broken_connection(&status) => Err(Status::unavailable(root_cause(&status))),
        Ok(Err(status)) if is_unreadable_answer(&status) => {
            Err(Status::internal(format!("the server's answer cannot be read: {}", status.message())))
        }
        Ok(Err(status)) => Err(status),
    }
}

/// The codec calls what does not decode an invalid argument; here it is the server that sent it.
fn is_unreadable_answer(status: &Status) -> bool {
    status.source().is_some() && status.code() == Code::InvalidArgument
}

fn is_broken_connection(status: &Status) -> bool {
    status.source().is_some() && matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Unavailable)
}

/// The server's wish and up to a quarter more, or from half to all of 0.5 s, 1 s, 2 s … 30 s, so that calls that were
/// refused together do not come back together. `fraction` is in [0, 1].
pub fn wait_before(tries: u32, asked: Option<Duration>, fraction: f64) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(30);
    match asked {
        Some(delay) => delay.saturating_add(delay.mul_f64(fraction / 4.0)),
        None => FIRST.saturating_mul(2_u32.saturating_pow(tries)).min(LONGEST).mul_f64(0.5 + fraction / 2.0),
    }
}

/// In [0, 1]; good enough to spread retries.
pub fn random_fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// The error and its causes, the innermost last.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&cause| cause.source())
}

/// The innermost cause: tonic's own messages stop at "transport error".
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// `CODE: message`.
pub fn describe(status: &Status) -> String {
    format!("{}: {}", code_name(status.code()), status.message())
}

/// The canonical name of a gRPC status code.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_wish_is_never_undercut() {
        let asked = Duration::from_secs(4);
        assert_eq!(wait_before(7, Some(asked), 0.0), asked);
        assert_eq!(wait_before(0, Some(asked), 1.0), Duration::from_secs(5));
        assert!(wait_before(0, Some(Duration::MAX / 8), 1.0) >= Duration::MAX / 8);
    }

    #[test]
    fn without_a_wish_the_wait_doubles_up_to_a_cap() {
        let waits: Vec<f64> = (0..9).map(|tries| wait_before(tries, None, 1.0).as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(wait_before(u32::MAX, None, 0.0), Duration::from_secs(15));
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_no_fault_of_the_caller() {
        let refused = Status::invalid_argument("prompt: is empty");
        let mut unreadable = refused.clone();
        unreadable.set_source(std::sync::Arc::new(std::io::Error::other("broken")));
        for (status, expected) in [(refused, Code::InvalidArgument), (unreadable, Code::Internal)] {
            let ended = once(Duration::from_secs(60), (), async |_| Err::<Response<()>, _>(status.clone())).await;
            assert_eq!(ended.unwrap_err().code(), expected);
        }
    }

    #[test]
    fn fractions_stay_in_their_range() {
        assert!((0..1000).all(|_| (0.0..=1.0).contains(&random_fraction())));
    }
}
