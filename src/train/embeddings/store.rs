//! One tower's file of embeddings.
//!
//! `pcqatext`, version and D as little-endian u32, then records: SHA-256 of the token ids, D little-endian f32, the first
//! eight bytes of the SHA-256 of both.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::text::TokenIds;

const MAGIC: &[u8; 8] = b"pcqatext";
const VERSION: u32 = 1;
const HEADER: usize = 16;
const CHECK: usize = 8;

type Key = [u8; 32];

/// The embeddings of one tower, in memory and on disk.
pub(super) struct Store {
    path: PathBuf,
    /// 0 until there is an embedding.
    dim: usize,
    values: HashMap<Key, Vec<f32>>,
}

impl Store {
    /// The file of the tower called `name` in directory `cache`, which is made where it is missing.
    pub(super) fn open(cache: &Path, name: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("{}: cannot be made", cache.display()))?;
        let mut store = Self { path: cache.join(name), dim: 0, values: HashMap::new() };
        store.locked(|store, file| store.read(file).map(drop))?;
        Ok(store)
    }

    /// Width D; 0 while there is no embedding.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    pub(super) fn contains(&self, ids: &TokenIds) -> bool {
        self.values.contains_key(&key(ids))
    }

    pub(super) fn get(&self, ids: &TokenIds) -> Option<&[f32]> {
        self.values.get(&key(ids)).map(Vec::as_slice)
    }

    /// Adds `records`, all of one width, in memory and on disk. Where another process was faster, its values hold.
    pub(super) fn append(&mut self, records: Vec<(&TokenIds, Vec<f32>)>) -> anyhow::Result<()> {
        let Some(dim) = records.first().map(|(_, values)| values.len()) else { return Ok(()) };
        self.locked(|store, file| {
            let end = store.read(file)?;
            file.set_len(end)?;
            file.seek(SeekFrom::End(0))?;
            let mut bytes = Vec::new();
            if end == 0 {
                store.dim = dim;
                bytes.extend_from_slice(&header(dim));
            }
            for (ids, values) in records {
                let key = key(ids);
                if store.values.contains_key(&key) {
                    continue;
                }
                let start = bytes.len();
                bytes.extend_from_slice(&key);
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                let check = Sha256::digest(bytes.get(start..).unwrap_or_default());
                bytes.extend_from_slice(check.get(..CHECK).unwrap_or_default());
                store.values.insert(key, values);
            }
            file.write_all(&bytes)
        })
    }

    /// Runs `action` on the file while no other process is at it.
    fn locked(&mut self, action: impl FnOnce(&mut Self, &mut File) -> io::Result<()>) -> anyhow::Result<()> {
        let path = self.path.clone();
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create(true).truncate(false).open(&path);
        file.and_then(|mut file| {
            file.lock()?;
            action(self, &mut file)
        })
        .with_context(|| format!("{}: cache of prompt embeddings", path.display()))
    }

    /// Takes in all whole records and says where they end.
    fn read(&mut self, file: &mut File) -> io::Result<u64> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let Some((start, records)) = bytes.split_at_checked(HEADER) else { return Ok(0) };
        let dim = parse_header(start).map_err(|error| io::Error::other(format!("{error:#}")))?;
        self.dim = dim;
        let length = 32 + 4 * dim + CHECK;
        let mut end = HEADER;
        for record in records.chunks_exact(length) {
            let Some((body, check)) = record.split_at_checked(length - CHECK) else { break };
            let Some((key, values)) = body.split_first_chunk::<32>() else { break };
            if !Sha256::digest(body).starts_with(check) {
                break;
            }
            let values = values.chunks_exact(4).filter_map(|bytes| Some(f32::from_le_bytes(bytes.try_into().ok()?)));
            self.values.entry(*key).or_insert_with(|| values.collect());
            end += length;
        }
        Ok(end as u64)
    }
}

fn key(ids: &TokenIds) -> Key {
    let bytes: Vec<u8> = ids.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Sha256::digest(bytes).into()
}

fn header(dim: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..].copy_from_slice(&(dim as u32).to_le_bytes());
    header
}

fn parse_header(header: &[u8]) -> anyhow::Result<usize> {
    let dim = header.last_chunk::<4>().map_or(0, |dim| u32::from_le_bytes(*dim)) as usize;
    if dim == 0 || dim > 1 << 20 || header != self::header(dim) {
        bail!("is no such file of version {VERSION}; remove it, it will be made anew");
    }
    Ok(dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(last: u32) -> TokenIds {
        TokenIds { ids: Box::new([1, last]), truncated: false }
    }

    #[test]
    fn embeddings_come_back_bit_for_bit() {
        let cache = tempfile::tempdir().unwrap();
        let mut store = Store::open(cache.path(), "tower").unwrap();
        assert!(!store.contains(&ids(2)));
        store.append(vec![(&ids(2), vec![0.1, -2.5]), (&ids(3), vec![f32::MIN_POSITIVE, 1e30])]).unwrap();
        let store = Store::open(cache.path(), "tower").unwrap();
        assert_eq!(store.get(&ids(2)), Some([0.1, -2.5].as_slice()));
        assert_eq!(store.get(&ids(3)), Some([f32::MIN_POSITIVE, 1e30].as_slice()));
        assert_eq!(store.get(&ids(4)), None);
        assert!(!Store::open(cache.path(), "other").unwrap().contains(&ids(2)));
    }

    #[test]
    fn a_torn_or_damaged_end_is_left_out_and_overwritten() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join("tower");
        let mut store = Store::open(cache.path(), "tower").unwrap();
        store.append(vec![(&ids(2), vec![1.0, 2.0]), (&ids(3), vec![3.0, 4.0])]).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut store = Store::open(cache.path(), "tower").unwrap();
            assert!(!store.contains(&ids(3)), "cut at {cut}");
            store.append(vec![(&ids(4), vec![5.0, 6.0])]).unwrap();
            let store = Store::open(cache.path(), "tower").unwrap();
            assert_eq!(store.get(&ids(4)), Some([5.0, 6.0].as_slice()), "cut at {cut}");
        }
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, &damaged).unwrap();
        let store = Store::open(cache.path(), "tower").unwrap();
        assert!(store.contains(&ids(2)) && !store.contains(&ids(3)));
    }

    #[test]
    fn another_file_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join("tower"), b"something else entirely").unwrap();
        let error = Store::open(cache.path(), "tower").err().unwrap();
        assert!(format!("{error:#}").contains("remove it"), "{error:#}");
    }
}
