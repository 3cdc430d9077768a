//! What the tests of training have in common: an untrained bundle, a few made-up pictures, and runs on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// Where the tests have in common: an untrained bundle, pictures with opinions (`data`) and without (`unlabelled`), four
/// of one prompt (`few`), and a cache of prompt embeddings.
pub struct Material {
    directory: PathBuf,
}

/// Opinions follow brightness, which any network learns. There are four prompts of twelve pictures, so that one prompt is
/// held out: enough to calibrate with, too few for intervals, which take long.
pub static MATERIAL: LazyLock<Material> = LazyLock::new(|| {
    let material = Material { directory: Path::new(env!("CARGO_TARGET_TMPDIR")).join("training") };
    let _ = fs::remove_dir_all(&material.directory);
    material.add("data", 0..48, true);
    material.add("unlabelled", 0..48, false);
    material.add("few", (0..16).step_by(4), true);
    succeed(&mut train(&["init", "--preset", "demo", "--out", &material.path("bundle")]));
    material
});

impl Material {
    /// A file or folder of it.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    fn add(&self, name: &str, indices: impl Iterator<Item = u32>, labelled: bool) {
        let folder = self.directory.join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut list = String::from(if labelled { "path,prompt,mos\n" } else { "path,prompt\n" });
        for index in indices {
            let level = 40 + (index * 37 % 48) * 4;
            let picture = RgbImage::from_fn(48, 40, |x, y| {
                let noise = (x * 7 + y * 13 + index * 29) % 16;
                Rgb([(level + noise) as u8, level as u8, (level / 2 + noise) as u8])
            });
            picture.save(folder.join(format!("{index}.png"))).unwrap();
            list += &format!("{index}.png,a picture of number {}", index % 4);
            if labelled {
                list += &format!(",{}", 1.0 + f64::from(level - 40) / 48.0);
            }
            list.push('\n');
        }
        fs::write(folder.join("info.csv"), list).unwrap();
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
        if !more.contains(&"--loaders") {
            command.args(["--loaders", "1"]);
        }
        command.args(more);
        command
    }

    /// Lines so far, of a run that may be writing.
    pub fn steps(&self) -> u64 {
        let text = fs::read_to_string(self.folder().join("steps.csv")).unwrap_or_default();
        text.lines().skip(1).count() as u64
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
