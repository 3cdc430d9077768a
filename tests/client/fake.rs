//! A scoring service that does what prompts tell it to, on a loopback port, and a way to run `pcqa` against it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pcqa::proto::scoring_service_server::{ScoringService, ScoringServiceServer};
use pcqa::proto::*;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Barrier, Notify};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// What the service saw.
#[derive(Default)]
pub struct Seen {
    /// Tries by prompt.
    pub tries: HashMap<String, u32>,
    /// Requests being worked on, now and at most.
    pub in_flight: (usize, usize),
    /// Every RPC but GetModel, with the length of its media.
    pub calls: Vec<(&'static str, usize)>,
    /// `grpc-timeout` of the last scoring call.
    pub timeout: Option<String>,
    /// Prompt and a hash of the media of every scoring call.
    pub sent: Vec<(String, u64)>,
    /// Priority of the last call but GetModel.
    pub priority: Option<Priority>,
}

struct Fake {
    model: ModelInfo,
    seen: Arc<Mutex<Seen>>,
    three: Barrier,
    alone: tokio::sync::Mutex<()>,
    cut: Arc<Notify>,
    before_model: Mutex<Vec<Status>>,
}

/// How a service starts.
#[derive(Default)]
pub struct Start {
    /// For so long its port refuses connections.
    pub after: Duration,
    /// What it says to the first GetModels, the last one first.
    pub refusals: Vec<Status>,
}

/// A running service; it ends with the value.
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
    /// Where the same service is reached through a proxy that drops its connections at the prompt `cut once`.
    pub through_proxy: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    pub fn start() -> Self {
        Self::serving(model())
    }

    pub fn serving(model: ModelInfo) -> Self {
        Self::starting(model, Start::default())
    }

    pub fn starting(model: ModelInfo, Start { after, refusals }: Start) -> Self {
        let runtime = Runtime::new().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let cut = Arc::new(Notify::new());
        let before_model = Mutex::new(refusals);
        let (three, alone) = (Barrier::new(3), tokio::sync::Mutex::new(()));
        let fake = Fake { model, seen: seen.clone(), three, alone, cut: cut.clone(), before_model };
        let (address, through_proxy) = runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = socket.local_addr().unwrap();
            let service = ScoringServiceServer::new(fake).max_decoding_message_size(64 << 20);
            let server = tonic::transport::Server::builder().add_service(service);
            let serve = |listener| server.serve_with_incoming(TcpListenerStream::new(listener));
            if after.is_zero() {
                tokio::spawn(serve(socket.listen(128).unwrap()));
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    serve(socket.listen(128).unwrap()).await
                });
            }
            let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let through_proxy = proxy.local_addr().unwrap();
            tokio::spawn(forward(proxy, address, cut));
            (address, through_proxy)
        });
        Self { address, seen, through_proxy, _runtime: runtime }
    }

    /// Runs `pcqa` against this service.
    pub fn pcqa<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        pcqa(&format!("http://{}", self.address), arguments)
    }
}

async fn forward(proxy: TcpListener, address: SocketAddr, cut: Arc<Notify>) {
    while let Ok((mut outer, _)) = proxy.accept().await {
        let cut = cut.clone();
        tokio::spawn(async move {
            let mut inner = TcpStream::connect(address).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut outer, &mut inner) => {}
                () = cut.notified() => {}
            }
        });
    }
}

/// What a run of `pcqa` left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `pcqa` with the server from the environment, as users set it.
pub fn pcqa<A: AsRef<OsStr>>(server: &str, arguments: impl IntoIterator<Item = A>) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_pcqa")).env("PCQA_SERVER", server).args(arguments).output().unwrap();
    Ran { code: status.code(), stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

/// The score of media of this length: figures whose decimals only survive in full precision.
pub fn score_of(prompt: &str, length: usize, is_video: bool) -> Score {
    let z = 1.0 / 3.0 - length as f64 / 7.0;
    let names: &[&str] = if is_video { &["conv-v", "evit-v"] } else { &["conv", "evit", "eva"] };
    let experts = names.iter().zip(1..).map(|(name, place)| ExpertScore {
        expert: (*name).to_owned(),
        raw: z / f64::from(place),
        z: z - f64::from(place) * 0.1,
    });
    let milliseconds = |count: i32| Some(prost_types::Duration { seconds: 1, nanos: count * 1_000_000 });
    Score {
        mos: 2.5 + z,
        z,
        experts: experts.collect(),
        disagreement: 0.1_f64.sqrt(),
        prompt_truncated: prompt.contains("very long"),
        frames_used: if is_video { 16 } else { 1 },
        model_version: "1.2".to_owned(),
        timings: Some(Timings {
            decode: milliseconds(1),
            resize: milliseconds(2),
            queue: milliseconds(3),
            text: milliseconds(4),
            vision: milliseconds(5),
            head: milliseconds(6),
            total: milliseconds(234),
            receive: milliseconds(213),
        }),
        batch_frames: if is_video { 32 } else { 4 },
    }
}

pub fn model() -> ModelInfo {
    let expert = |name: &str, track: Track, backbone: &str| Expert {
        name: name.to_owned(),
        track: track.into(),
        backbone: backbone.to_owned(),
        input_size: 448,
        mu: 0.25,
        sigma: 0.75,
    };
    ModelInfo {
        name: "demo".to_owned(),
        version: "1.2".to_owned(),
        digest: "ab".repeat(32),
        trained: true,
        provenance: "a test".to_owned(),
        licence: "Apache-2.0".to_owned(),
        mos: Some(MosScale { dataset: "AIGC".to_owned(), mean: 2.5, std: 1.0, min: 0.0, max: 5.0 }),
        experts: vec![
            expert("conv", Track::Image, "convnext"),
            expert("evit", Track::Image, "efficientvit"),
            expert("eva", Track::Image, "eva02"),
            expert("conv-v", Track::Video, "convnext"),
            expert("evit-v", Track::Video, "efficientvit"),
        ],
        text_towers: vec![TextTower { name: "dfn".to_owned(), embedding_dim: 1024 }],
        tta: false,
        dtype: Dtype::F32.into(),
        device: "cpu".to_owned(),
        limits: Some(Limits {
            max_message_bytes: 64 << 20,
            max_prompt_bytes: 4096,
            max_image_bytes: 32 << 20,
            max_image_pixels: 64 << 20,
            max_video_bytes: 60 << 20,
            max_video_pixels: 4096 * 2304,
            max_video_seconds: 900.0,
            max_video_frames: 60_000,
            max_rank_images: 4,
            max_frames_used: 16,
            max_batch_frames: 64,
        }),
        server_version: "0.1.0".to_owned(),
    }
}

impl Fake {
    /// Does what the prompt says, or lets the request through to its score.
    async fn obey(&self, prompt: &str) -> Result<(), Status> {
        let tries = {
            let mut seen = self.seen.lock().unwrap();
            let tries = seen.tries.entry(prompt.to_owned()).or_default();
            *tries += 1;
            *tries
        };
        let busy = || {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(20)));
            Status::with_error_details(Code::ResourceExhausted, "queue is full", details)
        };
        match prompt {
            "refused" => {
                let mut details = ErrorDetails::new();
                details.add_bad_request_violation("image", "could not be decoded");
                Err(Status::with_error_details(Code::InvalidArgument, "image: could not be decoded", details))
            }
            "busy twice" if tries <= 2 => Err(busy()),
            "busy" => Err(busy()),
            "every other busy" if tries % 2 == 0 => Err(busy()),
            "away once" if tries == 1 => Err(Status::unavailable("draining")),
            "cut once" if tries == 1 => {
                self.cut.notify_waiters();
                std::future::pending().await
            }
            "never" => std::future::pending().await,
            "after the others" => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(())
            }
            "one at a time" => {
                let _alone = self.alone.lock().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(())
            }
            "stalls once" => {
                let _alone = self.alone.lock().await;
                if tries == 100 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(())
            }
            "three at once" => {
                self.three.wait().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn score<T>(
        &self,
        rpc: &'static str,
        request: &Request<T>,
        (prompt, media, priority): (&str, &[u8], Priority),
    ) -> Result<Option<Score>, Status> {
        let length = media.len();
        {
            let mut seen = self.seen.lock().unwrap();
            seen.calls.push((rpc, length));
            let mut hasher = DefaultHasher::new();
            hasher.write(media);
            seen.sent.push((prompt.to_owned(), hasher.finish()));
            seen.priority = Some(priority);
            seen.timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
            seen.in_flight.0 += 1;
            seen.in_flight.1 = seen.in_flight.1.max(seen.in_flight.0);
        }
        let outcome = self.obey(prompt).await;
        self.seen.lock().unwrap().in_flight.0 -= 1;
        outcome.map(|()| Some(score_of(prompt, length, rpc == "ScoreVideo")))
    }
}

#[tonic::async_trait]
impl ScoringService for Fake {
    async fn score_image(&self, request: Request<ScoreImageRequest>) -> Result<Response<ScoreImageResponse>, Status> {
        let message @ ScoreImageRequest { prompt, image, .. } = request.get_ref();
        let score = self.score("ScoreImage", &request, (prompt, image, message.priority())).await?;
        Ok(Response::new(ScoreImageResponse { score }))
    }

    async fn score_video(&self, request: Request<ScoreVideoRequest>) -> Result<Response<ScoreVideoResponse>, Status> {
        let message @ ScoreVideoRequest { prompt, video, .. } = request.get_ref();
        let score = self.score("ScoreVideo", &request, (prompt, video, message.priority())).await?;
        Ok(Response::new(ScoreVideoResponse { score }))
    }

    type ScoreStreamStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<ScoreStreamResponse, Status>> + Send>>;

    async fn score_stream(
        &self,
        _: Request<Streaming<ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        Err(Status::unimplemented("the client does not stream"))
    }

    /// The shortest image is the best, as in [`score_of`]; the prompt `second is bad` blames `images[1]`.
    async fn rank_images(&self, request: Request<RankImagesRequest>) -> Result<Response<RankImagesResponse>, Status> {
        let message @ RankImagesRequest { prompt, images, .. } = request.get_ref();
        self.seen.lock().unwrap().calls.push(("RankImages", images.len()));
        self.seen.lock().unwrap().priority = Some(message.priority());
        self.obey(prompt).await?;
        if prompt == "second is bad" {
            let mut details = ErrorDetails::new();
            details.add_bad_request_violation("images[1]", "could not be decoded: no pixels");
            return Err(Status::with_error_details(Code::InvalidArgument, "images[1]: could not be decoded", details));
        }
        let mut ranked: Vec<RankedImage> = (0..)
            .zip(images)
            .map(|(index, image)| RankedImage { index, score: Some(score_of(prompt, image.len(), false)) })
            .collect();
        ranked.sort_by(|a, b| b.score.as_ref().unwrap().mos.total_cmp(&a.score.as_ref().unwrap().mos));
        Ok(Response::new(RankImagesResponse { ranked }))
    }

    async fn get_model(&self, _: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        match self.before_model.lock().unwrap().pop() {
            Some(refusal) => Err(refusal),
            None => Ok(Response::new(GetModelResponse { model: Some(self.model.clone()) })),
        }
    }
}
