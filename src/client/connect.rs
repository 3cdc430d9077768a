//! One channel to the server, opened together with a look at what it serves.

use std::error::Error as _;
use std::io;
use std::time::{Duration, Instant};

use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::args::ServerArgs;
use super::call;
use super::trust::{self, ApiKey};
use super::{Error, complain};
use crate::proto::scoring_service_client::ScoringServiceClient;
use crate::proto::{GetModelRequest, Limits, ModelInfo};

/// The server's limit is one of requests. Its answers may be longer; this is what gRPC clients take by default.
const USUAL_LIMIT: usize = 4 << 20;

/// Calls with the key, where there is one.
pub type Client = ScoringServiceClient<InterceptedService<Channel, ApiKey>>;

/// A server that answered.
#[derive(Debug, Clone)]
pub struct Session {
    /// Cheap to clone; takes and sends messages as long as the server does.
    pub client: Client,
    /// What the server serves.
    pub model: ModelInfo,
    /// `model.limits`.
    pub limits: Limits,
}

/// A try to reach the server that failed.
struct Fault {
    problem: String,
    /// Whether the next try may go better, and how long the server asks to wait for it.
    again: Option<Option<Duration>>,
}

/// Connects and asks for the model. A server that is not up yet, loads its model or has no place is asked again until
/// the connect timeout is over.
///
/// # Errors
/// [`Error::Server`] when either fails, or when the answer lacks the model or its limits.
pub async fn open(args: &ServerArgs) -> Result<Session, Error> {
    let fail = |problem: String| Error::Server(format!("server {}: {problem}", url(args)));
    let endpoint = endpoint(args)?;
    let key = ApiKey::of(&args.trust)?;
    let start = Instant::now();
    let mut tries = 0;
    let (client, model) = loop {
        let fault = match ask(args, &endpoint, &key).await {
            Ok(found) => break found,
            Err(fault) => fault,
        };
        let wait = fault.again.map(|asked| wait_before(tries, asked));
        match wait.filter(|wait| start.elapsed().saturating_add(*wait) < args.connect_timeout) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(fail(fault.problem)),
        }
        tries += 1;
    };
    let model = model.ok_or_else(|| fail("describes no model".to_owned()))?;
    let limits = model.limits.ok_or_else(|| fail("does not state its limits".to_owned()))?;
    let longest = usize::try_from(limits.max_message_bytes).unwrap_or(usize::MAX);
    let client = client.max_encoding_message_size(longest).max_decoding_message_size(longest.max(USUAL_LIMIT));
    Ok(Session { client, model, limits })
}

/// The server's address, as people write it.
pub fn url(args: &ServerArgs) -> String {
    args.server.to_string().trim_end_matches('/').to_owned()
}

/// How the server is reached; nothing is sent yet.
///
/// # Errors
/// [`Error::Usage`] for files that cannot be read or do not fit each other.
pub fn endpoint(args: &ServerArgs) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from(args.server.clone())
        .user_agent(concat!("pcqa/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Error::Server(format!("server {}: {}", url(args), call::root_cause(&error))))?
        .connect_timeout(args.connect_timeout)
        // Without these a call waits out its whole timeout when the server's machine vanishes.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    trust::with_tls(endpoint, args)
}

/// What ended a first call.
pub fn describe(args: &ServerArgs, status: &Status) -> String {
    let described = call::describe(status);
    // A server that expects TLS hangs up on whoever speaks without: no answer of its own.
    match (args.server.scheme_str(), status.source()) {
        (Some("http"), Some(_)) => format!("{described}; where the server has TLS, its address begins with https://"),
        _ => described,
    }
}

/// One try.
async fn ask(args: &ServerArgs, endpoint: &Endpoint, key: &ApiKey) -> Result<(Client, Option<ModelInfo>), Fault> {
    let channel = endpoint.connect().await.map_err(|error| Fault {
        problem: format!("cannot connect: {}", call::root_cause(&error)),
        again: is_refusal(&error).then_some(None),
    })?;
    let mut client = ScoringServiceClient::with_interceptor(channel, key.clone());
    match call::once(args.connect_timeout, GetModelRequest {}, async |request| client.get_model(request).await).await {
        Ok(answer) => Ok((client, answer.model)),
        Err(status) => Err(Fault {
            problem: format!("does not describe its model: {}", describe(args, &status)),
            again: call::may_pass(&status).then(|| call::asked_wait(&status)),
        }),
    }
}

/// Nobody listens (yet). Other faults, such as a name that does not exist, stay.
fn is_refusal(error: &tonic::transport::Error) -> bool {
    call::causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

/// A start is over soon and asking costs nothing: at most a second, unless the server wishes for more.
fn wait_before(tries: u32, asked: Option<Duration>) -> Duration {
    const LONGEST: Duration = Duration::from_secs(1);
    let wait = call::wait_before(tries, asked, call::random_fraction());
    if asked.is_some() { wait } else { wait.min(LONGEST) }
}

impl Session {
    /// Says on standard error when scores mean nothing.
    pub fn warn_if_untrained(&self) {
        if !self.model.trained {
            let name = &self.model.name;
            complain("warning", &format!("model {name} is untrained: scores show the path and mean nothing"));
        }
    }
}
