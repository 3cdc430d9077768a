//! Files that want to do harm, and files that are something else.

use std::fs;
use std::io::{Cursor, Write};

use pcqa::train::{NumberFormat, convert};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::support::{Place, arguments, golden, refusal};

/// An archive of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(CompressionMethod::Stored)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn refused(bytes: &[u8]) -> String {
    let place = Place::new();
    fs::write(place.at("in.pt"), bytes).unwrap();
    refusal(&place.at("in.pt"))
}

/// A state dict of one tensor of `numbers` numbers.
fn one_tensor(numbers: u32) -> Vec<u8> {
    let mut pickle = b"\x80\x02}X\x19\0\0\0blocks.0.attn.q_proj.wght".to_vec();
    pickle.extend(
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu",
    );
    let length = [&b"J"[..], &numbers.to_le_bytes()].concat();
    pickle.extend([&length[..], b"tQK\0", &length, b"\x85K\x01\x85\x89NtRs."].concat());
    pickle
}

#[test]
fn pickles_that_run_programs_run_none() {
    let place = Place::new();
    let harm = place.at("harm");
    let command = format!("touch {}", harm.display());
    let mut attack = b"\x80\x02cposix\nsystem\nX".to_vec();
    attack.extend((command.len() as u32).to_le_bytes());
    attack.extend(command.as_bytes());
    attack.extend(b"\x85R.");
    let said = refused(&archive(&[("model/data.pkl", &attack)]));
    assert!(said.starts_with("data.pkl: at byte 2: names \"posix\", \"system\", which no state dict needs"), "{said}");
    assert!(!harm.exists());
}

#[test]
fn archives_hold_what_they_declare() {
    let held = refused(&archive(&[("m/data.pkl", &one_tensor(4)), ("m/data/0", &[0; 16])]));
    assert!(held.starts_with("holds no network that is known, but \"blocks.0.attn.q_proj.wght\""), "{held}");
    let huge = refused(&archive(&[("m/data.pkl", &one_tensor(0x7fff_ffff)), ("m/data/0", &[0; 16])]));
    assert!(huge.contains("has 16 bytes, but 2147483647 numbers of 4 bytes are declared"), "{huge}");
    let missing = refused(&archive(&[("m/data.pkl", &one_tensor(4))]));
    assert!(missing.ends_with("storage \"m/data/0\": is missing"), "{missing}");
    let order = refused(&archive(&[("m/data.pkl", &one_tensor(4)), ("m/byteorder", b"big"), ("m/data/0", &[0; 16])]));
    assert_eq!(order, "was written by a machine with another byte order");
    let long = refused(&archive(&[("m/data.pkl", &vec![b'N'; 5 << 20])]));
    assert_eq!(long, "data.pkl: is 5242880 bytes long, expected at most 4194304");
    let other = refused(&archive(&[("word/document.xml", b"<x/>")]));
    assert_eq!(other, "is a zip archive without one data.pkl: not written by torch.save");
}

#[test]
fn what_is_no_checkpoint_is_named() {
    let whole = fs::read(golden("transformers.safetensors")).unwrap();
    let page = b"<!DOCTYPE html><html><body>Log in</body></html>";
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    assert_eq!(refused(page), "is a web page, not weights");
    assert_eq!(refused(pointer), "is a Git LFS pointer, not the file that it points to");
    assert_eq!(refused(b""), "is neither a safetensors file nor one that torch.save wrote");
    assert!(refused(&whole[..whole.len() - 1]).ends_with("it is not whole"));
    assert!(refused(&[&[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0][..], b"{}"].concat()).starts_with("has a header of"));
    let said = refusal(&golden("legacy.pt"));
    assert!(said.starts_with("is in PyTorch's format of before 1.6"), "{said}");
    assert_eq!(refusal(&golden("transposed.pt")), "data.pkl: tensor text_projection: is not stored row by row");
    assert_eq!(refusal(&Place::new().at("")), "is not a regular file");
}

#[test]
fn what_is_no_number_is_no_weight() {
    let whole = fs::read(golden("transformers.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    // Four of these bytes are a NaN; of 3.4e38 bf16 makes infinity.
    let with = |number: [u8; 4]| [&whole[..header], &number.repeat((whole.len() - header) / 4)].concat();
    let said = refused(&with([0xff; 4]));
    assert!(said.starts_with("tensor text_model.") && said.contains(": has NaN among its values, expected"), "{said}");
    let place = Place::new();
    fs::write(place.at("in.safetensors"), with(f32::MAX.to_le_bytes())).unwrap();
    let mut arguments = arguments(&place.at("in.safetensors"), &place.at("out.safetensors"));
    convert(&arguments).unwrap();
    arguments.dtype = NumberFormat::Bf16;
    let said = format!("{:#}", convert(&arguments).unwrap_err());
    assert!(said.ends_with("expected finite numbers that bf16 can hold"), "{said}");
}

#[test]
fn no_cut_or_changed_file_is_fatal() {
    let whole = fs::read(golden("open_clip.pt")).unwrap();
    let place = Place::new();
    let (path, out) = (place.at("in.pt"), place.at("out.safetensors"));
    let mut refusals = 0;
    for step in 0..200 {
        let mut bytes = whole.clone();
        if step % 2 == 0 {
            bytes.truncate(whole.len() * step / 200);
        } else {
            bytes[step * 7919 % 9000] ^= 1 << (step % 8);
        }
        fs::write(&path, &bytes).unwrap();
        refusals += usize::from(convert(&arguments(&path, &out)).is_err());
    }
    assert!(refusals >= 100, "{refusals}");
}
