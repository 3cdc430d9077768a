//! A start from checkpoints: what is loaded, ignored, missing, resampled and refused.

use pcqa::model::backbone::VisionBackbone;
use pcqa::model::{Activation, BackboneKind, ExpertSpec, Mixer, Parameters, Track, Weights};
use pcqa::train::Architecture;
use tch::{Device, Kind, Tensor};

use crate::support::{distance, elements};

const SIDE: u32 = 112;

fn untrained(kind: BackboneKind, side: u32, seed: u64) -> Parameters {
    Architecture::demo(kind).untrained(side, seed).unwrap()
}

/// All tensors by key, in order.
fn tensors(parameters: &Parameters) -> Vec<(String, Tensor)> {
    let all = parameters.learnable().chain(parameters.buffers());
    let mut all: Vec<_> = all.map(|(key, tensor)| (key.to_owned(), tensor.detach().copy())).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

fn file(tensors: Vec<(String, Tensor)>) -> Vec<u8> {
    Parameters::new("checkpoint", tensors, Device::Cpu).unwrap().serialise().unwrap()
}

fn spec(kind: BackboneKind) -> ExpertSpec {
    ExpertSpec {
        name: kind.name().to_owned(),
        track: Track::Image,
        backbone: Architecture::demo(kind).backbone("backbone"),
        head: "head".to_owned(),
        input_size: SIDE,
        mixer: Mixer::Dot,
        temporal_activation: Activation::Relu,
        adapter_activation: Activation::None,
        head_activation: Activation::Gelu,
    }
}

fn keys(tensors: &[(String, Tensor)]) -> Vec<String> {
    tensors.iter().map(|(key, _)| key.clone()).collect()
}

#[test]
fn every_tensor_of_the_network_is_taken_over_and_the_rest_is_named() {
    let (mut ours, theirs) = (untrained(BackboneKind::Resnet, SIDE, 1), untrained(BackboneKind::Resnet, SIDE, 2));
    let mut checkpoint = tensors(&theirs);
    let kept = tensors(&ours).into_iter().find(|(key, _)| key == "layer2.0.bn1.running_var").unwrap().1;
    checkpoint.retain(|(key, _)| key != "layer2.0.bn1.running_var");
    let loaded = keys(&checkpoint);
    checkpoint.push(("fc.weight".to_owned(), Tensor::zeros([5, 64], (Kind::Float, Device::Cpu))));
    let adopted = ours.adopt("checkpoint.safetensors", &file(checkpoint)).unwrap();
    assert_eq!(adopted.loaded, loaded);
    assert_eq!(adopted.ignored, ["fc.weight"]);
    assert_eq!(adopted.missing, ["layer2.0.bn1.running_var"]);
    for ((key, ours), (_, theirs)) in tensors(&ours).iter().zip(tensors(&theirs)) {
        let expected = if key == "layer2.0.bn1.running_var" { &kept } else { &theirs };
        assert_eq!(distance(&elements(ours), &elements(expected)), 0.0, "{key}");
    }
    assert!(ours.learnable().all(|(_, tensor)| tensor.is_leaf() && tensor.requires_grad()));
}

#[test]
fn checkpoints_in_half_precision_become_f32() {
    let mut ours = untrained(BackboneKind::Convnext, SIDE, 1);
    let theirs = tensors(&untrained(BackboneKind::Convnext, SIDE, 2));
    let values: Vec<half::f16> = elements(&theirs[0].1).into_iter().map(half::f16::from_f32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape: Vec<usize> = theirs[0].1.size().iter().map(|&side| side as usize).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape, &bytes).unwrap();
    let checkpoint = safetensors::serialize([(theirs[0].0.as_str(), view)], None).unwrap();
    let adopted = ours.adopt("half.safetensors", &checkpoint).unwrap();
    assert_eq!(adopted.loaded, [theirs[0].0.as_str()]);
    let (_, tensor) = tensors(&ours).remove(0);
    assert_eq!(tensor.kind(), Kind::Float);
    assert_eq!(elements(&tensor), values.iter().map(|value| value.to_f32()).collect::<Vec<_>>());
}

#[test]
fn baai_names_are_known() {
    let (mut ours, theirs) = (untrained(BackboneKind::Eva02, SIDE, 1), untrained(BackboneKind::Eva02, SIDE, 2));
    let names = [
        (".attn.q_proj.bias", ".attn.q_bias"),
        (".attn.v_proj.bias", ".attn.v_bias"),
        (".mlp.fc1_g.", ".mlp.w1."),
        (".mlp.fc1_x.", ".mlp.w2."),
        (".mlp.fc2.", ".mlp.w3."),
        (".mlp.norm.", ".mlp.ffn_ln."),
    ];
    let baai = |key: &str| names.iter().fold(key.to_owned(), |key, (timm, baai)| key.replace(timm, baai));
    let checkpoint = tensors(&theirs).into_iter().map(|(key, tensor)| (baai(&key), tensor)).collect();
    let adopted = ours.adopt("eva.safetensors", &file(checkpoint)).unwrap();
    assert!(adopted.ignored.is_empty() && adopted.missing.is_empty(), "{adopted:?}");
    for ((key, ours), (_, theirs)) in tensors(&ours).iter().zip(tensors(&theirs)) {
        assert_eq!(distance(&elements(ours), &elements(&theirs)), 0.0, "{key}");
    }
}

#[test]
fn positions_of_another_grid_are_resampled_as_serving_would() {
    for kind in [BackboneKind::Vit, BackboneKind::Eva02] {
        let architecture = Architecture::demo(kind);
        let (mut ours, theirs) = (architecture.untrained(SIDE, 1).unwrap(), architecture.untrained(224, 2).unwrap());
        let bytes = theirs.serialise().unwrap();
        ours.adopt("larger.safetensors", &bytes).unwrap();
        let spec = spec(kind);
        let served = Weights::parse("larger", &bytes, Device::Cpu, Kind::Float).unwrap();
        let served = VisionBackbone::load(&spec, served).unwrap();
        let adopted = VisionBackbone::load(&spec, ours.inference_weights(Kind::Float)).unwrap();
        let side = i64::from(SIDE);
        let frames = Tensor::arange(2 * 3 * side * side, (Kind::Float, Device::Cpu)).sin().view([2, 3, side, side]);
        let (a, b) = (served.forward(&frames).unwrap(), adopted.forward(&frames).unwrap());
        assert!(distance(&elements(&a), &elements(&b)) < 1e-5);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let refused = |checkpoint: Vec<(String, Tensor)>| {
        let mut ours = untrained(BackboneKind::Vit, SIDE, 1);
        let before = ours.serialise().unwrap();
        let error = ours.adopt("other.safetensors", &file(checkpoint)).unwrap_err().to_string();
        assert_eq!(ours.serialise().unwrap(), before);
        error
    };
    let zeros = |key: &str, shape: &[i64]| (key.to_owned(), Tensor::zeros(shape, (Kind::Float, Device::Cpu)));
    let error = refused(vec![zeros("norm.bias", &[48]), zeros("norm.weight", &[64])]);
    assert_eq!(error, "other.safetensors: tensor norm.weight: has shape [64], expected [48]");
    let error = refused(vec![zeros("pos_embed", &[1, 8, 48])]);
    assert_eq!(error, "other.safetensors: tensor pos_embed: has shape [1, 8, 48], expected [1, 65, 48]");
    let error = refused(vec![zeros("classifier.weight", &[5, 48])]);
    assert!(error.starts_with("other.safetensors: has no tensor of this network, which has blocks.0."), "{error}");
    let mut ours = untrained(BackboneKind::Vit, SIDE, 1);
    let error = ours.adopt("text.safetensors", b"not one").unwrap_err().to_string();
    assert!(error.starts_with("text.safetensors: not a safetensors file"), "{error}");
}
