//! What opening and loading a bundle may hold. One test in a process of its own: the peak of the process is read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pcqa::model::{Bundle, Device, Dtype, Ensemble, FileDigest, LoadOptions};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

const TOWER: &str = "text_openclip.safetensors";
const WIDTH: usize = 512;
const LAYERS: usize = 16;
/// The demo's.
const EMBEDDING: usize = 24;

/// Most memory that this process ever held, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// A text tower of zeros in f32, as a file with a hole; its length.
fn write_tower(path: &Path) -> u64 {
    let w = WIDTH;
    let mut shapes = vec![
        ("token_embedding.weight".to_owned(), vec![100, w]),
        ("positional_embedding".to_owned(), vec![77, w]),
        ("text_projection".to_owned(), vec![w, EMBEDDING]),
        ("ln_final.weight".to_owned(), vec![w]),
        ("ln_final.bias".to_owned(), vec![w]),
    ];
    for layer in 0..LAYERS {
        let block = [
            ("ln_1.weight", vec![w]),
            ("ln_1.bias", vec![w]),
            ("ln_2.weight", vec![w]),
            ("ln_2.bias", vec![w]),
            ("attn.in_proj_weight", vec![3 * w, w]),
            ("attn.in_proj_bias", vec![3 * w]),
            ("attn.out_proj.weight", vec![w, w]),
            ("attn.out_proj.bias", vec![w]),
            ("mlp.c_fc.weight", vec![4 * w, w]),
            ("mlp.c_fc.bias", vec![4 * w]),
            ("mlp.c_proj.weight", vec![w, 4 * w]),
            ("mlp.c_proj.bias", vec![w]),
        ];
        shapes.extend(block.map(|(key, shape)| (format!("transformer.resblocks.{layer}.{key}"), shape)));
    }
    let (mut header, mut end) = (Map::new(), 0);
    for (key, shape) in shapes {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert(key, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = File::create(path).unwrap();
    file.write_all_at(&[&(header.len() as u64).to_le_bytes()[..], &header].concat(), 0).unwrap();
    let length = (8 + header.len() + end) as u64;
    file.set_len(length).unwrap();
    length
}

fn write_bundle(directory: &Path) -> u64 {
    let demo = Bundle::demo().unwrap();
    let mut manifest = demo.manifest().clone();
    for name in manifest.files.keys() {
        fs::write(directory.join(name), demo.file(name).unwrap().bytes()).unwrap();
    }
    let bytes = write_tower(&directory.join(TOWER));
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(directory.join(TOWER)).unwrap(), &mut hasher).unwrap();
    manifest.files.insert(TOWER.to_owned(), FileDigest { sha256: format!("{:x}", hasher.finalize()), bytes });
    fs::write(directory.join("bundle.toml"), toml::to_string(&manifest).unwrap()).unwrap();
    bytes
}

#[test]
fn weights_are_in_memory_once_and_in_the_format_of_the_network_alone() {
    let folder = tempfile::tempdir().unwrap();
    let length = write_bundle(folder.path());
    assert!(length > 200_000_000);
    // The first tensor brings libtorch's own memory.
    let demo = Bundle::demo().unwrap();
    let options = |dtype| LoadOptions { device: Device::Cpu, dtype, tta: false };
    drop(Ensemble::load(&demo, options(Dtype::F32)).unwrap());

    let before = peak();
    let held = |what: &str, most: u64| {
        let held = peak() - before;
        assert!(held <= most, "{what} took {held} bytes, expected at most {most}");
    };
    let bundle = Bundle::open(folder.path()).unwrap();
    held("checking the files", length / 4);
    let half = Ensemble::load(&bundle, options(Dtype::Bf16)).unwrap();
    // Half of it, and what the allocator keeps between tensors. With the file's pages it would be three halves.
    held("bf16", length);
    drop(half);
    let whole = Ensemble::load(&bundle, options(Dtype::F32)).unwrap();
    held("f32", length * 5 / 4);
    assert_eq!(whole.text_dims()[0].1, EMBEDDING as i64);
}
