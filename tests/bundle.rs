//! Bundles: what is served is exactly what was assembled, and anything else is refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pcqa::media::{FrameStack, Frames};
use pcqa::model::{Bundle, Dtype, Ensemble, LoadOptions, Track};
use pcqa::text::Tokenizer;
use pcqa::train::{Preset, assemble, synthesise};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Stored, TensorView};
use tch::Device;
use tempfile::TempDir;
use toml::{Table, Value};

const MANIFEST: &str = include_str!("../src/model/demo/bundle.toml");
const HEAD: &str = "head_image_convnext.safetensors";

/// The demo bundle as a directory.
fn demo_directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    write_demo(directory.path());
    directory
}

fn write_demo(directory: &Path) {
    let demo = Bundle::demo().unwrap();
    for name in demo.manifest().files.keys() {
        fs::write(directory.join(name), demo.file(name).unwrap().bytes()).unwrap();
    }
    fs::write(directory.join("bundle.toml"), MANIFEST).unwrap();
}

/// The demo's manifest after `edit`.
fn edited(edit: impl FnOnce(&mut Table)) -> String {
    let mut table: Table = MANIFEST.parse().unwrap();
    edit(&mut table);
    table.to_string()
}

/// The value at a path of keys and, in lists, places, with slashes between them.
fn at<'a>(table: &'a mut Table, path: &str) -> &'a mut Value {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    rest.split('/').filter(|step| !step.is_empty()).fold(&mut table[first], |value, step| match step.parse::<usize>() {
        Ok(place) => &mut value[place],
        Err(_) => &mut value[step],
    })
}

fn set(path: &str, value: impl Into<Value>) -> String {
    let value = value.into();
    edited(|table| match path.rsplit_once('/') {
        // A key that is not there yet is made.
        Some((parent, key)) if key.parse::<usize>().is_err() => {
            at(table, parent).as_table_mut().unwrap().insert(key.to_owned(), value);
        }
        Some(_) => *at(table, path) = value,
        None => {
            table.insert(path.to_owned(), value);
        }
    })
}

fn remove(path: &str) -> String {
    edited(|table| {
        let removed = match path.rsplit_once('/') {
            Some((parent, key)) => at(table, parent).as_table_mut().unwrap().remove(key),
            None => table.remove(path),
        };
        assert!(removed.is_some(), "{path}");
    })
}

fn refusal(directory: &Path) -> String {
    Bundle::open(directory).expect_err("was accepted").to_string()
}

fn empty() -> Value {
    Value::Array(Vec::new())
}

#[test]
fn the_demo_directory_opens_as_the_compiled_in_bundle() {
    let directory = demo_directory();
    let (opened, again, demo) =
        (Bundle::open(directory.path()).unwrap(), Bundle::open(directory.path()).unwrap(), Bundle::demo().unwrap());
    assert_eq!(opened.digest(), demo.digest());
    assert_eq!(opened.digest(), again.digest());
    assert_eq!(opened.digest().len(), 64);
    assert_eq!(opened.manifest(), demo.manifest());
    assert!(!demo.manifest().trained);
    assert!(demo.manifest().name.contains("untrained"));
    for name in demo.manifest().files.keys() {
        assert_eq!(opened.file(name).unwrap().bytes(), demo.file(name).unwrap().bytes(), "{name}");
    }
    assert_eq!(demo.file("bundle.toml").unwrap_err().to_string(), "bundle.toml: is not listed in [files]");
}

#[test]
fn values_that_make_no_sense_are_refused_by_key() {
    let long = "x".repeat(65);
    let cases: Vec<(String, &str)> = vec![
        (set("schema", 2), "schema: is 2, expected 1"),
        (set("schema", "1"), "schema: is \"1\", expected 1"),
        (remove("schema"), "schema: is missing, expected 1"),
        (set("name", " "), "name: is \" \", expected some text on one line"),
        (set("version", "1\n2"), "version: is \"1\\n2\", expected some text on one line"),
        (set("licence", ""), "licence: is \"\", expected some text on one line"),
        (set("provenance", ""), "provenance: is \"\", expected some text on one line"),
        (set("max_frames", 0), "max_frames: is 0, expected 1 to 64"),
        (set("max_frames", 65), "max_frames: is 65, expected 1 to 64"),
        (set("mos/dataset", ""), "mos.dataset: is \"\", expected some text on one line"),
        (set("mos/mean", f64::NAN), "mos.mean: is NaN, expected a finite number"),
        (set("mos/mean", 5.5), "mos.mean: is 5.5, expected 1 to 5 (mos.min, mos.max)"),
        (set("mos/std", 0.0), "mos.std: is 0, expected a finite number greater than 0"),
        (set("mos/min", 5.0), "mos.min: is 5, expected less than mos.max = 5"),
        (set("mos/max", f64::INFINITY), "mos.max: is inf, expected a finite number"),
        (set("text/context_length", 1), "text.context_length: is 1, expected 2 to 1024"),
        (set("text/towers", empty()), "text.towers: is empty, expected at least one tower"),
        (
            set("text/towers/1/name", "openclip"),
            "text.towers[1].name: is \"openclip\" for a second time, expected distinct names",
        ),
        (set("text/towers/0/heads", 0), "text.towers[0].heads: is 0, expected 1 to 1024"),
        (set("experts", empty()), "experts: is empty, expected at least one expert"),
        (set("experts/0/name", ""), "experts[0].name: is \"\", expected 1 to 64 ASCII letters, digits, `_` or `-`"),
        (
            set("experts/0/name", "a/b"),
            "experts[0].name: is \"a/b\", expected 1 to 64 ASCII letters, digits, `_` or `-`",
        ),
        (
            set("experts/1/name", "image_convnext"),
            "experts[1].name: is \"image_convnext\" for a second time, expected distinct names",
        ),
        (set("experts/0/input_size", 0), "experts[0].input_size: is 0, expected 32 to 4096"),
        (set("experts/0/input_size", 5000), "experts[0].input_size: is 5000, expected 32 to 4096"),
        (set("experts/2/input_size", 120), "experts[2].input_size: is 120, expected a multiple of 14 for eva02"),
        (set("experts/0/backbone/mean/1", f64::NAN), "experts[0].backbone.mean[1]: is NaN, expected a finite number"),
        (
            set("experts/0/backbone/std/2", -0.1),
            "experts[0].backbone.std[2]: is -0.1, expected a finite number greater than 0",
        ),
        (set("experts/0/backbone/heads", 2), "experts[0].backbone.heads: is given, but only eva02 has it"),
        (
            set("experts/0/backbone/rope_reference", 8),
            "experts[0].backbone.rope_reference: is given, but only eva02 has it",
        ),
        (set("experts/2/backbone/rope_reference", 0), "experts[2].backbone.rope_reference: is 0, expected 1 to 1024"),
        (set("calibration/0/expert", "nobody"), "calibration[0].expert: is \"nobody\", expected the name of an expert"),
        (
            set("calibration/0/input_size", 224),
            "calibration[0].input_size: is 224, expected 112, the input_size of expert \"image_convnext\"",
        ),
        (set("calibration/0/mu", f64::INFINITY), "calibration[0].mu: is inf, expected a finite number"),
        (set("calibration/0/sigma", f64::NAN), "calibration[0].sigma: is NaN, expected a finite number greater than 0"),
        (set("calibration/0/sigma", 0.0), "calibration[0].sigma: is 0, expected a finite number greater than 0"),
        (
            set("calibration/0/dtypes", empty()),
            "calibration[0].dtypes: is empty, expected one or more of [\"f32\", \"bf16\"]",
        ),
        (
            set("calibration/0/dtypes/0", "f16"),
            "calibration[0].dtypes: has \"f16\", expected one or more of [\"f32\", \"bf16\"]",
        ),
        (
            set("calibration/5/tta", false),
            "calibration[5].dtypes: repeats \"f32\" of expert \"image_convnext\" with tta = false, expected it once",
        ),
        (set("calibration", empty()), "calibration: has no entry for expert \"image_convnext\", expected at least one"),
    ];
    check_manifests(cases);
    let too_long = set("experts/0/name", long.clone());
    let expected = format!("experts[0].name: is {long:?}, expected 1 to 64 ASCII letters, digits, `_` or `-`");
    check_manifests(vec![(too_long, &expected)]);
}

#[test]
fn unknown_missing_and_mistyped_keys_are_refused_by_key() {
    let first = |path: &str, value: &str| {
        edited(|table| {
            at(table, path).as_table_mut().unwrap().insert(value.to_owned(), Value::Integer(1));
        })
    };
    let cases = vec![
        (set("colour", "red"), "colour: unknown field `colour`, expected one of"),
        (first("mos", "median"), "mos.median: unknown field `median`, expected one of"),
        (first("experts/1", "size"), "experts[1].size: unknown field `size`, expected one of"),
        (first("experts/1/backbone", "patch"), "experts[1].backbone.patch: unknown field `patch`, expected one of"),
        (first("calibration/3", "bias"), "calibration[3].bias: unknown field `bias`, expected one of"),
        (remove("mos/std"), "mos: missing field `std`"),
        (remove("experts"), "experts"),
        (set("experts/0/mixer", "sum"), "experts[0].mixer: unknown variant `sum`, expected `dot` or `concat`"),
        (set("experts/0/input_size", -1), "experts[0].input_size: invalid value: integer `-1`, expected u32"),
        (set("calibration/0/mu", "low"), "calibration[0].mu: invalid type: string \"low\", expected f64"),
    ];
    for (text, expected) in cases {
        let directory = demo_directory();
        fs::write(directory.path().join("bundle.toml"), text).unwrap();
        let found = refusal(directory.path());
        assert!(found.starts_with("bundle.toml: ") && found.contains(expected), "{found}\nexpected {expected}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    let directory = demo_directory();
    fs::write(directory.path().join("bundle.toml"), "schema = 1\nname = \n").unwrap();
    assert!(refusal(directory.path()).starts_with("bundle.toml: line 2: "), "{}", refusal(directory.path()));
}

#[test]
fn file_names_are_plain_and_listed_exactly() {
    let outside =
        "is \"../x.safetensors\", expected a plain file name: ASCII letters, digits, `_`, `-`, `.`, no directory";
    let rename = |path: &str| set(path, "../x.safetensors");
    let unused = |digest: Table| {
        edited(|table| {
            at(table, "files").as_table_mut().unwrap().insert("z.safetensors".to_owned(), Value::Table(digest));
        })
    };
    let digest = |sha256: &str, bytes: i64| {
        Table::from_iter([("sha256".to_owned(), sha256.into()), ("bytes".to_owned(), bytes.into())])
    };
    let sha = "0".repeat(64);
    let of_head = |path: &str, value: Value| {
        edited(|table| {
            at(table, &format!("files/{HEAD}")).as_table_mut().unwrap().insert(path.to_owned(), value);
        })
    };
    let upper = "A".repeat(64);
    let upper_refused = format!("files.\"{HEAD}\".sha256: is {upper:?}, expected 64 lower-case hexadecimal digits");
    let empty_refused = format!("files.\"{HEAD}\".bytes: is 0, expected at least 1");
    let short_refused = format!("files.\"{HEAD}\".sha256: is \"ab\", expected 64 lower-case hexadecimal digits");
    let unlisted = edited(|table| {
        at(table, "files").as_table_mut().unwrap().remove(HEAD);
    });
    let unlisted_refused = format!("experts[0].head: is {HEAD:?}, which [files] does not list");
    check_manifests(vec![
        (rename("experts/0/head"), &format!("experts[0].head: {outside}")),
        (rename("experts/4/backbone/weights"), &format!("experts[4].backbone.weights: {outside}")),
        (rename("text/towers/1/weights"), &format!("text.towers[1].weights: {outside}")),
        (
            set("text/tokenizer", "/etc/passwd"),
            "text.tokenizer: is \"/etc/passwd\", expected a plain file name: ASCII letters, digits, `_`, `-`, `.`, no directory",
        ),
        (
            set("text/towers/0/weights", ".."),
            "text.towers[0].weights: is \"..\", expected a plain file name: ASCII letters, digits, `_`, `-`, `.`, no directory",
        ),
        (
            set("experts/0/head", "pytorch_model.bin"),
            "experts[0].head: is \"pytorch_model.bin\", expected a name that ends in .safetensors",
        ),
        (unused(digest(&sha, 1)), "files.\"z.safetensors\": is not used by any tower, expert or tokenizer"),
        (unlisted, &unlisted_refused),
        (of_head("sha256", upper.into()), &upper_refused),
        (of_head("sha256", "ab".into()), &short_refused),
        (of_head("bytes", 0.into()), &empty_refused),
    ]);
}

/// Opens the demo with each manifest and compares the whole refusal.
fn check_manifests(cases: Vec<(String, &str)>) {
    let directory = demo_directory();
    for (text, expected) in cases {
        fs::write(directory.path().join("bundle.toml"), text).unwrap();
        assert_eq!(refusal(directory.path()), format!("bundle.toml: {expected}"));
    }
}

#[test]
fn files_that_are_not_what_the_manifest_says_are_refused_by_name() {
    type Spoil = fn(&Path);
    let cases: Vec<(Spoil, &str)> = vec![
        (|head| fs::remove_file(head).unwrap(), "is missing in "),
        (|head| fs::write(head, "").unwrap(), "has 0 bytes, expected "),
        (|head| fs::write(head, [fs::read(head).unwrap(), vec![0]].concat()).unwrap(), " bytes, expected "),
        (
            |head| {
                let mut bytes = fs::read(head).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(head, bytes).unwrap();
            },
            "has SHA-256 ",
        ),
        (
            |head| {
                fs::remove_file(head).unwrap();
                fs::create_dir(head).unwrap();
            },
            "is not a regular file",
        ),
        (
            |head| {
                fs::remove_file(head).unwrap();
                symlink("nowhere", head).unwrap();
            },
            "is missing in ",
        ),
    ];
    for (spoil, expected) in cases {
        let directory = demo_directory();
        spoil(&directory.path().join(HEAD));
        let found = refusal(directory.path());
        assert!(found.starts_with(&format!("{HEAD}: ")) && found.contains(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn surplus_files_are_refused_but_for_papers_and_hidden_ones() {
    for surplus in ["model.bin", "weights.safetensors", "bundle.toml.bak", "notes.txt"] {
        let directory = demo_directory();
        fs::write(directory.path().join(surplus), "x").unwrap();
        assert_eq!(refusal(directory.path()), format!("{surplus}: is not listed in [files] of bundle.toml"));
    }
    let directory = demo_directory();
    fs::create_dir(directory.path().join("images")).unwrap();
    assert_eq!(refusal(directory.path()), "images: is not listed in [files] of bundle.toml");

    let directory = demo_directory();
    for companion in ["README.md", "LICENSE", "LICENSE.txt", "NOTICE", ".gitattributes"] {
        fs::write(directory.path().join(companion), "x").unwrap();
    }
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    Bundle::open(directory.path()).unwrap();
}

#[test]
fn files_may_be_links_to_what_they_should_be() {
    let (directory, cache) = (demo_directory(), TempDir::new().unwrap());
    let blob = cache.path().join("blob");
    fs::rename(directory.path().join(HEAD), &blob).unwrap_or_else(|_| {
        fs::copy(directory.path().join(HEAD), &blob).unwrap();
        fs::remove_file(directory.path().join(HEAD)).unwrap();
    });
    symlink(&blob, directory.path().join(HEAD)).unwrap();
    Bundle::open(directory.path()).unwrap();
}

#[test]
fn a_directory_without_a_manifest_is_refused() {
    let directory = TempDir::new().unwrap();
    assert!(refusal(directory.path()).starts_with("bundle.toml: cannot be read in "));
    assert!(refusal(&directory.path().join("absent")).starts_with("bundle.toml: cannot be read in "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_changed_bit_and_no_lost_tail_goes_unnoticed(file in 0..13usize, place: prop::sample::Index, bit in 0..8u32, cut: bool) {
        let directory = demo_directory();
        let name = Bundle::demo().unwrap().manifest().files.keys().nth(file).unwrap().clone();
        let path = directory.path().join(&name);
        let mut bytes = fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= 1 << bit;
        }
        fs::write(&path, bytes).unwrap();
        let (found, expected) = (refusal(directory.path()), format!("{name}: has "));
        prop_assert!(found.starts_with(&expected), "{}", found);
    }
}

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
    check_head(&upstream, "tensor mlp.fc2.weight: has shape [1, 3], expected [1, 64]");

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
    assert!(found.contains("expert image_convnext") && found.contains("finite"), "{found}");
}

#[test]
fn the_compiled_in_bundle_is_what_synth_writes() {
    let root = TempDir::new().unwrap();
    let written = synthesise(Preset::Demo, 1, &root.path().join("demo"), false).unwrap();
    let demo = Bundle::demo().unwrap();
    assert_eq!(written.manifest().files, demo.manifest().files);
    for (ours, theirs) in written.manifest().calibration.iter().zip(&demo.manifest().calibration) {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-3 * theirs.sigma;
        assert!(close(ours.mu, theirs.mu) && close(ours.sigma, theirs.sigma), "{ours:?}\n{theirs:?}");
    }
    let mut written = written.manifest().clone();
    written.calibration.clone_from(&demo.manifest().calibration);
    assert_eq!(&written, demo.manifest());
}

#[test]
fn the_compiled_in_bundle_scores_near_the_middle_of_its_scale() {
    let demo = Bundle::demo().unwrap();
    let text = &demo.manifest().text;
    let tokenizer = Tokenizer::from_json(demo.file(&text.tokenizer).unwrap().bytes(), text.context_length).unwrap();
    let prompt = tokenizer.encode("a photo of a cat");
    let rgb = (0..112 * 112 * 3).map(|i| (i / 3 % 112 * 2) as u8).collect();
    let image = Frames { count: 1, stacks: vec![FrameStack { side: 112, rgb }] };
    for tta in [false, true] {
        let ensemble = Ensemble::load(&demo, LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta }).unwrap();
        let text = ensemble.encode_prompts(&[&prompt]).unwrap();
        for (track, experts) in [(Track::Image, 3), (Track::Video, 2)] {
            let (scores, _) = ensemble.score(track, &[&image], &text).unwrap();
            assert_eq!(scores[0].experts.len(), experts);
            assert!(scores[0].z.abs() < 4.0, "{:?}", scores[0]);
            assert!((scores[0].mos - (3.0 + 0.7 * scores[0].z)).abs() < 1e-9);
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
    assert!(text.contains("untrained") && text.contains(Bundle::demo().unwrap().digest()), "{text}");
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
