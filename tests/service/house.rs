//! A `pcqa-server` process on a free port, and clients of it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pcqa::proto::scoring_service_client::ScoringServiceClient;
use pcqa::proto::{
    GetModelRequest, ModelInfo, RankImagesRequest, RankedImage, Score, ScoreImageRequest, ScoreVideoRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Long enough for the slowest machine; nothing waits for it that works.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The server's program, whatever options stand in the environment of the tests.
pub fn server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pcqa-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PCQA_") {
            command.env_remove(name);
        }
    }
    command
}

pub struct House {
    process: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    pub channel: Channel,
    pub address: String,
}

impl House {
    /// Starts a server with `flags` and waits until it is ready.
    pub async fn start(flags: &[&str]) -> Self {
        Self::until(flags, "ready device=").await
    }

    /// Starts a server with `flags` and waits until it listens and its log has a line with `seen`.
    pub async fn until(flags: &[&str], seen: &str) -> Self {
        let mut process = server()
            .args(["--listen=127.0.0.1:0", "--log=info,pcqa=debug", "--decoder-workers=2"])
            .args(["--default-timeout-seconds=120", "--max-timeout-seconds=240"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = process.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn({
            let log = log.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    *log.lock().unwrap() += &format!("{line}\n");
                    let _ = sender.send(line);
                }
            }
        });
        let mut address = None;
        loop {
            let line = lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("the server did not get ready:\n{}", log.lock().unwrap()));
            // A line for people, or one of JSON.
            let found = line.split_once("listen=").or_else(|| line.split_once(r#""listen":""#));
            if let Some((_, found)) = found {
                address = Some(found.split('"').next().unwrap_or_default().trim().to_owned());
            }
            if line.contains(seen) {
                break;
            }
        }
        let address = address.unwrap();
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { process, log, reader: Some(reader), channel, address }
    }

    pub fn client(&self) -> ScoringServiceClient<Channel> {
        ScoringServiceClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    /// A client on a connection of its own.
    pub fn another_client(&self) -> ScoringServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        ScoringServiceClient::new(channel).max_encoding_message_size(usize::MAX)
    }

    /// Memory that the server's process has in use, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub async fn image(&self, prompt: &str, image: Vec<u8>) -> Result<Score, Status> {
        let request = ScoreImageRequest { prompt: prompt.to_owned(), image: image.into(), ..Default::default() };
        self.client().score_image(request).await.map(|answer| answer.into_inner().score.unwrap())
    }

    pub async fn video(&self, prompt: &str, video: Vec<u8>) -> Result<Score, Status> {
        let request = ScoreVideoRequest { prompt: prompt.to_owned(), video: video.into(), ..Default::default() };
        self.client().score_video(request).await.map(|answer| answer.into_inner().score.unwrap())
    }

    pub async fn rank(&self, prompt: &str, images: Vec<Vec<u8>>) -> Result<Vec<RankedImage>, Status> {
        let images = images.into_iter().map(Into::into).collect();
        let request = RankImagesRequest { prompt: prompt.to_owned(), images, ..Default::default() };
        self.client().rank_images(request).await.map(|answer| answer.into_inner().ranked)
    }

    pub async fn model(&self) -> ModelInfo {
        self.client().get_model(GetModelRequest {}).await.unwrap().into_inner().model.unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for the process to end; its status and its whole log.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().unwrap() {
                self.reader.take().unwrap().join().unwrap();
                return (status, self.log.lock().unwrap().clone());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server did not end:\n{}", self.log.lock().unwrap());
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The field that `status` blames, which must be the only one, and the message.
pub fn blamed(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1, "{violations:?}");
    (violations[0].field.clone(), status.message().to_owned())
}

/// Panics unless both scores say the same: their numbers may differ as much as an item's neighbours in a batch may make
/// of it, a ten-thousandth in z.
pub fn assert_same(one: &Score, other: &Score) {
    let same = |a: f64, b: f64, unit: f64| (a - b).abs() <= 1e-4 * unit;
    let experts = one.experts.iter().zip(&other.experts);
    let all_same = one.experts.len() == other.experts.len()
        && experts.into_iter().all(|(a, b)| a.expert == b.expert && same(a.z, b.z, 1.0))
        && same(one.z, other.z, 1.0)
        && same(one.disagreement, other.disagreement, 1.0)
        // No scale in use has a standard deviation above 20.
        && same(one.mos, other.mos, 20.0)
        && one.prompt_truncated == other.prompt_truncated
        && one.frames_used == other.frames_used
        && one.model_version == other.model_version;
    assert!(all_same, "{one:?}\n{other:?}");
}

/// Whether `status` refuses for want of room and says when there will be some.
pub fn comes_back_later(status: &Status) -> bool {
    let retry = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    status.code() == Code::ResourceExhausted && retry.is_some_and(|delay| delay > Duration::ZERO)
}
