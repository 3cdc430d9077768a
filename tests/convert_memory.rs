//! What taking a text tower out of a large model may hold. One test in a process of its own: the peak of the process is
//! read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use pcqa::train::{ConvertArguments, NumberFormat, convert};
use serde_json::{Map, json};

const WIDTH: usize = 512;
const VOCABULARY: usize = 49_408;

/// Most memory that this process ever held, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn a_model_of_gigabytes_needs_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let (checkpoint, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let w = WIDTH;
    let mut shapes = vec![("visual.giant".to_owned(), vec![16_384, 65_536])];
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
    shapes.extend(block.map(|(key, shape)| (format!("transformer.resblocks.0.{key}"), shape)));
    let rest = [
        ("token_embedding.weight", vec![VOCABULARY, w]),
        ("positional_embedding", vec![77, w]),
        ("text_projection", vec![w, w]),
        ("ln_final.weight", vec![w]),
        ("ln_final.bias", vec![w]),
    ];
    shapes.extend(rest.map(|(key, shape)| (key.to_owned(), shape)));
    let (mut header, mut end) = (Map::new(), 0);
    for (key, shape) in shapes {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert(key, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::to_vec(&header).unwrap();
    // A file with a hole: 4 GB that no disk holds.
    let file = File::create(&checkpoint).unwrap();
    file.write_all_at(&[&(header.len() as u64).to_le_bytes()[..], &header].concat(), 0).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    let before = peak();
    convert(&ConvertArguments { checkpoint, out: out.clone(), dtype: NumberFormat::F32, force: false }).unwrap();
    let cost = peak() - before;
    assert!(fs::metadata(out).unwrap().len() > (VOCABULARY * w * 4) as u64);
    assert!(cost < 32 << 20, "{} MB", cost >> 20);
}
