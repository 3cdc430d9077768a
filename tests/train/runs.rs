//! What the tests of training have in common: an untrained bundle, a few made-up pictures, and runs on them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// An untrained bundle, pictures with opinions, and a cache of their prompts' embeddings.
pub struct Material {
    directory: TempDir,
}

/// Opinions follow brightness, which any network learns.
pub static MATERIAL: LazyLock<Material> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut list = String::from("path,prompt,mos\n");
    for index in 0..48u32 {
        let level = 40 + (index * 37 % 48) * 4;
        let picture = RgbImage::from_fn(48, 40, |x, y| {
            let noise = (x * 7 + y * 13 + index * 29) % 16;
            Rgb([(level + noise) as u8, level as u8, (level / 2 + noise) as u8])
        });
        picture.save(data.join(format!("{index}.png"))).unwrap();
        list += &format!("{index}.png,a picture of number {},{}\n", index % 12, 1.0 + f64::from(level - 40) / 48.0);
    }
    fs::write(data.join("info.csv"), list).unwrap();
    let bundle = directory.path().join("bundle");
    let out = train(&["init", "--preset", "demo", "--out", bundle.to_str().unwrap()]).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    Material { directory }
});

impl Material {
    /// A file or folder of it.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }
}

/// A run's folder with its settings.
pub struct Run {
    pub directory: TempDir,
}

impl Run {
    pub fn new(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let all = format!("bundle = {:?}\nthreads = 1\ndevice = \"cpu\"\n{settings}", MATERIAL.path("bundle"));
        fs::write(directory.path().join("settings.toml"), all).unwrap();
        Self { directory }
    }

    pub fn folder(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn begin(&self, more: &[&str]) -> Command {
        self.begin_expert("image_convnext", more)
    }

    pub fn begin_expert(&self, expert: &str, more: &[&str]) -> Command {
        let mut command = train(&["fit", "--expert", expert]);
        command.arg("--data").arg(MATERIAL.path("data"));
        command.arg("--config").arg(self.directory.path().join("settings.toml"));
        self.finish(command, more)
    }

    pub fn resume(&self) -> Command {
        self.finish(train(&["fit", "--resume"]), &[])
    }

    pub fn finish(&self, mut command: Command, more: &[&str]) -> Command {
        command.arg("--out").arg(self.folder()).arg("--text-cache").arg(MATERIAL.path("text"));
        command.args(["--loaders", "1"]).args(more);
        command
    }

    /// Step and loss of every line.
    pub fn losses(&self) -> Vec<(u64, String)> {
        let text = fs::read_to_string(self.folder().join("steps.csv")).unwrap_or_default();
        let line = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            (fields[0].parse().unwrap(), format!("{} {} {}", fields[2], fields[3], fields[4]))
        };
        text.lines().skip(1).map(line).collect()
    }
}

/// Three epochs, a checkpoint now and then.
pub const SHORT: &str = "[recipe]\nepochs = 3\nbatch = 4\nlearning_rate = 1e-3\n[keep]\ncheckpoint_steps = 3\n";

pub fn train(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pcqa-train"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// What a command that must fail says.
pub fn refuse(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}
