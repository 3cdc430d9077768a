//! Every layout in which the same network is published becomes the same file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use pcqa::model::{Activation, BackboneKind, Parameters, TextTower, TextTowerSpec, Weights};
use pcqa::text::TokenIds;
use pcqa::train::{Architecture, ConvertArguments, NumberFormat, convert, hash_init};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use tch::{Device, Kind};

use crate::support::{Place, arguments, golden, refusal};

const SEED: u64 = 7;
const KEYS: usize = 2 * 12 + 5;

fn converted(checkpoint: &Path, dtype: NumberFormat) -> Vec<u8> {
    let place = Place::new();
    let out = place.at("out.safetensors");
    convert(&ConvertArguments { dtype, ..arguments(checkpoint, &out) }).unwrap();
    fs::read(out).unwrap()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Compares all values with those that the tower was made with, after `stored`.
fn check(bytes: &[u8], stored: impl Fn(f32) -> f32) {
    let file = SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(file.len(), KEYS);
    for (key, view) in file.iter() {
        let expected = hash_init::values("tower", key, view.shape(), SEED);
        let expected: Vec<f32> = expected.into_iter().map(&stored).collect();
        assert_eq!(f32s(view.data()), expected, "{key}");
    }
}

fn tower(file: &[u8]) -> TextTower {
    let spec = TextTowerSpec {
        name: "tower".to_owned(),
        weights: "tower.safetensors".to_owned(),
        activation: Activation::Gelu,
        heads: Some(2),
    };
    let weights = Weights::parse("tower.safetensors", file, Device::Cpu, Kind::Float).unwrap();
    TextTower::load(&spec, weights).unwrap()
}

fn embedding(file: &[u8]) -> Vec<f32> {
    let tower = tower(file);
    let prompt = TokenIds { ids: [38, 5, 7, 11, 39].into(), truncated: false };
    let embedding = tower.forward(&[&prompt]).unwrap();
    Vec::<f32>::try_from(embedding.flatten(0, 1)).unwrap()
}

#[test]
fn every_library_s_files_become_the_same_tower() {
    let plain = converted(&golden("open_clip.pt"), NumberFormat::F32);
    check(&plain, |value| value);
    for name in ["flat.pt", "transformers.bin", "transformers.safetensors"] {
        assert!(converted(&golden(name), NumberFormat::F32) == plain, "{name}");
    }
    check(&converted(&golden("eva_clip_f16.pt"), NumberFormat::F32), |value| f16::from_f32(value).to_f32());
    let untouched = fs::read(golden("transformers.safetensors")).unwrap();
    // Where tensors lie decides how their products are added up.
    let distances = embedding(&plain).into_iter().zip(embedding(&untouched)).map(|(a, b)| (a - b).abs());
    assert!(distances.fold(0.0, f32::max) < 1e-5);
}

#[test]
fn bf16_is_rounded_to_nearest() {
    let bytes = converted(&golden("transformers.safetensors"), NumberFormat::Bf16);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (key, view) = file.iter().find(|(key, _)| *key == "text_projection").unwrap();
    let expected = hash_init::values("tower", key, view.shape(), SEED);
    let expected: Vec<u8> = expected.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect();
    assert_eq!((view.dtype(), view.data()), (Dtype::BF16, &expected[..]));
    assert!(file.iter().all(|(_, view)| view.dtype() == Dtype::BF16));
    let distance = embedding(&bytes)
        .iter()
        .zip(embedding(&converted(&golden("open_clip.pt"), NumberFormat::F32)))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0f32, f32::max);
    assert!(distance > 0.0 && distance < 0.05, "{distance}");
}

/// A safetensors file of `tensors` in f32.
fn file(tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(key, (shape, bytes))| (key.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

fn tensors(bytes: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    file.iter().map(|(key, view)| (key.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect()
}

fn backbone(kind: BackboneKind) -> Parameters {
    Architecture::demo(kind).untrained(112, 1).unwrap()
}

/// `bytes` converted, by way of a file.
fn through(bytes: &[u8]) -> Vec<u8> {
    let place = Place::new();
    fs::write(place.at("in.safetensors"), bytes).unwrap();
    converted(&place.at("in.safetensors"), NumberFormat::F32)
}

#[test]
fn backbones_lose_their_classifiers_and_nothing_else() {
    let classifiers = [
        (BackboneKind::Convnext, "head.fc.weight"),
        (BackboneKind::Efficientvit, "head.in_conv.conv.weight"),
        (BackboneKind::Eva02, "head.weight"),
    ];
    for (kind, classifier) in classifiers {
        let whole = backbone(kind).serialise().unwrap();
        let mut all = tensors(&whole);
        all.insert(classifier.to_owned(), (vec![2], vec![0; 8]));
        assert_eq!(tensors(&through(&file(&all))), tensors(&whole), "{}", kind.name());
    }
}

#[test]
fn baai_s_names_become_timm_s() {
    let whole = backbone(BackboneKind::Eva02).serialise().unwrap();
    let names = [
        (".attn.q_proj.bias", ".attn.q_bias"),
        (".attn.v_proj.bias", ".attn.v_bias"),
        (".mlp.fc1_g.", ".mlp.w1."),
        (".mlp.fc1_x.", ".mlp.w2."),
        (".mlp.fc2.", ".mlp.w3."),
        (".mlp.norm.", ".mlp.ffn_ln."),
    ];
    let baai = |key: &str| names.iter().fold(key.to_owned(), |key, (timm, baai)| key.replace(timm, baai));
    let mut renamed: BTreeMap<_, _> = tensors(&whole).into_iter().map(|(key, tensor)| (baai(&key), tensor)).collect();
    renamed.insert("blocks.0.attn.rope.freqs_cos".to_owned(), (vec![2], vec![0; 8]));
    assert_eq!(tensors(&through(&file(&renamed))), tensors(&whole));
}

/// Long-CLIP has two tables of 248 positions: the first 20 of the one hold, and all others of the other.
#[test]
fn a_long_tower_s_positions_are_put_together() {
    let mut long = tensors(&through(&fs::read(golden("transformers.safetensors")).unwrap()));
    let width = long["positional_embedding"].0[1];
    let table = |value: f32| (vec![248, width], value.to_le_bytes().repeat(248 * width));
    long.insert("positional_embedding".to_owned(), table(1.0));
    long.insert("positional_embedding_res".to_owned(), table(2.0));
    let bytes = through(&file(&long));
    let made = tensors(&bytes);
    assert!(!made.contains_key("positional_embedding_res"));
    let (shape, positions) = &made["positional_embedding"];
    assert_eq!(shape, &[248, width]);
    let expected = [vec![1.0; 20 * width], vec![2.0; 228 * width]].concat();
    assert_eq!(f32s(positions), expected);

    // It reads what does not fit into 77 tokens.
    let ids = |last: u32| [vec![38], vec![5; 200], vec![last, 39]].concat();
    let prompt = |last: u32| TokenIds { ids: ids(last).into(), truncated: false };
    let tower = tower(&bytes);
    assert_eq!(tower.context_length(), 248);
    let embeddings = tower.forward(&[&prompt(7), &prompt(11)]).unwrap();
    assert!(f64::try_from((embeddings.get(0) - embeddings.get(1)).abs().max()).unwrap() > 1e-3);
}

/// The golden tower in transformers' layout after `change`, which is to be refused.
fn changed(change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<u8>)>)) -> String {
    let mut all = tensors(&fs::read(golden("transformers.safetensors")).unwrap());
    change(&mut all);
    let place = Place::new();
    fs::write(place.at("in.safetensors"), file(&all)).unwrap();
    refusal(&place.at("in.safetensors"))
}

#[test]
fn what_is_no_such_tower_is_refused_by_name() {
    let said = changed(|all| drop(all.remove("text_projection.weight")));
    assert_eq!(
        said,
        "tensor text_projection.weight: is missing; a CLIPTextModel without a projection does not embed prompts"
    );
    let key = "text_model.encoder.layers.1.self_attn.k_proj.bias";
    assert_eq!(changed(|all| drop(all.remove(key))), format!("tensor {key}: is missing"));
    let said = changed(|all| drop(all.insert(key.to_owned(), (vec![8], vec![0; 32]))));
    assert_eq!(said, format!("tensor {key}: has shape [8], expected [16]"));
    let said = changed(|all| drop(all.insert("text_model.cls".to_owned(), (vec![1], vec![0; 4]))));
    assert_eq!(said, "tensor text_model.cls: is not part of this network");
    let said = changed(|all| all.retain(|key, _| key.starts_with("text_projection")));
    assert!(said.starts_with("holds no network that is known, but \"text_projection.weight\": expected"), "{said}");
    // A number in a key is no reason to make that many layers.
    let far = "text_model.encoder.layers.999999999999.layer_norm1.weight";
    let said = changed(|all| drop(all.insert(far.to_owned(), (vec![16], vec![0; 64]))));
    assert_eq!(said, "tensor text_model.encoder.layers.2.layer_norm1.weight: is missing");
}

#[test]
fn what_is_there_already_is_kept() {
    let place = Place::new();
    fs::write(place.at("out.safetensors"), "mine").unwrap();
    let force = |force| ConvertArguments { force, ..arguments(&golden("open_clip.pt"), &place.at("out.safetensors")) };
    let said = format!("{:#}", convert(&force(false)).unwrap_err());
    assert!(said.ends_with("out.safetensors: exists; --force replaces it"), "{said}");
    assert_eq!(place.read("out.safetensors"), "mine");
    let said = convert(&force(true)).unwrap();
    assert!(said.contains("text tower in open_clip's layout, 29 tensors in f32"), "{said}");
    // Of what is read only a part would be left.
    let same = place.at("out.safetensors");
    let said = format!("{:#}", convert(&arguments(&same, &same)).unwrap_err());
    assert!(said.ends_with("out.safetensors: would replace what is to be read"), "{said}");
}
