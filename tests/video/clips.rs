//! Clips made by the `ffmpeg` program, and what it decodes from them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pcqa::media::{resize, sample_indices};
use tempfile::TempDir;

use crate::decode;

/// A clip in a file.
pub struct Clip {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    _directory: TempDir,
}

/// Runs `ffmpeg` with these space-separated arguments and returns its standard output.
pub fn ffmpeg(directory: &Path, arguments: &str) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("the ffmpeg program is installed");
    assert!(output.status.success(), "ffmpeg {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Clip {
    /// Makes `name` by `ffmpeg ARGUMENTS NAME`.
    pub fn make(name: &str, arguments: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        ffmpeg(directory.path(), &format!("{arguments} {name}"));
        Self::read(directory, name)
    }

    /// Makes another clip from this one by `ffmpeg INPUT_OPTIONS -i THIS OPTIONS NAME`.
    pub fn remake(&self, name: &str, input_options: &str, options: &str) -> Self {
        let path = self.path.display();
        Self::make(name, &format!("{input_options} -i {path} {options}"))
    }

    /// The same clip with other bytes.
    pub fn with_bytes(&self, bytes: Vec<u8>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name = self.path.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        std::fs::write(directory.path().join(&name), bytes).expect("a writable directory");
        Self::read(directory, &name)
    }

    fn read(directory: TempDir, name: &str) -> Self {
        let path = directory.path().join(name);
        let bytes = std::fs::read(&path).expect("ffmpeg has written the clip");
        Self { path, bytes, _directory: directory }
    }

    /// All frames as ffmpeg's command line decodes them, packed RGB.
    pub fn reference(&self, width: u32, height: u32) -> Vec<Vec<u8>> {
        // One thread: how damage is concealed depends on it.
        let arguments = format!(
            "-threads 1 -i {} -map 0:V:0 -fps_mode passthrough -f rawvideo -pix_fmt rgb24 -",
            self.path.display()
        );
        let bytes = ffmpeg(Path::new("/"), &arguments);
        let frame_bytes = (width * height * 3) as usize;
        assert_eq!(bytes.len() % frame_bytes, 0, "ffmpeg's frames are {width}x{height}");
        bytes.chunks_exact(frame_bytes).map(<[u8]>::to_vec).collect()
    }

    /// Asserts that decoding gives exactly the frames that ffmpeg's command line gives at the chosen indices, and
    /// returns how many frames the clip has.
    pub fn assert_equals_ffmpeg(&self, what: &str, width: u32, height: u32) -> usize {
        const SIDES: [u32; 2] = [48, 33];
        let reference = self.reference(width, height);
        assert!(!reference.is_empty(), "{what}: ffmpeg decodes something");
        let indices = sample_indices(reference.len() as u64, 16);
        let decoded = decode(&self.bytes, &SIDES).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(decoded.frames.count as usize, indices.len(), "{what}: of {} frames", reference.len());
        for side in SIDES {
            let stack = decoded.frames.at(side).expect("every side");
            let frame_bytes = (side * side * 3) as usize;
            assert_eq!(stack.rgb.len(), frame_bytes * indices.len());
            for (frame, &index) in stack.rgb.chunks_exact(frame_bytes).zip(&indices) {
                let expected = resize(&reference[index as usize], width, height, side);
                let difference = frame.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
                assert_eq!(difference, Some(0), "{what}: frame {index} of {} at side {side}", reference.len());
            }
        }
        reference.len()
    }
}
