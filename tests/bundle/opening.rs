//! What `Bundle::open` takes and refuses.

use crate::support::*;
use pcqa::model::Bundle;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;
use toml::{Table, Value};

#[test]
fn the_demo_directory_opens_as_the_compiled_in_bundle() {
    let directory = demo_directory();
    let (opened, again, demo) =
        (Bundle::open(directory.path()).unwrap(), Bundle::open(directory.path()).unwrap(), Bundle::demo().unwrap());
    assert_eq!(opened.digest(), demo.digest());
    assert_eq!(opened.digest(), again.digest());
    assert_eq!(opened.digest().len(), 64);
    assert_eq!(opened.manifest(), demo.manifest());
    assert!(demo.manifest().trained);
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
        (set("experts/0/backbone/heads", 2), "experts[0].backbone.heads: is given, but only eva02 and vit may have it"),
        (
            set("experts/0/backbone/rope_reference", 8),
            "experts[0].backbone.rope_reference: is given, but only eva02 may have it",
        ),
        (set("experts/2/backbone/rope_reference", 0), "experts[2].backbone.rope_reference: is 0, expected 1 to 1024"),
        (set("calibration/0/expert", "nobody"), "calibration[0].expert: is \"nobody\", expected the name of an expert"),
        (
            set("calibration/0/input_size", 224),
            "calibration[0].input_size: is 224, expected 56, the input_size of expert \"image_convnext\"",
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
            "calibration[5].dtypes: repeats \"f32\" of expert \"image_eva02\" with tta = false, expected it once",
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
