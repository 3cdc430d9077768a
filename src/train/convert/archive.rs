//! PyTorch's files since 1.6: a zip archive of uncompressed storages and the pickle that describes them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;

use anyhow::{Context, bail, ensure};
use zip::{CompressionMethod, ZipArchive};

use super::checkpoint::Stored;
use super::pickle;
use crate::model::shown;

/// Most files of an archive; one storage is one file.
const MOST_ENTRIES: usize = 65_536;
const PICKLE: &str = "data.pkl";

/// Where a file of the archive lies.
#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    length: u64,
}

/// The tensors of the state dict in the archive `file` of `length` bytes.
///
/// # Errors
///
/// When it is no such archive, or describes what it does not hold.
pub(super) fn tensors(file: &File, length: u64) -> anyhow::Result<BTreeMap<String, Stored>> {
    let entries = entries(file, length)?;
    let mut pickles = entries.iter().filter(|(name, _)| name.split('/').next_back() == Some(PICKLE));
    let (Some((name, &extent)), None) = (pickles.next(), pickles.next()) else {
        bail!("is a zip archive without one {PICKLE}: not written by torch.save");
    };
    let folder = name.strip_suffix(PICKLE).unwrap_or_default();
    if let Some(&order) = entries.get(&format!("{folder}byteorder")) {
        let order = read(file, order, 16).context("byteorder")?;
        ensure!(order == b"little", "was written by a machine with another byte order");
    }
    let pickle = read(file, extent, pickle::LONGEST).context(PICKLE)?;
    let described = pickle::read(&pickle).context(PICKLE)?;
    let mut tensors = BTreeMap::new();
    for tensor in described {
        let (name, key) = (tensor.name, format!("{folder}data/{}", tensor.storage));
        let wrong = || format!("tensor {}: storage {key:?}", shown(&name));
        let extent = *entries.get(&key).with_context(|| format!("{}: is missing", wrong()))?;
        let each = tensor.dtype.bitsize() as u64 / 8;
        let declared = tensor.stored.checked_mul(each);
        ensure!(
            declared == Some(extent.length),
            "{}: has {} bytes, but {} numbers of {each} bytes are declared",
            wrong(),
            extent.length,
            tensor.stored
        );
        // The tensor lies within its storage, and that within the file: neither can overflow.
        let start = extent.start + tensor.offset * each;
        tensors.insert(name, Stored { dtype: tensor.dtype, shape: tensor.shape, start });
    }
    Ok(tensors)
}

fn entries(file: &File, length: u64) -> anyhow::Result<HashMap<String, Extent>> {
    let mut archive = ZipArchive::new(BufReader::new(file)).context("is a broken zip archive")?;
    ensure!(archive.len() <= MOST_ENTRIES, "has {} files, expected at most {MOST_ENTRIES}", archive.len());
    let mut entries = HashMap::with_capacity(archive.len());
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).context("is a broken zip archive")?;
        let name = entry.name().context("has a file in it whose name cannot be read")?.into_owned();
        let plain = entry.compression() == CompressionMethod::Stored && !entry.encrypted();
        ensure!(plain, "{name:?} in it is compressed or encrypted, which torch.save does not do");
        let extent = Extent { start: entry.data_start().unwrap_or(length), length: entry.size() };
        let end = extent.start.checked_add(extent.length);
        ensure!(end.is_some_and(|end| end <= length), "{name:?} in it reaches beyond its end");
        entries.insert(name, extent);
    }
    Ok(entries)
}

fn read(file: &File, extent: Extent, longest: u64) -> anyhow::Result<Vec<u8>> {
    ensure!(extent.length <= longest, "is {} bytes long, expected at most {longest}", extent.length);
    let mut bytes = vec![0; extent.length as usize];
    file.read_exact_at(&mut bytes, extent.start)?;
    Ok(bytes)
}
