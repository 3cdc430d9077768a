//! TensorBoard event files: scalars by step. The format is TFRecords of the `Event` message (`event.proto`,
//! `summary.proto` of TensorBoard), of which these are the fields that scalars need. The crates that write such files
//! were last released in 2023 and bring an old prost, one of them the need for protoc, so the messages are encoded with
//! the prost that the service uses.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

/// An event file that grows. Every record is written at once, so that a viewer sees it and a kill loses none.
pub struct Events {
    file: File,
    path: PathBuf,
}

impl Events {
    /// Starts a new file in the directory, which is made if need be; files that are there stay. A run that goes on has
    /// one file for each start, and viewers show them as one.
    pub fn create(directory: &Path) -> anyhow::Result<Self> {
        let failed = || format!("{}: cannot be written", directory.display());
        fs::create_dir_all(directory).with_context(failed)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Viewers take every file with `tfevents` in its name and read them in the order of their names.
        let name = format!("events.out.tfevents.{:010}.{:09}.pcqa", now.as_secs(), now.subsec_nanos());
        let path = directory.join(name);
        let file = File::create_new(&path).with_context(failed)?;
        let mut events = Self { file, path };
        events.write(Event { file_version: Some("brain.Event:2".to_owned()), ..Event::now() })?;
        Ok(events)
    }

    /// Adds the values that curves have at `step`: `loss/train`, 0.25. A part of a tag before `/` groups charts.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> anyhow::Result<()> {
        let value = |&(tag, value): &(&str, f64)| Value { tag: tag.to_owned(), simple_value: Some(value as f32) };
        let summary = Summary { value: values.iter().map(value).collect() };
        self.write(Event { step: step as i64, summary: Some(summary), ..Event::now() })
    }

    fn write(&mut self, event: Event) -> anyhow::Result<()> {
        let written = self.file.write_all(&record(&event.encode_to_vec()));
        written.with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

/// A TFRecord: length, checksum of the length, data, checksum of the data; little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

/// CRC-32C, turned and shifted so that the checksum of data with checksums in it is no trivial one.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// `tensorboard.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorboard.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorboard.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

impl Event {
    fn now() -> Self {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { wall_time, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What TensorBoard's own writer writes for the same two events.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/train/events.bin");

    #[test]
    fn records_are_those_of_tensorboard() {
        let version = Event { wall_time: 1.5, file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
        let loss = Value { tag: "loss/train".to_owned(), simple_value: Some(0.25) };
        let srcc = Value { tag: "srcc".to_owned(), simple_value: Some(0.0) };
        let summary = Some(Summary { value: vec![loss, srcc] });
        let scalars = Event { wall_time: 2.5, step: 300, summary, ..Event::default() };
        let written = [version, scalars].map(|event| record(&event.encode_to_vec())).concat();
        assert_eq!(written, GOLDEN);
    }

    #[test]
    fn every_start_adds_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let runs = directory.path().join("run/events");
        for _ in 0..2 {
            let mut events = Events::create(&runs).unwrap();
            events.scalars(1, &[("loss", 1.0)]).unwrap();
        }
        let files: Vec<_> = fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2);
        for file in files {
            let bytes = fs::read(file).unwrap();
            let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            let version = Event::decode(&bytes[12..12 + length]).unwrap();
            let scalars = Event::decode(&bytes[16 + length + 12..bytes.len() - 4]).unwrap();
            assert_eq!(version.file_version.as_deref(), Some("brain.Event:2"));
            assert_eq!(scalars.summary.unwrap().value[0].tag, "loss");
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Events::create(file.path()).err().unwrap();
        assert!(format!("{error:#}").contains(&*file.path().to_string_lossy()), "{error:#}");
    }
}
