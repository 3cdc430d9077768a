//! What the engine costs beside the device: its line, and the way of an item through it with a device that does nothing.
//! `cargo bench --bench engine`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pcqa::engine::{Caller, Engine, EngineConfig, Line, ModelFacts, Order, Priority, Scorer};
use pcqa::media::{FrameStack, Frames};
use pcqa::model::{BatchTimings, Bundle, Device, Dtype, EnsembleScore, LoadOptions, Manifest, ModelError, Track};
use pcqa::text::TokenIds;
use pcqa::trace::{Parent, Remote, Span};

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = line, items, metrics, spans
}
criterion_main!(benches);

/// One arrival and one departure where many wait.
fn line(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("line");
    for waiting in [16, 1024] {
        let now = Instant::now();
        let mut line = Line::default();
        for turn in 0..waiting {
            line.insert(Caller(turn % 8), Priority::Interactive, now + Duration::from_millis(turn % 97), 1, true, turn);
        }
        group.bench_function(format!("insert and take with {waiting} waiting"), |bencher| {
            bencher.iter(|| {
                line.insert(Caller(0), Priority::Interactive, now + Duration::from_millis(50), 1, true, 0);
                let next = line.next(|_| true);
                next.and_then(|(key, _)| line.take(&key))
            });
        });
    }
}

/// From a place in line to the answer.
fn items(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    let engine = engine();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    for count in [1, 64] {
        group.bench_function(format!("{count} items there and back"), |bencher| {
            let reserve = || (0..count).map(|caller| engine.reserve(order(caller))).collect::<Result<Vec<_>, _>>();
            bencher.iter_batched(
                || (0..count).map(|_| frames()).collect::<Vec<_>>(),
                |frames| {
                    let tickets = reserve().expect("the queue has room").into_iter().zip(frames);
                    let tickets: Vec<_> = tickets.map(|(place, frames)| place.submit(prompt(), frames)).collect();
                    for ticket in tickets {
                        black_box(runtime.block_on(ticket).expect("the device answers"));
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
}

/// One request's metrics, before and after somebody collects them.
fn metrics(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let source: Arc<str> = "".into();
    let request = || {
        let elapsed = Duration::from_millis(20);
        pcqa::metrics::request("ScoreImage", "Ok", source.clone(), elapsed);
        for stage in STAGES {
            pcqa::metrics::stage("image", stage, elapsed);
        }
        pcqa::metrics::score("image", 0.1, 0.2);
    };
    group.bench_function("of a request, not collected", |bencher| bencher.iter(request));
    let exposition = pcqa::metrics::collect().expect("nobody else collects");
    group.bench_function("of a request, collected", |bencher| {
        bencher.iter_custom(|times| {
            exposition.tidy();
            let begin = Instant::now();
            (0..times).for_each(|_| request());
            begin.elapsed()
        });
    });
    group.bench_function("written out", |bencher| bencher.iter(|| exposition.render()));
}

/// One request's spans: without a collector, with one for requests that are not sampled, and for one that is. Nobody
/// listens at the collector's port: what is lost there is lost off this thread.
fn spans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spans");
    let request = |remote: &Remote| {
        let begin = Instant::now();
        let call = Span::of_call("pcqa.v1.ScoringService/ScoreImage", remote, begin);
        let item = Span::of(call.parent(), "image", begin);
        for stage in STAGES {
            Span::of(item.parent(), stage, begin).end(begin);
        }
        Span::of_all(std::iter::once(item.parent()), "batch", begin).end(begin);
    };
    let remote =
        |flags| Remote::of(Some(&format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")), None);
    group.bench_function("of a request, not exported", |bencher| bencher.iter(|| request(&Remote::default())));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    let _inside = runtime.enter();
    let _exporter = pcqa::trace::export("http://127.0.0.1:1", 0.0).expect("nobody else exports");
    group.bench_function("of a request, not sampled", |bencher| bencher.iter(|| request(&remote("00"))));
    group.bench_function("of a request, sampled", |bencher| bencher.iter(|| request(&remote("01"))));
}

const STAGES: [&str; 7] = ["receive", "decode", "resize", "queue", "text", "vision", "head"];

/// Scores nothing, at once.
struct Idle(Manifest);

impl Scorer for Idle {
    type Text = ();
    /// Number of items.
    type Asked = usize;

    fn facts(&self) -> ModelFacts {
        let options = LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta: false };
        ModelFacts { manifest: self.0.clone(), text_dims: vec![1], options }
    }

    fn encode_prompts(&self, prompts: &[&TokenIds]) -> Result<Vec<()>, ModelError> {
        Ok(vec![(); prompts.len()])
    }

    fn ask(&self, _: Track, items: &[&Frames], _: &[&()]) -> Result<usize, ModelError> {
        Ok(items.len())
    }

    fn asks_at_once(&self, _: u32) -> bool {
        false
    }

    fn has_answer(&self, _: &usize) -> bool {
        true
    }

    fn answer(&self, asked: &usize) -> Result<(Vec<Result<EnsembleScore, ModelError>>, BatchTimings), ModelError> {
        let score = EnsembleScore { mos: 3.0, z: 0.0, disagreement: 0.0, experts: Vec::new() };
        Ok(((0..*asked).map(|_| Ok(score.clone())).collect(), BatchTimings::default()))
    }
}

fn engine() -> Engine {
    let bundle = Bundle::demo().expect("the demo bundle is sound");
    let manifest = bundle.manifest().clone();
    let config = EngineConfig {
        max_queue_frames: 4096,
        max_batch_frames: 64,
        max_queue_delay: Duration::from_millis(5),
        text_cache_bytes: 1 << 20,
        threads: 1,
        warm_up_prompt: prompt(),
    };
    Engine::start(vec![move || Ok(Idle(manifest))], config).expect("the engine starts")
}

fn order(caller: u64) -> Order {
    Order {
        caller: Caller(caller),
        track: Track::Image,
        priority: Priority::Interactive,
        frames: 1,
        deadline: Instant::now() + Duration::from_secs(60),
        span: Parent::default(),
    }
}

fn prompt() -> TokenIds {
    TokenIds { ids: [49406, 320, 1125, 539, 320, 2368, 49407].into(), truncated: false }
}

fn frames() -> Frames {
    Frames { count: 1, stacks: vec![FrameStack { side: 2, rgb: vec![0; 12] }] }
}
