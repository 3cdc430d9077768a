//! `pcqa health`: whether the service can be called now. For health checks of containers and for scripts: one try, no
//! waiting for a start, and the answer is the exit status.

use std::io::{self, Write};

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::args::ServerArgs;
use super::trust::ApiKey;
use super::{Error, call, complain, connect};
use crate::proto::scoring_service_server::SERVICE_NAME;

/// Asks `grpc.health.v1` about the scoring service. Returns whether it is SERVING; otherwise the reason is a line on
/// standard error.
///
/// # Errors
/// [`Error::Usage`] for arguments that cannot be used, [`Error::Output`] when the answer cannot be written.
pub async fn run(server: &ServerArgs) -> Result<bool, Error> {
    let endpoint = connect::endpoint(server)?;
    let key = ApiKey::of(&server.trust)?;
    let problem = match ask(server, &endpoint, key).await {
        Ok(ServingStatus::Serving) => {
            writeln!(io::stdout(), "{}", ServingStatus::Serving.as_str_name())?;
            return Ok(true);
        }
        Ok(status) => status.as_str_name().to_owned(),
        Err(problem) => problem,
    };
    complain("error", &format!("server {}: {problem}", connect::url(server)));
    Ok(false)
}

/// The connect timeout is that of connecting and asking together.
async fn ask(server: &ServerArgs, endpoint: &Endpoint, key: ApiKey) -> Result<ServingStatus, String> {
    let timeout = server.connect_timeout;
    let asking = async {
        let channel =
            endpoint.connect().await.map_err(|error| format!("cannot connect: {}", call::root_cause(&error)))?;
        let mut client = HealthClient::new(InterceptedService::new(channel, key));
        let question = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
        let answer = call::once(timeout, question, async |request| client.check(request).await).await;
        answer.map(|answer| answer.status()).map_err(|status| connect::describe(server, &status))
    };
    let expired = |_| Err(format!("no answer within {} s", timeout.as_secs_f64()));
    tokio::time::timeout(timeout, asking).await.unwrap_or_else(expired)
}
