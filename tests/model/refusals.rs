//! What does not fit is refused, with the file, the key and the expectation.

use std::collections::BTreeMap;

use pcqa::media::Frames;
use pcqa::model::{Dtype, Ensemble, Expert, LoadOptions, Manifest, ModelError, Track, Weights};
use pcqa::text::TokenIds;
use tch::{Device, Kind, Tensor};

use crate::support::{GOLDEN, Module, frames, load};

const F32: LoadOptions = LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta: false };

type Shapes = BTreeMap<String, Vec<usize>>;

/// The error of loading ensemble `name` with the shapes of `file` changed.
fn error_with(name: &str, file: &str, change: impl Fn(&mut Shapes)) -> ModelError {
    let ensemble = &GOLDEN.ensembles[name];
    let mut module: Module = ensemble.modules[file].clone();
    change(&mut module.tensors);
    let bytes = module.file(name, file);
    refused(load(name, &ensemble.manifest, F32, |wanted| (wanted == file).then(|| bytes.clone())))
}

/// The error of loading ensemble a with its manifest changed.
fn error_of(change: impl Fn(&mut Manifest)) -> ModelError {
    let mut manifest = GOLDEN.ensembles["a"].manifest.clone();
    change(&mut manifest);
    refused(load("a", &manifest, F32, |_| None))
}

fn refused(result: Result<Ensemble, ModelError>) -> ModelError {
    match result {
        Ok(_) => panic!("loaded, though it does not fit"),
        Err(error) => error,
    }
}

fn assert_tensor(error: ModelError, wanted_file: &str, wanted_key: &str, part: &str) {
    match error {
        ModelError::Tensor { file, key, problem } => {
            assert_eq!((file.as_str(), key.as_str()), (wanted_file, wanted_key), "{problem}");
            assert!(problem.contains(part), "{problem:?} does not say {part:?}");
        }
        other => panic!("expected an error about {wanted_key}, got {other}"),
    }
}

fn assert_manifest(error: ModelError, wanted_key: &str, part: &str) {
    match error {
        ModelError::Manifest { key, problem } => {
            assert_eq!(key, wanted_key, "{problem}");
            assert!(problem.contains(part), "{problem:?} does not say {part:?}");
        }
        other => panic!("expected an error about {wanted_key}, got {other}"),
    }
}

#[test]
fn every_single_missing_tensor_is_named() {
    let mut missing = 0;
    for (name, ensemble) in &GOLDEN.ensembles {
        for spec in &ensemble.manifest.experts {
            let files = [&spec.backbone.weights, &spec.head];
            let whole = files.map(|file| ensemble.modules[file].file(name, file));
            let text_dim = ensemble.modules[&spec.head].tensors["prompt_adapter.weight"][1] as i64;
            for (index, file) in files.into_iter().enumerate() {
                let module = &ensemble.modules[file];
                let is_classifier = |key: &str| key.starts_with("head.") && !key.starts_with("head.norm.");
                for gone in module.tensors.keys().filter(|key| !is_classifier(key)) {
                    let mut rest = module.clone();
                    rest.tensors.remove(gone);
                    let mut bytes = whole.clone();
                    bytes[index] = rest.file(name, file);
                    let [backbone, head] = [0, 1]
                        .map(|index| Weights::parse(files[index], &bytes[index], Device::Cpu, Kind::Float).unwrap());
                    match Expert::load(spec, backbone, head, text_dim) {
                        Err(ModelError::Tensor { file: found, .. }) => assert_eq!(&found, file, "{gone}"),
                        Err(other) => panic!("{file} without {gone}: {other}"),
                        Ok(_) => panic!("{file} loaded without {gone}"),
                    }
                    missing += 1;
                }
            }
        }
    }
    assert!(missing > 300, "{missing}");
}

#[test]
fn missing_tensors_come_with_the_expectation() {
    for (name, file, key, expectation) in [
        ("a", "image_convnext.safetensors", "stages.2.blocks.1.norm.bias", "is missing; a tensor of shape [24]"),
        ("a", "image_convnext.safetensors", "stages.0.blocks.0.conv_dw.weight", "of shape [8, 1, 7, 7]"),
        (
            "a",
            "image_efficientvit.safetensors",
            "stages.3.blocks.2.context_module.main.qkv.conv.weight",
            "[any, 32, 1, 1]",
        ),
        ("a", "image_efficientvit.safetensors", "stages.0.blocks.0.main.spatial_conv.norm.running_var", "is missing"),
        ("a", "image_eva02.safetensors", "blocks.1.attn.k_proj.weight", "[48, 48]"),
        ("a", "image_eva02.safetensors", "pos_embed", "[1, any, 48]"),
        ("a", "video_convnext.head.safetensors", "temporal.conv2.weight", "[40, 40, 3]"),
        ("a", "plain.safetensors", "transformer.resblocks.1.attn.in_proj_bias", "[48]"),
        ("a", "custom.safetensors", "text.ln_final.weight", "[12]"),
        ("b", "hugging_face.safetensors", "text_model.encoder.layers.0.self_attn.v_proj.bias", "[24]"),
        ("b", "hugging_face.safetensors", "text_projection.weight", "[any, 24]"),
    ] {
        assert_tensor(error_with(name, file, |tensors| drop(tensors.remove(key))), file, key, expectation);
    }
}

#[test]
fn an_unknown_text_layout_names_what_was_looked_for() {
    let error = error_with("a", "plain.safetensors", |tensors| drop(tensors.remove("token_embedding.weight")));
    assert_tensor(error, "plain.safetensors", "token_embedding.weight", "text.token_embedding.weight");
}

#[test]
fn misshapen_tensors_come_with_both_shapes() {
    for (file, key, shape, expectation) in [
        (
            "image_convnext.safetensors",
            "stages.1.downsample.1.weight",
            vec![16, 9, 2, 2],
            "[16, 9, 2, 2], expected [any, 8, 2, 2]",
        ),
        (
            "image_efficientvit.safetensors",
            "stem.in_conv.conv.weight",
            vec![8, 4, 3, 3],
            "[8, 4, 3, 3], expected [any, 3, 3, 3]",
        ),
        ("image_eva02.safetensors", "blocks.0.mlp.norm.bias", vec![1], "[1], expected [128]"),
        ("image_eva02.safetensors", "pos_embed", vec![1, 16, 48], "15 patch positions, expected a square number"),
        ("image_convnext.head.safetensors", "prompt_adapter.weight", vec![32, 43], "[32, 43], expected [any, 44]"),
        ("image_convnext.head.safetensors", "vision_adapter.weight", vec![32, 41], "[32, 41], expected [any, 40]"),
        ("image_eva02.head.safetensors", "vision_adapter.weight", vec![31, 48], "[31, 48], expected [32, 48]"),
        ("image_eva02.head.safetensors", "mlp.fc2.weight", vec![2, 24], "[2, 24], expected [1, 24]"),
        ("plain.safetensors", "text_projection", vec![17, 24], "[17, 24], expected [16, any]"),
    ] {
        let error = error_with("a", file, |tensors| drop(tensors.insert(key.to_owned(), shape.clone())));
        assert_tensor(error, file, key, expectation);
    }
}

#[test]
fn surplus_tensors_are_refused() {
    for (file, key) in [
        ("image_convnext.safetensors", "stages.0.blocks.0.mlp.grn.weight"),
        ("image_efficientvit.safetensors", "stages.4.blocks.0.main.point_conv.conv.weight"),
        ("image_eva02.safetensors", "norm.weight"),
        ("image_eva02.head.safetensors", "temporal.conv1.weight"),
        ("plain.safetensors", "transformer.resblocks.0.ls_1.gamma"),
        ("custom.safetensors", "text.cls_emb"),
    ] {
        let error = error_with("a", file, |tensors| drop(tensors.insert(key.to_owned(), vec![1])));
        assert_tensor(error, file, key, "is not part of this network");
    }
}

#[test]
fn other_parts_of_a_checkpoint_are_left_aside() {
    let ensemble = &GOLDEN.ensembles["a"];
    for (file, key) in [
        ("image_convnext.safetensors", "head.fc.weight"),
        ("image_efficientvit.safetensors", "head.classifier.4.bias"),
        ("image_efficientvit.safetensors", "stem.in_conv.norm.num_batches_tracked"),
        ("image_eva02.safetensors", "head.bias"),
        ("image_eva02.safetensors", "rope.periods"),
        ("image_eva02.safetensors", "blocks.0.attn.rope.freqs_cos"),
        ("plain.safetensors", "visual.class_embedding"),
        ("plain.safetensors", "logit_scale"),
        ("custom.safetensors", "text.attn_mask"),
    ] {
        let mut module = ensemble.modules[file].clone();
        module.tensors.insert(key.to_owned(), vec![1]);
        let bytes = module.file("a", file);
        let loaded = load("a", &ensemble.manifest, F32, |wanted| (wanted == file).then(|| bytes.clone()));
        assert!(loaded.is_ok(), "{key}: {:?}", loaded.err());
    }
}

#[test]
fn baai_names_of_eva02_are_taken() {
    let ensemble = &GOLDEN.ensembles["a"];
    let file = "image_eva02.safetensors";
    let mut renamed = ensemble.modules[file].clone();
    let names = [("fc1_g", "w1"), ("fc1_x", "w2"), ("fc2", "w3"), ("mlp.norm", "mlp.ffn_ln")];
    let biases = [("q_proj.bias", "q_bias"), ("v_proj.bias", "v_bias")];
    let rename = |key: String| names.iter().chain(&biases).fold(key, |key, (timm, baai)| key.replace(timm, baai));
    renamed.tensors = renamed.tensors.into_iter().map(|(key, shape)| (rename(key), shape)).collect();
    let bytes = renamed.file("a", file);
    load("a", &ensemble.manifest, F32, |wanted| (wanted == file).then(|| bytes.clone())).unwrap();
}

#[test]
fn a_file_that_is_no_safetensors_is_refused() {
    let manifest = &GOLDEN.ensembles["a"].manifest;
    for bytes in [vec![], b"PK\x03\x04".to_vec(), vec![255; 64]] {
        let replaced = |wanted: &str| (wanted == "plain.safetensors").then(|| bytes.clone());
        match refused(load("a", manifest, F32, replaced)) {
            ModelError::File { file, problem } => {
                assert_eq!(file, "plain.safetensors");
                assert!(problem.contains("not a safetensors file"), "{problem}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn missing_calibration_is_refused_with_the_settings() {
    let manifest = &GOLDEN.ensembles["a"].manifest;
    let change = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        refused(load("a", &manifest, LoadOptions { dtype: Dtype::Bf16, tta: true, ..F32 }, |_| None))
    };
    let wanted = "no entry for expert image_eva02, tta true, input_size 56, dtype bf16";
    assert_manifest(
        change(&|manifest| manifest.calibration.retain(|entry| entry.expert != "image_eva02")),
        "calibration",
        wanted,
    );
    assert_manifest(
        change(&|manifest| manifest.calibration.retain(|entry| entry.expert != "image_eva02" || !entry.tta)),
        "calibration",
        wanted,
    );
    let narrow = |manifest: &mut Manifest| {
        for entry in manifest.calibration.iter_mut().filter(|entry| entry.expert == "image_eva02") {
            entry.dtypes = vec!["f32".to_owned()];
        }
    };
    assert_manifest(change(&narrow), "calibration", wanted);
    let other_side = |manifest: &mut Manifest| {
        for entry in manifest.calibration.iter_mut().filter(|entry| entry.expert == "image_eva02") {
            entry.input_size = 448;
        }
    };
    assert_manifest(change(&other_side), "calibration", wanted);
}

#[test]
fn impossible_settings_are_refused() {
    // Sides are those of the calibration too, so that the network is what refuses.
    let side = |index: usize, side: u32| {
        error_of(|manifest| {
            manifest.experts[index].input_size = side;
            let name = manifest.experts[index].name.clone();
            manifest.calibration.iter_mut().filter(|entry| entry.expert == name).for_each(|e| e.input_size = side);
        })
    };
    assert_manifest(side(0, 31), "experts.image_convnext.input_size", "is 31, expected at least 32");
    assert_manifest(side(1, 16), "experts.image_efficientvit.input_size", "is 16, expected at least 32");
    assert_manifest(side(2, 64), "experts.image_eva02.input_size", "is 64, expected a multiple of the patch size 14");
    assert_manifest(side(2, 0), "experts.image_eva02.input_size", "is 0");
    for heads in [Some(0), Some(-3), Some(5), Some(48), None] {
        let error = error_of(|manifest| manifest.experts[2].backbone.heads = heads);
        assert_manifest(error, "experts.image_eva02.backbone.heads", "do not divide a width of 48");
    }
    let error = error_of(|manifest| manifest.experts[2].backbone.rope_reference = Some(0));
    assert_manifest(error, "experts.image_eva02.backbone.rope_reference", "is 0");
    let error = error_of(|manifest| manifest.text.towers[1].heads = Some(5));
    assert_manifest(error, "text.towers.custom.heads", "5 heads do not divide a width of 12");
    let error = error_of(|manifest| manifest.text.context_length = 78);
    assert_manifest(error, "text.context_length", "is 78, but tower plain has positions for 77");
}

#[test]
fn input_that_does_not_fit_is_refused() {
    let network = GOLDEN.ensembles["a"].load(false, Dtype::F32).unwrap();
    let text = Tensor::zeros([1, 44], (Kind::Float, Device::Cpu));
    let sides = network.sides(Track::Image);
    assert_eq!(sides, [56, 64]);
    let one = frames(&["x"], &sides);
    let refuse = |track: Track, items: &[&Frames], text: &Tensor, part: &str| match network.score(track, items, text) {
        Err(ModelError::Input(problem)) => assert!(problem.contains(part), "{problem:?} does not say {part:?}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("scored, though {part}"),
    };
    refuse(Track::Image, &[], &text, "no items");
    refuse(Track::Image, &[&frames(&["x", "y"], &sides)], &text, "2 frames, expected 1 to 1");
    refuse(Track::Image, &[&Frames { count: 0, stacks: vec![] }], &text, "0 frames");
    refuse(Track::Video, &[&frames(&["x"; 17], &[64])], &text, "17 frames, expected 1 to 16");
    refuse(Track::Image, &[&frames(&["x"], &[64])], &text, "no frames of side 56");
    let mut short = one.clone();
    short.stacks[0].rgb.pop();
    refuse(Track::Image, &[&short], &text, "bytes long");
    refuse(Track::Image, &[&one, &one], &text, "expected [2, 44]");

    assert!(matches!(network.encode_prompts(&[]), Err(ModelError::Input(_))));
    for (ids, part) in [(vec![], "0 tokens"), (vec![1; 78], "78 tokens"), (vec![49406, 49408], "token 49408")] {
        match network.encode_prompts(&[&TokenIds { ids: ids.into_boxed_slice(), truncated: false }]) {
            Err(ModelError::Input(problem)) => assert!(problem.contains(part), "{problem}"),
            other => panic!("{other:?}"),
        }
    }
    let of_another_vocabulary = TokenIds { ids: vec![49405, 320, 49406].into(), truncated: false };
    let refusal = network.encode_prompts(&[&of_another_vocabulary]).unwrap_err().to_string();
    assert!(refusal.starts_with("bundle.toml: text.tokenizer: ends prompts with id 49406"), "{refusal}");
}

#[test]
fn a_score_that_is_no_number_is_an_error() {
    let network = GOLDEN.ensembles["a"].load(false, Dtype::F32).unwrap();
    let text = Tensor::full([1, 44], f64::NAN, (Kind::Float, Device::Cpu));
    let item = frames(&["x"], &network.sides(Track::Image));
    let (scores, _) = network.score(Track::Image, &[&item], &text).unwrap();
    let error = scores[0].as_ref().unwrap_err().to_string();
    assert_eq!(error, "z of expert image_convnext, whose raw score is NaN, is NaN, not a finite number");
}
