//! `pcqa health`: the exit status follows `grpc.health.v1`, and TLS and the key are those of every other command.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use pcqa::proto::scoring_service_server::SERVICE_NAME;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::Files;
use super::fake::{Ran, pcqa};

/// Only `grpc.health.v1`, on a loopback port.
struct Health {
    address: SocketAddr,
    reporter: HealthReporter,
    /// `authorization` of the last call.
    key: Arc<Mutex<Option<String>>>,
    runtime: Runtime,
}

impl Health {
    fn start(identity: Option<Identity>) -> Self {
        let runtime = Runtime::new().unwrap();
        let reporter = HealthReporter::new();
        let key = Arc::new(Mutex::new(None));
        let seen = key.clone();
        let note = move |request: Request<()>| -> Result<Request<()>, Status> {
            let found = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            *seen.lock().unwrap() = found;
            Ok(request)
        };
        let service = HealthServer::with_interceptor(HealthService::from_health_reporter(reporter.clone()), note);
        let address = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut server = Server::builder();
            if let Some(identity) = identity {
                server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
            }
            tokio::spawn(server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
            address
        });
        Self { address, reporter, key, runtime }
    }

    fn say(&self, status: ServingStatus) {
        self.runtime.block_on(self.reporter.set_service_status(SERVICE_NAME, status));
    }

    fn ask(&self, arguments: &[&str]) -> Ran {
        pcqa(&format!("http://{}", self.address), [&["health"], arguments].concat())
    }
}

#[test]
fn the_exit_status_is_that_of_the_scoring_service() {
    let health = Health::start(None);
    health.say(ServingStatus::Serving);
    let ran = health.ask(&[]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "SERVING\n", ""));
    health.say(ServingStatus::NotServing);
    let ran = health.ask(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.stderr, format!("error: server http://{}: NOT_SERVING\n", health.address));
    health.say(ServingStatus::Unknown);
    assert_eq!(health.ask(&[]).code, Some(1));
    health.say(ServingStatus::Serving);
    assert_eq!(health.ask(&[]).code, Some(0));
}

#[test]
fn a_process_that_lives_but_does_not_know_the_service_is_not_ready() {
    let ran = Health::start(None).ask(&[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("NOT_FOUND"), "{}", ran.stderr);
}

#[test]
fn nobody_there_and_nobody_who_answers_are_not_ready() {
    let ran = pcqa("http://127.0.0.1:1", ["health"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.starts_with("error: server http://127.0.0.1:1: cannot connect: "), "{}", ran.stderr);

    // Connections are taken by the kernel, and nobody reads them.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", mute.local_addr().unwrap());
    let ran = pcqa(&server, ["--connect-timeout", "0.3", "health"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.ends_with("no answer within 0.3 s\n"), "{}", ran.stderr);
}

#[test]
fn tls_and_the_key_are_those_of_every_command() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let own = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&own, &authority).unwrap();
    let health = Health::start(Some(Identity::from_pem(certificate.pem(), own.serialize_pem())));
    health.say(ServingStatus::Serving);

    let files = Files::new();
    let authorities = files.add("ca.pem", authority.pem());
    let (authorities, key) = (authorities.to_str().unwrap(), files.add("key", "sesame\n"));
    let server = format!("https://localhost:{}", health.address.port());
    let ran = pcqa(&server, ["health", "--tls-ca", authorities, "--key-file", key.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(health.key.lock().unwrap().as_deref(), Some("Bearer sesame"));

    // Who is not vouched for is not asked, and a server behind TLS is not there for those who speak none.
    assert_eq!(pcqa(&server, ["health"]).code, Some(1));
    let plain = pcqa(&format!("http://{}", health.address), ["--connect-timeout", "5", "health"]);
    assert_eq!(plain.code, Some(1));
    // What cannot be used is no answer about health.
    assert_eq!(pcqa(&server, ["health", "--tls-ca", "missing.pem"]).code, Some(2));
}
