//! `pcqa-train bundle`, `pcqa-train export` and `pcqa-train init`.

use crate::support::*;
use pcqa::media::{FrameStack, Frames};
use pcqa::model::{Bundle, Dtype, Ensemble, LoadOptions, Track};
use pcqa::text::Tokenizer;
use pcqa::train::{Preset, assemble, export, initialise};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Stored, TensorView};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use tch::Device;
use tempfile::TempDir;
use toml::{Table, Value};

/// Weights as somebody has them, with a description: upstream's names, one folder each.
struct Upstream {
    root: TempDir,
    spec: Table,
}

impl Upstream {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let mut spec: Table = MANIFEST.parse().unwrap();
        let demo = Bundle::demo().unwrap();
        let put = |value: &mut Value| {
            let name = value.as_str().unwrap();
            let path = format!("{}/model.safetensors", name.trim_end_matches(".safetensors"));
            fs::create_dir_all(root.path().join(&path).parent().unwrap()).unwrap();
            fs::write(root.path().join(&path), demo.file(name).unwrap().bytes()).unwrap();
            *value = Value::String(path);
        };
        put(at(&mut spec, "text/tokenizer"));
        for tower in 0..2 {
            put(at(&mut spec, &format!("text/towers/{tower}/weights")));
        }
        for expert in 0..5 {
            put(at(&mut spec, &format!("experts/{expert}/head")));
            put(at(&mut spec, &format!("experts/{expert}/backbone/weights")));
        }
        spec.remove("files");
        Self { root, spec }
    }

    fn spec(&self) -> PathBuf {
        let path = self.root.path().join("judge.toml");
        fs::write(&path, self.spec.to_string()).unwrap();
        path
    }

    fn out(&self) -> PathBuf {
        self.root.path().join("out/bundle")
    }

    /// Refused, in one line, with nothing left behind.
    fn refusal(&self) -> String {
        let error = format!("{:#}", assemble(&self.spec(), &self.out(), false).expect_err("was assembled"));
        assert_eq!(error.lines().count(), 1, "{error}");
        let left = fs::read_dir(self.out().parent().unwrap()).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "something was left behind");
        error
    }

    /// Rewrites the tensors of the first head.
    fn edit_head(&self, edit: impl FnOnce(&mut BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)>)) {
        let path = self.root.path().join("head_image_convnext/model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut owned: BTreeMap<_, _> = tensors
            .iter()
            .map(|(key, view)| (key.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            .collect();
        edit(&mut owned);
        let views = owned
            .iter()
            .map(|(key, (dtype, shape, data))| (key.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

#[test]
fn a_bundle_assembled_twice_is_the_same_and_opens() {
    let upstream = Upstream::new();
    let bundle = assemble(&upstream.spec(), &upstream.out(), false).unwrap();
    let opened = Bundle::open(&upstream.out()).unwrap();
    assert_eq!(bundle.digest(), opened.digest());
    assert_eq!(opened.manifest().files, Bundle::demo().unwrap().manifest().files);

    let refused = assemble(&upstream.spec(), &upstream.out(), false).unwrap_err().to_string();
    assert!(refused.ends_with("out/bundle: exists; --force replaces it"), "{refused}");
    let again = assemble(&upstream.spec(), &upstream.out(), true).unwrap();
    assert_eq!(again.digest(), bundle.digest());
    assert_eq!(fs::read_dir(upstream.out().parent().unwrap()).unwrap().count(), 1, "something was left behind");

    let home = upstream.root.path().join("head_image_convnext");
    let refused = assemble(&upstream.spec(), &home, true).unwrap_err().to_string();
    assert!(refused.ends_with("exists and is not a bundle, so it is not replaced"), "{refused}");
    assert!(home.join("model.safetensors").is_file());
}

#[test]
fn inspect_finds_what_no_digest_shows() {
    let root = TempDir::new().unwrap();
    let directory = root.path().join("b");
    export(&directory, false).unwrap();
    let inspect = || pcqa_train(&["inspect", directory.to_str().unwrap()]);
    assert!(inspect().status.success());
    let tokenizer = Sha256::digest(fs::read(directory.join("tokenizer.json")).unwrap());
    fs::write(directory.join("tokenizer.json"), "{}").unwrap();
    let manifest = fs::read_to_string(directory.join("bundle.toml")).unwrap();
    let manifest = manifest.replace(&format!("{tokenizer:x}"), &format!("{:x}", Sha256::digest("{}")));
    let mut manifest: Table = manifest.parse().unwrap();
    *at(&mut manifest, "files/tokenizer.json/bytes") = 2.into();
    fs::write(directory.join("bundle.toml"), manifest.to_string()).unwrap();
    let refused = inspect();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("b: tokenizer.json: "), "{said}");
}

#[test]
fn no_file_is_a_tokenizer_and_weights() {
    let mut upstream = Upstream::new();
    let tower = at(&mut upstream.spec, "text/towers/0/weights").clone();
    *at(&mut upstream.spec, "text/tokenizer") = tower;
    let found = upstream.refusal();
    assert!(found.ends_with(": is given as a tokenizer and as weights"), "{found}");
}

#[test]
fn a_file_that_two_experts_share_is_in_the_bundle_once() {
    let mut upstream = Upstream::new();
    let shared = at(&mut upstream.spec, "experts/0/backbone/weights").clone();
    *at(&mut upstream.spec, "experts/3/backbone/weights") = shared;
    let bundle = assemble(&upstream.spec(), &upstream.out(), false).unwrap();
    assert_eq!(bundle.manifest().experts[3].backbone.weights, "backbone_image_convnext.safetensors");
    assert_eq!(bundle.manifest().files.len(), 12);
}

#[test]
fn descriptions_are_refused_by_key() {
    let mut upstream = Upstream::new();
    *at(&mut upstream.spec, "experts/0/head") = "absent.safetensors".into();
    let found = upstream.refusal();
    assert!(found.contains("judge.toml: experts[0].head: \"absent.safetensors\": cannot be read: "), "{found}");

    let mut upstream = Upstream::new();
    *at(&mut upstream.spec, "calibration/0/sigma") = 0.0.into();
    assert!(
        upstream.refusal().ends_with("judge.toml: calibration[0].sigma: is 0, expected a finite number greater than 0")
    );

    let mut upstream = Upstream::new();
    let files = MANIFEST.parse::<Table>().unwrap().remove("files").unwrap();
    upstream.spec.insert("files".to_owned(), files);
    assert!(upstream.refusal().ends_with("files: is given, but is made by `pcqa-train bundle`: leave it out"));
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_file_and_key() {
    let upstream = Upstream::new();
    upstream.edit_head(|tensors| drop(tensors.remove("mlp.fc2.bias")));
    check_head(&upstream, "tensor mlp.fc2.bias: is missing");

    let upstream = Upstream::new();
    upstream.edit_head(|tensors| drop(tensors.insert("mlp.fc3.bias".to_owned(), (Stored::F32, vec![1], vec![0; 4]))));
    check_head(&upstream, "tensor mlp.fc3.bias: is not part of this network");

    let upstream = Upstream::new();
    upstream
        .edit_head(|tensors| drop(tensors.insert("mlp.fc2.weight".to_owned(), (Stored::F32, vec![1, 3], vec![0; 12]))));
    check_head(&upstream, "tensor mlp.fc2.weight: has shape [1, 3], expected [1, 256]");

    let upstream = Upstream::new();
    upstream.edit_head(|tensors| drop(tensors.insert("mlp.fc2.bias".to_owned(), (Stored::I64, vec![1], vec![0; 8]))));
    check_head(&upstream, "tensor mlp.fc2.bias: has type I64, expected F32, F16, BF16 or F64");

    let upstream = Upstream::new();
    let path = upstream.root.path().join("head_image_convnext/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    check_head(&upstream, "not a safetensors file: ");
}

fn check_head(upstream: &Upstream, expected: &str) {
    let found = upstream.refusal();
    assert!(found.contains(&format!("{HEAD}: ")) && found.contains(expected), "{found}\nexpected {expected}");
    assert!(found.contains("head_image_convnext/model.safetensors: "), "does not name the source: {found}");
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let upstream = Upstream::new();
    let nan = f32::NAN.to_le_bytes().to_vec();
    upstream.edit_head(|tensors| drop(tensors.insert("mlp.fc2.bias".to_owned(), (Stored::F32, vec![1], nan))));
    let found = upstream.refusal();
    assert!(found.contains("head_image_convnext/model.safetensors: head_image_convnext.safetensors: "), "{found}");
    assert!(found.ends_with("tensor mlp.fc2.bias: has NaN among its values, expected finite numbers"), "{found}");
}

#[test]
fn init_writes_what_the_compiled_in_bundle_began_as() {
    let root = TempDir::new().unwrap();
    let untrained = initialise(Preset::Demo, 1, &root.path().join("demo"), false).unwrap();
    let demo = Bundle::demo().unwrap();
    assert!(!untrained.manifest().trained && untrained.manifest().name.contains("untrained"));
    assert!(demo.manifest().trained);
    assert_eq!(untrained.manifest().text, demo.manifest().text);
    assert_eq!(untrained.manifest().experts, demo.manifest().experts);
    let shapes = |bundle: &Bundle, name: &str| -> BTreeMap<String, Vec<usize>> {
        let file = bundle.file(name).unwrap();
        let tensors = SafeTensors::deserialize(file.bytes()).unwrap();
        // Training counts batches, serving does not.
        let served = tensors.iter().filter(|(key, _)| !key.ends_with("num_batches_tracked"));
        served.map(|(key, view)| (key.to_owned(), view.shape().to_vec())).collect()
    };
    for name in demo.manifest().files.keys().filter(|name| name.ends_with(".safetensors")) {
        assert_eq!(shapes(&untrained, name), shapes(&demo, name), "{name}");
    }
}

#[test]
fn init_writes_the_same_twice_and_another_for_another_seed() {
    let root = TempDir::new().unwrap();
    let write = |seed, name: &str| initialise(Preset::Demo, seed, &root.path().join(name), false).unwrap();
    let (first, again, other) = (write(1, "first"), write(1, "again"), write(2, "other"));
    assert_eq!(first.digest(), again.digest());
    let differs = |name: &&String| first.manifest().files[*name] != other.manifest().files[*name];
    let names = first.manifest().files.keys().filter(|name| name.ends_with(".safetensors"));
    assert!(names.clone().count() > 0 && names.clone().all(|name| differs(&name)));
}

#[test]
fn export_writes_the_compiled_in_bundle() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let written = export(&out, false).unwrap();
    let demo = Bundle::demo().unwrap();
    assert_eq!(written.digest(), demo.digest());
    assert_eq!(Bundle::open(&out).unwrap().manifest(), demo.manifest());
    let again = format!("{:#}", export(&out, false).unwrap_err());
    assert!(again.contains("out"), "{again}");
}

#[test]
fn the_compiled_in_bundle_scores_near_the_middle_of_its_scale() {
    let demo = Bundle::demo().unwrap();
    let text = &demo.manifest().text;
    let tokenizer = Tokenizer::from_json(demo.file(&text.tokenizer).unwrap().bytes(), text.context_length).unwrap();
    let prompt = tokenizer.encode("a photo of a cat");
    let rgb = (0..56 * 56 * 3).map(|i| (i / 3 % 56 * 4) as u8).collect();
    let image = Frames { count: 1, stacks: vec![FrameStack { side: 56, rgb }] };
    for tta in [false, true] {
        let ensemble = Ensemble::load(&demo, LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta }).unwrap();
        let text = ensemble.encode_prompts(&[&prompt]).unwrap();
        for (track, experts) in [(Track::Image, 3), (Track::Video, 2)] {
            let (scores, _) = ensemble.score(track, &[&image], &text).unwrap();
            let score = scores[0].as_ref().unwrap();
            assert_eq!(score.experts.len(), experts);
            assert!(score.z.abs() < 4.0, "{score:?}");
            let scale = &demo.manifest().mos;
            assert!((score.mos - (scale.mean + scale.std * score.z)).abs() < 1e-9);
        }
    }
}

fn pcqa_train(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pcqa-train")).args(arguments).output().unwrap()
}

#[test]
fn the_command_says_what_went_wrong_in_one_line() {
    let usage = pcqa_train(&["bundle", "--spec", "x.toml"]);
    assert_eq!(usage.status.code(), Some(2));
    let failed = pcqa_train(&["bundle", "--spec", "/absent/x.toml", "--out", "/absent/out"]);
    assert_eq!(failed.status.code(), Some(1));
    let error = String::from_utf8(failed.stderr).unwrap();
    assert!(error.starts_with("pcqa-train: /absent/x.toml: cannot be read: ") && error.lines().count() == 1, "{error}");
    let shown = pcqa_train(&["inspect", "--demo"]);
    assert_eq!(shown.status.code(), Some(0));
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(!text.contains("untrained") && text.contains(Bundle::demo().unwrap().digest()), "{text}");
}

#[test]
fn the_example_in_the_help_is_a_description() {
    let help = String::from_utf8(pcqa_train(&["bundle", "--help"]).stdout).unwrap();
    let example: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("schema"))
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .collect();
    let root = TempDir::new().unwrap();
    let spec = root.path().join("judge.toml");
    fs::write(&spec, example.join("\n")).unwrap();
    let error = format!("{:#}", assemble(&spec, &root.path().join("out"), false).unwrap_err());
    assert!(error.contains("text.tokenizer: \"clip/tokenizer.json\": cannot be read"), "{error}");
}
