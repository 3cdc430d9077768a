//! A safetensors file, written a piece at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use half::{bf16, f16};
use indicatif::ProgressBar;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use sha2::{Digest, Sha256};

use super::NumberFormat;
use super::checkpoint::{Checkpoint, Stored};
use super::plan::{Piece, Recipe};
use crate::model::FileDigest;
use crate::train::bundle::progress;
use crate::train::staging::StagedFile;

/// Numbers that are read at once.
const CHUNK: usize = 1 << 18;
/// Largest matrix that is transposed, in bytes; the largest known has 7 million.
const MOST_TRANSPOSED: usize = 256 << 20;

/// Writes `pieces` of `checkpoint`, which is the file `from`, to `out`, which appears only when it is whole, in the place
/// of another only with `force`, and says what the file is.
///
/// # Errors
///
/// When the checkpoint cannot be read or holds what is no number, or when `out` cannot be written.
pub(super) fn write(
    from: &Path,
    checkpoint: &Checkpoint,
    mut pieces: Vec<Piece>,
    format: NumberFormat,
    out: &Path,
    force: bool,
) -> anyhow::Result<FileDigest> {
    pieces.sort_by(|a, b| a.key.cmp(&b.key));
    let header = header(&pieces, format)?;
    let staged = StagedFile::new(out, force)?;
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bar = progress(numbers(&pieces) * format.bytes() as u64).with_message(name);
    let source = Source { path: from, checkpoint, format };
    let mut writer = Writer { out, file: BufWriter::new(&staged.file), hasher: Sha256::new(), bytes: 0, format, bar };
    writer.all(&source, &header, &pieces)?;
    let digest = writer.finish().with_context(|| format!("{}: cannot be written", out.display()))?;
    staged.publish()?;
    Ok(digest)
}

fn numbers(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.shape.iter().product::<usize>() as u64).sum()
}

/// The length of the description of all tensors, and the description.
fn header(pieces: &[Piece], format: NumberFormat) -> anyhow::Result<Vec<u8>> {
    let mut end = 0;
    let mut tensors = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let start = end;
        end += piece.shape.iter().product::<usize>() * format.bytes();
        let info = TensorInfo { dtype: format.dtype(), shape: piece.shape.clone(), data_offsets: (start, end) };
        tensors.push((piece.key.clone(), info));
    }
    let kind = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut text = serde_json::to_vec(&Metadata::new(Some(kind), tensors)?)?;
    // Numbers begin at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([(text.len() as u64).to_le_bytes().as_slice(), &text].concat())
}

/// What is read.
struct Source<'a> {
    path: &'a Path,
    checkpoint: &'a Checkpoint,
    /// What its numbers must fit.
    format: NumberFormat,
}

impl Source<'_> {
    /// `bytes.len()` bytes of the tensor `key`, from the byte `skip` on, as numbers.
    fn numbers(&self, key: &str, tensor: &Stored, skip: usize, bytes: &mut [u8]) -> anyhow::Result<Vec<f32>> {
        let place = || format!("{}: tensor {key}", self.path.display());
        self.checkpoint.read(tensor, skip as u64, bytes).context("cannot be read").with_context(place)?;
        let numbers: Vec<f32> = numbers_of(tensor.dtype, bytes).collect();
        // One of them would make every score that it takes part in none.
        if let Some(number) = numbers.iter().find(|&&number| !self.format.holds(number)) {
            let name = self.format.name();
            bail!("{}: has {number:?} among its values, expected finite numbers that {name} can hold", place());
        }
        Ok(numbers)
    }
}

struct Writer<'a> {
    out: &'a Path,
    file: BufWriter<&'a File>,
    hasher: Sha256,
    bytes: u64,
    format: NumberFormat,
    bar: ProgressBar,
}

impl Writer<'_> {
    fn all(&mut self, source: &Source, header: &[u8], pieces: &[Piece]) -> anyhow::Result<()> {
        self.put(header)?;
        for piece in pieces {
            for (place, key) in piece.recipe.keys().iter().enumerate() {
                let tensor = source.checkpoint.tensor(key)?;
                let count = tensor.shape.iter().product::<usize>();
                match piece.recipe {
                    Recipe::Transposed(_) => self.transposed(source, key, tensor)?,
                    Recipe::Whole(_) | Recipe::Stacked(_) => self.part(source, key, tensor, 0..count)?,
                    Recipe::Spliced(_, rows) => {
                        let border = (rows * tensor.shape.iter().skip(1).product::<usize>()).min(count);
                        self.part(source, key, tensor, if place == 0 { 0..border } else { border..count })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Those of the tensor's numbers, row by row.
    fn part(&mut self, source: &Source, key: &str, tensor: &Stored, numbers: Range<usize>) -> anyhow::Result<()> {
        let each = tensor.dtype.bitsize() / 8;
        let mut bytes = vec![0; numbers.len().min(CHUNK) * each];
        let mut done = numbers.start;
        while done < numbers.end {
            let now = (numbers.end - done).min(CHUNK);
            let numbers = source.numbers(key, tensor, done * each, &mut bytes[..now * each])?;
            self.encode(numbers.into_iter())?;
            done += now;
        }
        Ok(())
    }

    /// Columns for rows. The whole matrix is in memory: it is the last projection, a few megabytes.
    fn transposed(&mut self, source: &Source, key: &str, tensor: &Stored) -> anyhow::Result<()> {
        let &[rows, columns] = tensor.shape.as_slice() else {
            bail!("{}: tensor {key}: has shape {:?}, expected a matrix", source.path.display(), tensor.shape);
        };
        let (bytes, most) = (rows * columns * (tensor.dtype.bitsize() / 8), MOST_TRANSPOSED);
        let place = source.path.display();
        ensure!(bytes <= most, "{place}: tensor {key}: has {bytes} bytes, expected at most {most}");
        let mut bytes = vec![0; bytes];
        let values = source.numbers(key, tensor, 0, &mut bytes)?;
        self.encode((0..columns).flat_map(|column| values.iter().skip(column).step_by(columns.max(1)).copied()))
    }

    fn encode(&mut self, values: impl Iterator<Item = f32>) -> anyhow::Result<()> {
        let bytes: Vec<u8> = match self.format {
            NumberFormat::F32 => values.flat_map(f32::to_le_bytes).collect(),
            NumberFormat::Bf16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        };
        self.bar.inc(bytes.len() as u64);
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).with_context(|| format!("{}: cannot be written", self.out.display()))
    }

    fn finish(mut self) -> io::Result<FileDigest> {
        self.file.flush()?;
        self.bar.finish_and_clear();
        Ok(FileDigest { sha256: format!("{:x}", self.hasher.finalize()), bytes: self.bytes })
    }
}

/// The numbers that `bytes` are, in f32.
pub(in crate::train) fn numbers_of(dtype: Dtype, bytes: &[u8]) -> Box<dyn Iterator<Item = f32> + '_> {
    match dtype {
        Dtype::F16 => Box::new(bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32())),
        Dtype::BF16 => Box::new(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32())),
        Dtype::F64 => Box::new(bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32)),
        // Planning has let no other through.
        _ => Box::new(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
    }
}
