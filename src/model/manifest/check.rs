//! Reading a manifest, and what its values may be.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::{Backbone, BackboneKind, Calibration, ExpertSpec, Manifest, MosScale, TextSpec};
use crate::model::ModelError;

/// The format that this code reads and writes.
const SCHEMA: i64 = 1;
const MAX_FRAMES: RangeInclusive<u32> = 1..=64;
const CONTEXT_LENGTH: RangeInclusive<usize> = 2..=1024;
/// Below 32 the last stage of a convolutional backbone has no pixel left.
const INPUT_SIZE: RangeInclusive<u32> = 32..=4096;
/// Side of an EVA02 patch.
const PATCH: u32 = 14;
const HEADS: RangeInclusive<i64> = 1..=1024;
const DTYPES: [&str; 2] = ["f32", "bf16"];
const LONGEST_NAME: usize = 64;
/// Weights come as safetensors only: no format that can carry code.
const WEIGHTS_SUFFIX: &str = ".safetensors";
const TOKENIZER_SUFFIX: &str = ".json";

type Checked = Result<(), ModelError>;

impl Manifest {
    /// Reads TOML. Unknown, missing and mistyped keys are refused, values are not looked at yet.
    pub(crate) fn parse(text: &str) -> Result<Self, ModelError> {
        // The schema comes first: a later one may well have keys that are unknown here.
        let table: toml::Table = text.parse().map_err(|error| syntax(text, &error))?;
        match table.get("schema") {
            Some(toml::Value::Integer(SCHEMA)) => {}
            Some(other) => return Err(wrong("schema", format!("is {other}, expected {SCHEMA}"))),
            None => return Err(wrong("schema", format!("is missing, expected {SCHEMA}"))),
        }
        let deserializer = toml::Deserializer::parse(text).map_err(|error| syntax(text, &error))?;
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let key = error.path().to_string();
            wrong(key, error.inner().message().to_owned())
        })
    }

    /// Checks every value but the names of files and `[files]`.
    pub(crate) fn check_values(&self) -> Checked {
        for (key, value) in [
            ("name", &self.name),
            ("version", &self.version),
            ("licence", &self.licence),
            ("provenance", &self.provenance),
        ] {
            check_text(key, value)?;
        }
        within("max_frames", self.max_frames, &MAX_FRAMES)?;
        check_mos(&self.mos)?;
        check_text_towers(&self.text)?;
        check_experts(&self.experts)?;
        check_calibration(&self.calibration, &self.experts)
    }

    /// Checks the names of files, and that `[files]` lists exactly those that are used.
    pub(crate) fn check_files(&self) -> Checked {
        let references = self.references();
        for (key, name) in &references {
            let suffix = if key == "text.tokenizer" { TOKENIZER_SUFFIX } else { WEIGHTS_SUFFIX };
            check_file_name(key, name)?;
            ensure(name.ends_with(suffix), key, || format!("is {name:?}, expected a name that ends in {suffix}"))?;
            let listed = self.files.contains_key(*name);
            ensure(listed, key, || format!("is {name:?}, which [files] does not list"))?;
        }
        let used: BTreeSet<&str> = references.iter().map(|(_, name)| *name).collect();
        for (name, digest) in &self.files {
            let key = format!("files.{name:?}");
            ensure(used.contains(name.as_str()), &key, || "is not used by any tower, expert or tokenizer".to_owned())?;
            let hexadecimal = digest.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            ensure(hexadecimal && digest.sha256.len() == 64, &format!("{key}.sha256"), || {
                format!("is {:?}, expected 64 lower-case hexadecimal digits", digest.sha256)
            })?;
            ensure(digest.bytes > 0, &format!("{key}.bytes"), || "is 0, expected at least 1".to_owned())?;
        }
        Ok(())
    }

    /// Every file that the manifest names, after the dotted path of where it does so.
    pub(crate) fn references(&self) -> Vec<(String, &str)> {
        let mut found = vec![("text.tokenizer".to_owned(), self.text.tokenizer.as_str())];
        for (i, tower) in self.text.towers.iter().enumerate() {
            found.push((format!("text.towers[{i}].weights"), &tower.weights));
        }
        for (i, expert) in self.experts.iter().enumerate() {
            found.push((format!("experts[{i}].backbone.weights"), &expert.backbone.weights));
            found.push((format!("experts[{i}].head"), &expert.head));
        }
        found
    }
}

fn check_mos(mos: &MosScale) -> Checked {
    check_text("mos.dataset", &mos.dataset)?;
    for (key, value) in [("mos.mean", mos.mean), ("mos.min", mos.min), ("mos.max", mos.max)] {
        finite(key, value)?;
    }
    positive("mos.std", mos.std)?;
    ensure(mos.min < mos.max, "mos.min", || format!("is {}, expected less than mos.max = {}", mos.min, mos.max))?;
    let inside = (mos.min..=mos.max).contains(&mos.mean);
    ensure(inside, "mos.mean", || format!("is {}, expected {} to {} (mos.min, mos.max)", mos.mean, mos.min, mos.max))
}

fn check_text_towers(text: &TextSpec) -> Checked {
    within("text.context_length", text.context_length, &CONTEXT_LENGTH)?;
    ensure(!text.towers.is_empty(), "text.towers", || "is empty, expected at least one tower".to_owned())?;
    check_names("text.towers", text.towers.iter().map(|tower| tower.name.as_str()))?;
    for (i, tower) in text.towers.iter().enumerate() {
        check_heads(&format!("text.towers[{i}].heads"), tower.heads)?;
    }
    Ok(())
}

fn check_experts(experts: &[ExpertSpec]) -> Checked {
    ensure(!experts.is_empty(), "experts", || "is empty, expected at least one expert".to_owned())?;
    check_names("experts", experts.iter().map(|expert| expert.name.as_str()))?;
    for (i, expert) in experts.iter().enumerate() {
        check_backbone(&format!("experts[{i}].backbone"), &expert.backbone)?;
        let key = format!("experts[{i}].input_size");
        let side = expert.input_size;
        within(&key, side, &INPUT_SIZE)?;
        let fits = expert.backbone.kind != BackboneKind::Eva02 || side.is_multiple_of(PATCH);
        ensure(fits, &key, || format!("is {side}, expected a multiple of {PATCH} for eva02"))?;
    }
    Ok(())
}

fn check_backbone(key: &str, backbone: &Backbone) -> Checked {
    for (i, (&mean, &std)) in backbone.mean.iter().zip(&backbone.std).enumerate() {
        finite(&format!("{key}.mean[{i}]"), mean)?;
        positive(&format!("{key}.std[{i}]"), std)?;
    }
    check_heads(&format!("{key}.heads"), backbone.heads)?;
    if let Some(side) = backbone.rope_reference {
        within(&format!("{key}.rope_reference"), side, &(1..=1024))?;
    }
    use BackboneKind::{Eva02, Vit};
    let owners =
        [("heads", backbone.heads, &[Eva02, Vit][..]), ("rope_reference", backbone.rope_reference, &[Eva02][..])];
    for (name, value, owners) in owners {
        let fits = value.is_none() || owners.contains(&backbone.kind);
        let names: Vec<&str> = owners.iter().map(|owner| owner.name()).collect();
        ensure(fits, &format!("{key}.{name}"), || format!("is given, but only {} may have it", names.join(" and ")))?;
    }
    Ok(())
}

fn check_calibration(calibration: &[Calibration], experts: &[ExpertSpec]) -> Checked {
    let sides: BTreeMap<&str, u32> = experts.iter().map(|expert| (expert.name.as_str(), expert.input_size)).collect();
    let mut seen = BTreeSet::new();
    for (i, entry) in calibration.iter().enumerate() {
        let key = |name: &str| format!("calibration[{i}].{name}");
        let Some(&side) = sides.get(entry.expert.as_str()) else {
            return Err(wrong(key("expert"), format!("is {:?}, expected the name of an expert", entry.expert)));
        };
        ensure(entry.input_size == side, &key("input_size"), || {
            format!("is {}, expected {side}, the input_size of expert {:?}", entry.input_size, entry.expert)
        })?;
        finite(&key("mu"), entry.mu)?;
        positive(&key("sigma"), entry.sigma)?;
        ensure(!entry.dtypes.is_empty(), &key("dtypes"), || format!("is empty, expected one or more of {DTYPES:?}"))?;
        for dtype in &entry.dtypes {
            let known = DTYPES.contains(&dtype.as_str());
            ensure(known, &key("dtypes"), || format!("has {dtype:?}, expected one or more of {DTYPES:?}"))?;
            ensure(seen.insert((&entry.expert, entry.tta, dtype)), &key("dtypes"), || {
                format!("repeats {dtype:?} of expert {:?} with tta = {}, expected it once", entry.expert, entry.tta)
            })?;
        }
    }
    for expert in experts {
        let calibrated = calibration.iter().any(|entry| entry.expert == expert.name);
        ensure(calibrated, "calibration", || {
            format!("has no entry for expert {:?}, expected at least one", expert.name)
        })?;
    }
    Ok(())
}

/// Names are shown in replies, label metrics and make file names.
fn check_names<'a>(list: &str, names: impl Iterator<Item = &'a str>) -> Checked {
    let mut seen = BTreeSet::new();
    for (i, name) in names.enumerate() {
        let key = format!("{list}[{i}].name");
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        ensure(plain && (1..=LONGEST_NAME).contains(&name.len()), &key, || {
            format!("is {name:?}, expected 1 to {LONGEST_NAME} ASCII letters, digits, `_` or `-`")
        })?;
        ensure(seen.insert(name), &key, || format!("is {name:?} for a second time, expected distinct names"))?;
    }
    Ok(())
}

/// A file lies in the bundle's directory itself and is no hidden one.
fn check_file_name(key: &str, name: &str) -> Checked {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    ensure(plain && !name.starts_with('.') && !name.is_empty(), key, || {
        format!("is {name:?}, expected a plain file name: ASCII letters, digits, `_`, `-`, `.`, no directory")
    })
}

fn check_text(key: &str, value: &str) -> Checked {
    let shown = !value.trim().is_empty() && !value.chars().any(char::is_control);
    ensure(shown, key, || format!("is {value:?}, expected some text on one line"))
}

fn check_heads(key: &str, heads: Option<i64>) -> Checked {
    heads.map_or(Ok(()), |heads| within(key, heads, &HEADS))
}

fn finite(key: &str, value: f64) -> Checked {
    ensure(value.is_finite(), key, || format!("is {value}, expected a finite number"))
}

fn positive(key: &str, value: f64) -> Checked {
    ensure(value.is_finite() && value > 0.0, key, || format!("is {value}, expected a finite number greater than 0"))
}

fn within<T: PartialOrd + std::fmt::Display>(key: &str, value: T, range: &RangeInclusive<T>) -> Checked {
    ensure(range.contains(&value), key, || format!("is {value}, expected {} to {}", range.start(), range.end()))
}

fn ensure(holds: bool, key: &str, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(wrong(key, problem())) }
}

fn wrong(key: impl Into<String>, problem: String) -> ModelError {
    ModelError::Manifest { key: key.into(), problem }
}

fn syntax(text: &str, error: &toml::de::Error) -> ModelError {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(start).filter(|&byte| byte == b'\n').count() + 1;
    wrong(format!("line {line}"), error.message().to_owned())
}
