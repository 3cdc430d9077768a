//! Small checkpoints, and `pcqa-train` on a hub of the tests' own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pcqa::model::BackboneKind;
use pcqa::train::{Architecture, ConvertArguments, NumberFormat, convert};
use serde_json::json;
use tempfile::TempDir;

use crate::hub::{Hub, Repository};

/// One of the files that `tests/golden/convert/make_checkpoints.py` wrote.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convert").join(name)
}

pub const EVA: &str = "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k";
pub const DFN: &str = "apple/DFN5B-CLIP-ViT-H-14";
pub const CONVNEXT: &str = "timm/convnext_small.fb_in22k_ft_in1k_384";

/// An EVA-CLIP, of which the hub has a pickle alone.
pub fn eva() -> Repository {
    let weights = fs::read(golden("eva_clip_f16.pt")).unwrap();
    Repository::new(EVA, "mit", vec![("README.md", Vec::new()), ("open_clip_pytorch_model.bin", weights)])
}

/// A CLIP whose licence restricts its use.
pub fn dfn() -> Repository {
    let weights = fs::read(golden("open_clip.pt")).unwrap();
    let terms = b"Research only.\nNo warranty.\n".to_vec();
    let mut repository =
        Repository::new(DFN, "other", vec![("LICENSE", terms), ("open_clip_pytorch_model.bin", weights)]);
    repository.card =
        json!({ "license": "other", "license_name": "apple-sample-code-license", "license_link": "LICENSE" });
    repository
}

/// A backbone with its classifier left out.
pub fn convnext() -> Repository {
    let weights = Architecture::demo(BackboneKind::Convnext).untrained(56, 1).unwrap().serialise().unwrap();
    Repository::new(CONVNEXT, "apache-2.0", vec![("model.safetensors", weights)])
}

/// A place to fetch to, with a home of the hub's tools.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    /// `pcqa-train fetch` of these models from `hub`.
    pub fn fetch(&self, hub: &Hub, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pcqa-train"));
        // No proxy, no token and no mirror of whoever runs the tests.
        command.env_clear().env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", self.at("home"));
        command.arg("fetch").args(arguments).arg("--out").arg(self.at("out"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The cached file of `repository` whose bytes are `bytes`.
    pub fn blob(&self, repository: &str, digest: &str) -> PathBuf {
        self.at("home/hub").join(format!("models--{}", repository.replace('/', "--"))).join("blobs").join(digest)
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command that must succeed says.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

/// What a command that must fail says is wrong.
pub fn refuse(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}{said}", stdout(&output));
    said
}

pub fn arguments(checkpoint: &Path, out: &Path) -> ConvertArguments {
    ConvertArguments { checkpoint: checkpoint.to_owned(), out: out.to_owned(), dtype: NumberFormat::F32, force: true }
}

/// Why `checkpoint` is not converted; nothing is left behind then.
pub fn refusal(checkpoint: &Path) -> String {
    let place = Place::new();
    let said = format!("{:#}", convert(&arguments(checkpoint, &place.at("out.safetensors"))).unwrap_err());
    assert_eq!(fs::read_dir(place.at("")).unwrap().count(), 0);
    said.replace(&format!("{}: ", checkpoint.display()), "")
}
