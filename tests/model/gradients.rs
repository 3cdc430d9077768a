//! Networks that learn against timm and PyTorch: every gradient, the running statistics, and both forms of each network.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use pcqa::model::{Expert, ExpertSpec, Parameters, Weights};
use pcqa::train::hash_init;
use safetensors::SafeTensors;
use serde::Deserialize;
use tch::{Device, Kind, Reduction, Tensor};

use crate::support::{Module, distance, elements, picture};

const TEXT_DIM: usize = 12;
const SEED: u64 = 7;
/// Of a tensor's greatest element.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Case {
    expert: ExpertSpec,
    frames: Vec<Vec<String>>,
    modules: BTreeMap<String, Module>,
    targets: Vec<f32>,
    loss: f64,
}

static CASES: LazyLock<BTreeMap<String, Case>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../golden/model/gradients.json")).unwrap());

static TENSORS: LazyLock<SafeTensors<'static>> =
    LazyLock::new(|| SafeTensors::deserialize(include_bytes!("../golden/model/gradients.safetensors")).unwrap());

/// Parameters of an expert, and what it is shown.
struct Set {
    backbone: Parameters,
    head: Parameters,
    frames: Tensor,
    counts: Vec<i64>,
    text: Tensor,
    targets: Tensor,
}

impl Case {
    fn file(&self, name: &str, part: &str) -> Vec<u8> {
        let file = if part == "head" { format!("{name}.head.safetensors") } else { format!("{name}.safetensors") };
        self.modules[part].file("gradients", &file)
    }

    fn set(&self, name: &str) -> Set {
        let read = |part| Parameters::read(part, &self.file(name, part), Device::Cpu).unwrap();
        let (side, items) = (self.expert.input_size, self.frames.len());
        let rgb: Vec<u8> = self.frames.iter().flatten().flat_map(|name| picture(name, side)).collect();
        let side = i64::from(side);
        let pixels = Tensor::from_slice(&rgb).view([-1, side, side, 3]).to_kind(Kind::Float) / 255.0;
        let channels = |values: [f64; 3]| Tensor::from_slice(&values).to_kind(Kind::Float);
        let backbone = &self.expert.backbone;
        let frames = (pixels - channels(backbone.mean)) / channels(backbone.std);
        let text = hash_init::values(&format!("gradients/{name}"), "text", &[items, TEXT_DIM], SEED);
        Set {
            backbone: read("backbone"),
            head: read("head"),
            frames: frames.permute([0, 3, 1, 2]),
            counts: self.frames.iter().map(|frames| frames.len() as i64).collect(),
            text: Tensor::from_slice(&text).view([-1, TEXT_DIM as i64]),
            targets: Tensor::from_slice(&self.targets),
        }
    }
}

impl Set {
    fn loss(&self, spec: &ExpertSpec, kind: Kind) -> Tensor {
        let (backbone, head) = (self.backbone.weights(kind), self.head.weights(Kind::Float));
        let expert = Expert::load(spec, backbone, head, TEXT_DIM as i64).unwrap();
        let features = expert.features(&self.frames.to_kind(kind)).unwrap();
        let raw = expert.judge(&features, &self.counts, &self.text).unwrap().raw;
        raw.mse_loss(&self.targets, Reduction::Mean)
    }
}

fn golden(key: &str) -> Option<Vec<f32>> {
    let view = TENSORS.tensor(key).ok()?;
    Some(view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect())
}

/// Greatest difference as a share of the greatest expected element.
fn relative(found: &Tensor, expected: &[f32]) -> f64 {
    let greatest = expected.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    assert!(greatest > 0.0);
    distance(&elements(found), expected) / greatest
}

#[test]
fn every_gradient_is_the_libraries_own() {
    let mut wrong = Vec::new();
    for (name, case) in CASES.iter() {
        let set = case.set(name);
        let loss = set.loss(&case.expert, Kind::Float);
        let difference = (loss.double_value(&[]) - case.loss).abs() / case.loss;
        assert!(difference <= 1e-4, "{name}: loss {difference}");
        loss.backward();
        let (mut worst, mut compared) = (0.0f64, 0);
        for (part, parameters) in [("backbone", &set.backbone), ("head", &set.head)] {
            for (key, parameter) in parameters.learnable() {
                let found = parameter.grad();
                let Some(expected) = golden(&format!("{name}/{part}/{key}")) else {
                    let classifier = key.starts_with("fc.") || key.starts_with("head.");
                    assert!(classifier && !found.defined(), "{name}/{part}/{key}: nothing to compare with");
                    continue;
                };
                assert_eq!(found.kind(), Kind::Float);
                let difference = relative(&found, &expected);
                (worst, compared) = (worst.max(difference), compared + 1);
                if difference > TOLERANCE {
                    wrong.push((format!("{name}/{part}/{key}"), difference));
                }
            }
        }
        println!("{worst:.1e}  {name}, {compared} gradients");
        assert!(compared > 20);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn running_statistics_move_as_the_libraries_do() {
    let mut compared = 0;
    for (name, case) in CASES.iter() {
        let set = case.set(name);
        let _ = set.loss(&case.expert, Kind::Float);
        for (key, buffer) in set.backbone.buffers() {
            let difference = relative(buffer, &golden(&format!("{name}/buffers/{key}")).unwrap());
            assert!(difference <= 1e-4, "{name}/{key}: {difference}");
            assert!(!buffer.requires_grad());
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared} buffers are too few");
}

#[test]
fn served_networks_give_the_libraries_embeddings_from_file_and_from_parameters() {
    for (name, case) in CASES.iter() {
        let set = case.set(name);
        let (backbone, head) = (case.file(name, "backbone"), case.file(name, "head"));
        let of_file = |bytes| Weights::parse("file", bytes, Device::Cpu, Kind::Float).unwrap();
        let text = TEXT_DIM as i64;
        let served = Expert::load(&case.expert, of_file(&backbone), of_file(&head), text).unwrap();
        let (backbone, head) = (set.backbone.inference_weights(Kind::Float), set.head.inference_weights(Kind::Float));
        let learnt = Expert::load(&case.expert, backbone, head, text).unwrap();
        let expected = golden(&format!("{name}/features")).unwrap();
        for expert in [served, learnt] {
            let features = expert.features(&set.frames).unwrap();
            assert!(!features.requires_grad());
            let difference = distance(&elements(&features), &expected);
            assert!(difference <= 1e-4, "{name}: {difference}");
        }
    }
}

#[test]
fn bf16_networks_have_gradients_in_f32_that_point_the_same_way() {
    for (name, case) in CASES.iter() {
        let set = case.set(name);
        set.loss(&case.expert, Kind::BFloat16).backward();
        let (mut product, mut ours, mut theirs) = (0.0f64, 0.0f64, 0.0f64);
        for (key, parameter) in set.backbone.learnable() {
            let Some(expected) = golden(&format!("{name}/backbone/{key}")) else { continue };
            assert_eq!(parameter.grad().kind(), Kind::Float);
            for (&a, &b) in elements(&parameter.grad()).iter().zip(&expected) {
                let (a, b) = (f64::from(a), f64::from(b));
                (product, ours, theirs) = (product + a * b, ours + a * a, theirs + b * b);
            }
        }
        let cosine = product / (ours * theirs).sqrt();
        println!("{cosine:.4}  {name}");
        assert!(cosine > 0.9, "{name}: cosine {cosine}");
    }
}

#[test]
fn parameters_survive_a_file_and_lose_what_no_network_takes() {
    let case = &CASES["resnet"];
    let mut set = case.set("resnet");
    let before = set.backbone.serialise().unwrap();
    assert_eq!(before, Parameters::read("again", &before, Device::Cpu).unwrap().serialise().unwrap());
    let _ = set.loss(&case.expert, Kind::Float);
    assert_eq!(set.backbone.retain_used(), ["fc.bias", "fc.weight"]);
    let bytes = set.backbone.serialise().unwrap();
    let loaded = Parameters::read("again", &bytes, Device::Cpu).unwrap();
    assert_eq!(loaded.count(), set.backbone.count());
    // The running statistics have moved.
    assert_ne!(before.len(), bytes.len());
    let moved = loaded.buffers().any(|(key, buffer)| {
        let start = hash_init::values("gradients/resnet", key, &[buffer.numel()], SEED);
        distance(&elements(buffer), &start) > 1e-3
    });
    assert!(moved);
}
