//! Prompts to token ids. `cargo bench --bench text`

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pcqa::model::Bundle;
use pcqa::text::Tokenizer;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = tokenise
}
criterion_main!(benches);

const SHORT: &str = "a red fox in the snow";
const USUAL: &str = "a highly detailed oil painting of an old lighthouse at dusk, crashing waves, dramatic clouds, volumetric \
                     light, by a master of the romantic era, trending, 8k, sharp focus";
const MESSY: &str = "A caf\u{c3}\u{a9} &amp; bar,   na\u{ef}ve \u{201c}neon\u{201d} sign &lt;3 \u{1f98a}\u{2744}\u{fe0f} \n\t ultra--realistic!!!";

fn tokenise(criterion: &mut Criterion) {
    let bundle = Bundle::demo().expect("the demo bundle is sound");
    let manifest = bundle.manifest();
    let file = bundle.file(&manifest.text.tokenizer).expect("the demo bundle has a tokenizer");
    let tokenizer = Tokenizer::from_json(file.bytes(), manifest.text.context_length).expect("it is sound");
    let mut group = criterion.benchmark_group("tokenise");
    // The longest prompt that the server takes by default.
    let longest = USUAL.repeat(16384 / USUAL.len());
    for (name, prompt) in [("short", SHORT), ("usual", USUAL), ("messy", MESSY), ("16 KiB", longest.as_str())] {
        group.throughput(Throughput::Bytes(prompt.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| tokenizer.encode(prompt)));
    }
}
