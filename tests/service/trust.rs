//! Who is let in: keys, their limits, TLS, client certificates, and files that change while the server runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pcqa::proto::scoring_service_client::ScoringServiceClient;
use pcqa::proto::{
    GetModelRequest, ScoreImageRequest, ScoreStreamRequest, score_stream_request, score_stream_response,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::house::{House, PATIENCE, comes_back_later, server};
use crate::media::png;

/// A new key and its line, as the command prints them.
fn new_key(name: &str) -> (String, String) {
    let output = server().args(["key", "--name", name]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let [key, line] = lines[..] else { panic!("{text}") };
    (key.to_owned(), line.to_owned())
}

fn with_key<M>(message: M, key: &str) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

fn image() -> ScoreImageRequest {
    ScoreImageRequest { prompt: "a lighthouse".to_owned(), image: png(1).into(), ..Default::default() }
}

async fn score(house: &House, key: &str) -> Result<(), Status> {
    house.client().score_image(with_key(image(), key)).await.map(drop)
}

/// Waits for a line of the log that was not there before.
async fn logged(house: &House, what: &str, times: usize) {
    let begin = Instant::now();
    while house.log().matches(what).count() < times {
        assert!(begin.elapsed() < PATIENCE, "no {what:?} in\n{}", house.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nobody_is_let_in_without_a_key_and_health_and_reflection_need_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let (key, line) = new_key("ci");
    fs::write(&file, &line).unwrap();
    let house = House::start(&[&format!("--keys-file={}", file.display())]).await;

    score(&house, &key).await.unwrap();
    let none = house.client().score_image(image()).await.unwrap_err();
    assert_eq!(
        (none.code(), none.message().contains("an API key is needed")),
        (Code::Unauthenticated, true),
        "{none:?}"
    );
    let wrong = score(&house, "pcqa_wrong").await.unwrap_err();
    assert_eq!((wrong.code(), wrong.message().contains("not known")), (Code::Unauthenticated, true), "{wrong:?}");
    let model = house.client().get_model(GetModelRequest {}).await.unwrap_err();
    assert_eq!(model.code(), Code::Unauthenticated);
    let stream = house.client().score_stream(tokio_stream::empty::<ScoreStreamRequest>()).await.unwrap_err();
    assert_eq!(stream.code(), Code::Unauthenticated);

    let asking = HealthCheckRequest { service: "pcqa.v1.ScoringService".to_owned() };
    HealthClient::new(house.channel.clone()).check(asking).await.unwrap();
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(house.channel.clone());
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([question])).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().message_response.is_some());

    let (next, next_line) = new_key("ci");
    fs::write(&file, format!("{line}\n{next_line}\n")).unwrap();
    house.signal(Signal::HUP);
    logged(&house, "the new ones hold", 1).await;
    score(&house, &key).await.unwrap();
    score(&house, &next).await.unwrap();

    fs::write(&file, "broken").unwrap();
    logged(&house, "the old hold", 1).await;
    score(&house, &next).await.unwrap();

    fs::remove_file(&file).unwrap();
    logged(&house, "cannot be read any more: the old hold", 1).await;
    score(&house, &next).await.unwrap();

    fs::write(&file, &next_line).unwrap();
    logged(&house, "the new ones hold", 2).await;
    assert_eq!(score(&house, &key).await.unwrap_err().code(), Code::Unauthenticated);
    score(&house, &next).await.unwrap();
    assert!(!house.log().contains(&key) && !house.log().contains(&next), "no key is logged");
}

#[tokio::test]
async fn a_key_has_its_limits_and_the_next_key_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let ((calls, calls_line), (rate, rate_line), (free, free_line)) =
        (new_key("calls"), new_key("rate"), new_key("free"));
    let lines = format!("{calls_line} max_calls=1\n{rate_line} max_frames_per_second=0.01\n{free_line}\n");
    fs::write(&file, lines).unwrap();
    let house = House::start(&[&format!("--keys-file={}", file.display())]).await;

    let (items, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut open = house.client().score_stream(with_key(requests, &calls)).await.unwrap().into_inner();
    let refused = score(&house, &calls).await.unwrap_err();
    assert!(comes_back_later(&refused) && refused.message().contains("API key calls"), "{refused:?}");

    score(&house, &rate).await.unwrap();
    let refused = score(&house, &rate).await.unwrap_err();
    assert!(comes_back_later(&refused) && refused.message().contains("API key rate"), "{refused:?}");
    for _ in 0..3 {
        score(&house, &free).await.unwrap();
    }
    drop(items);
    assert!(open.message().await.unwrap().is_none());
    drop(open);

    // The rate holds for the items of a stream as well, and costs only them.
    let items = tokio_stream::iter([item("late")]);
    let mut answers = house.client().score_stream(with_key(items, &rate)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().outcome {
        Some(score_stream_response::Outcome::Error(error)) => {
            assert_eq!(error.code, i32::from(Code::ResourceExhausted));
            assert!(error.retry_delay.is_some());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_outlasts_its_key_gets_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let ((leaves, leaves_line), (_, stays_line)) = (new_key("leaves"), new_key("stays"));
    fs::write(&file, format!("{leaves_line}\n{stays_line}\n")).unwrap();
    let house = House::start(&[&format!("--keys-file={}", file.display())]).await;

    let (items, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = house.client().score_stream(with_key(requests, &leaves)).await.unwrap().into_inner();
    items.send(item("before")).await.unwrap();
    let before = answers.message().await.unwrap().unwrap();
    assert!(matches!(before.outcome, Some(score_stream_response::Outcome::Score(_))), "{before:?}");
    fs::write(&file, &stays_line).unwrap();
    house.signal(Signal::HUP);
    logged(&house, "the new ones hold", 1).await;
    items.send(item("after")).await.unwrap();
    match answers.message().await.unwrap().unwrap().outcome {
        Some(score_stream_response::Outcome::Error(error)) => {
            assert_eq!(error.code, i32::from(Code::Unauthenticated), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn item(id: &str) -> ScoreStreamRequest {
    ScoreStreamRequest {
        item_id: id.to_owned(),
        prompt: "a lighthouse".to_owned(),
        media: Some(score_stream_request::Media::Image(png(1).into())),
        ..Default::default()
    }
}

/// An authority with the files of a server and a client that it signed.
struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { directory: tempfile::tempdir().unwrap(), issuer };
        fs::write(authority.file("ca.pem"), authority.issuer.pem()).unwrap();
        for name in ["server", "client"] {
            authority.sign(name);
        }
        authority
    }

    /// NAME.pem and NAME.key anew.
    fn sign(&self, name: &str) {
        self.sign_until(name, 4096);
    }

    /// As [`sign`](Self::sign), valid until this year.
    fn sign_until(&self, name: &str, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn flags(&self, is_mutual: bool) -> Vec<String> {
        let mut flags = vec![
            format!("--tls-certificate={}", self.file("server.pem").display()),
            format!("--tls-key={}", self.file("server.key").display()),
        ];
        flags.extend(is_mutual.then(|| format!("--tls-client-ca={}", self.file("ca.pem").display())));
        flags
    }

    async fn house(&self, is_mutual: bool) -> House {
        let flags = self.flags(is_mutual);
        House::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    fn trusting(&self) -> ClientTlsConfig {
        let ca = fs::read(self.file("ca.pem")).unwrap();
        ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(ca))
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(fs::read(self.file("client.pem")).unwrap(), fs::read(self.file("client.key")).unwrap())
    }
}

async fn connect(
    house: &House,
    tls: ClientTlsConfig,
) -> Result<ScoringServiceClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("https://{}", house.address)).unwrap().tls_config(tls)?;
    Ok(ScoringServiceClient::new(endpoint.connect().await?))
}

#[tokio::test]
async fn certificates_change_without_a_restart_and_broken_ones_do_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let house = authority.house(false).await;
    let mut client = connect(&house, authority.trusting()).await.unwrap();
    client.score_image(image()).await.unwrap();
    connect(&house, other.trusting()).await.unwrap_err();
    house.another_client().score_image(image()).await.unwrap_err();

    // Another key than the certificate's: the pair that was read before holds.
    fs::copy(other.file("server.key"), authority.file("server.key")).unwrap();
    house.signal(Signal::HUP);
    logged(&house, "the old hold", 1).await;
    connect(&house, authority.trusting()).await.unwrap();

    fs::copy(other.file("server.pem"), authority.file("server.pem")).unwrap();
    logged(&house, "the new ones hold", 1).await;
    connect(&house, other.trusting()).await.unwrap().score_image(image()).await.unwrap();
    connect(&house, authority.trusting()).await.unwrap_err();
    client.score_image(image()).await.expect("connections that are there stay");
}

#[tokio::test]
async fn a_certificate_that_has_expired_does_not_replace_one_that_has_not() {
    let authority = Authority::new();
    let house = authority.house(false).await;
    authority.sign_until("server", 2020);
    house.signal(Signal::HUP);
    logged(&house, "the certificate has expired", 1).await;
    connect(&house, authority.trusting()).await.unwrap().score_image(image()).await.unwrap();
    let refused = server().arg("--listen=127.0.0.1:0").args(authority.flags(false)).output().unwrap();
    let log = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && log.contains("the certificate has expired"), "{log}");

    authority.sign("server");
    house.signal(Signal::HUP);
    logged(&house, "the new ones hold", 1).await;
    connect(&house, authority.trusting()).await.unwrap().score_image(image()).await.unwrap();
}

#[tokio::test]
async fn a_client_shows_a_certificate_where_it_must() {
    let (authority, other) = (Authority::new(), Authority::new());
    let house = authority.house(true).await;
    let known = authority.trusting().identity(authority.identity());
    connect(&house, known).await.unwrap().score_image(image()).await.unwrap();
    for stranger in [authority.trusting(), authority.trusting().identity(other.identity())] {
        // The client has finished its part of the handshake before the server looks at its certificate.
        if let Ok(mut client) = connect(&house, stranger).await {
            client.score_image(image()).await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn the_authorities_of_clients_change_without_a_restart() {
    let (authority, other) = (Authority::new(), Authority::new());
    let house = authority.house(true).await;
    let as_known = authority.trusting().identity(authority.identity());
    let as_other = authority.trusting().identity(other.identity());
    let mut open = connect(&house, as_known.clone()).await.unwrap();
    open.score_image(image()).await.unwrap();
    // The client has finished its part of the handshake before the server looks at its certificate.
    let is_let_in = async |tls: &ClientTlsConfig| match connect(&house, tls.clone()).await {
        Ok(mut client) => client.score_image(image()).await.is_ok(),
        Err(_) => false,
    };
    assert!(!is_let_in(&as_other).await);

    fs::write(authority.file("ca.pem"), "no authority").unwrap();
    house.signal(Signal::HUP);
    logged(&house, "the old hold", 1).await;
    assert!(is_let_in(&as_known).await);

    fs::copy(other.file("ca.pem"), authority.file("ca.pem")).unwrap();
    house.signal(Signal::HUP);
    logged(&house, "the new ones hold", 1).await;
    assert!(is_let_in(&as_other).await && !is_let_in(&as_known).await);
    open.score_image(image()).await.expect("connections that are there stay");
}

#[tokio::test]
async fn the_client_speaks_tls_and_brings_its_key() {
    let authority = Authority::new();
    let (key, line) = new_key("ci");
    let (keys, key_file) = (authority.file("keys"), authority.file("key"));
    fs::write(&keys, line).unwrap();
    fs::write(&key_file, &key).unwrap();
    let mut flags = authority.flags(true);
    flags.push(format!("--keys-file={}", keys.display()));
    let house = House::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let port = house.address.rsplit(':').next().unwrap();

    let info = |arguments: &[(&str, &Path)], variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pcqa"));
        command.env_remove("PCQA_API_KEY").env("PCQA_SERVER", format!("https://localhost:{port}")).arg("info");
        command.args(arguments.iter().map(|(flag, file)| format!("{flag}={}", file.display())));
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (ca, cert, tls_key) = (authority.file("ca.pem"), authority.file("client.pem"), authority.file("client.key"));
    let tls = [("--tls-ca", ca.as_path()), ("--tls-cert", &cert), ("--tls-key", &tls_key)];
    let with_file: Vec<_> = tls.iter().copied().chain([("--key-file", key_file.as_path())]).collect();
    let api_key = ("PCQA_API_KEY", key.as_str());
    assert_eq!(info(&with_file, &[]), (Some(0), String::new()));
    assert_eq!(info(&tls, &[api_key]).0, Some(0));
    let variables = [
        api_key,
        ("PCQA_CLIENT_TLS_CA", ca.to_str().unwrap()),
        ("PCQA_CLIENT_TLS_CERT", cert.to_str().unwrap()),
        ("PCQA_CLIENT_TLS_KEY", tls_key.to_str().unwrap()),
    ];
    assert_eq!(info(&[], &variables), (Some(0), String::new()));
    let (status, problem) = info(&tls, &[]);
    assert!(status == Some(3) && problem.contains("UNAUTHENTICATED: an API key is needed"), "{problem}");
    let in_the_clear = [("PCQA_SERVER", &*format!("http://localhost:{port}"))];
    let (status, problem) = info(&[], &in_the_clear);
    assert!(status == Some(3) && problem.contains("begins with https://"), "{problem}");
    let (status, problem) = info(&tls[..2], &[api_key]);
    assert!(status == Some(2) && problem.contains("need each other"), "{problem}");
    let (status, _) = info(&tls[1..], &[api_key]);
    assert_eq!(status, Some(3), "nobody of this machine's authorities has signed the server's certificate");
}
