//! One channel to the server, opened together with a look at what it serves.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::args::ServerArgs;
use super::call;
use super::{Error, complain};
use crate::proto::scoring_service_client::ScoringServiceClient;
use crate::proto::{GetModelRequest, Limits, ModelInfo};

/// A server that answered.
#[derive(Debug, Clone)]
pub struct Session {
    /// Cheap to clone; takes and sends messages as long as the server does.
    pub client: ScoringServiceClient<Channel>,
    /// What the server serves.
    pub model: ModelInfo,
    /// `model.limits`.
    pub limits: Limits,
}

/// Connects and asks for the model.
///
/// # Errors
/// [`Error::Server`] when either fails, or when the answer lacks the model or its limits.
pub async fn open(args: &ServerArgs) -> Result<Session, Error> {
    let url = args.server.to_string();
    let url = url.trim_end_matches('/');
    let fail = |problem: String| Error::Server(format!("server {url}: {problem}"));
    let channel = Endpoint::from(args.server.clone())
        .user_agent(concat!("pcqa/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| fail(call::root_cause(&error)))?
        .connect_timeout(args.connect_timeout)
        // Without these a call waits out its whole timeout when the server's machine vanishes.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .connect()
        .await
        .map_err(|error| fail(format!("cannot connect: {}", call::root_cause(&error))))?;
    let mut client = ScoringServiceClient::new(channel);
    let answer = call::once(args.connect_timeout, GetModelRequest {}, async |request| client.get_model(request).await)
        .await
        .map_err(|status| fail(format!("does not describe its model: {}", call::describe(&status))))?;
    let model = answer.model.ok_or_else(|| fail("describes no model".to_owned()))?;
    let limits = model.limits.ok_or_else(|| fail("does not state its limits".to_owned()))?;
    let longest = usize::try_from(limits.max_message_bytes).unwrap_or(usize::MAX);
    let client = client.max_encoding_message_size(longest).max_decoding_message_size(longest);
    Ok(Session { client, model, limits })
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
