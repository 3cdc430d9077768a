//! Giving up work that nobody waits for any more.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::MediaError;

/// Bytes that are handed to a decoder between two looks at the flag.
const BLOCK: usize = 16 << 10;

/// A flag that its clones share: whoever sets one ends the work that was given another.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag, for good.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// [`MediaError::Cancelled`] when the flag is set.
    pub(super) fn check(&self) -> Result<(), MediaError> {
        if self.is_cancelled() { Err(MediaError::Cancelled) } else { Ok(()) }
    }
}

/// Reads from memory and fails soon after a cancel, which ends a decoder that takes a reader. The decoder's error then
/// says nothing of the bytes.
#[derive(Debug, Clone)]
pub(super) struct CancelReader<'a> {
    bytes: &'a [u8],
    cancel: &'a Cancel,
    /// What may be read without another look at the flag.
    block: &'a [u8],
    /// Where the next block begins.
    next: usize,
}

impl<'a> CancelReader<'a> {
    /// Reads `bytes` from their beginning.
    pub(super) fn new(bytes: &'a [u8], cancel: &'a Cancel) -> Self {
        Self { bytes, cancel, block: &[], next: 0 }
    }

    /// Goes to the next block where this one is used up; there is none at the end.
    fn advance(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            self.cancel.check().map_err(io::Error::other)?;
            let rest = self.bytes.get(self.next..).unwrap_or_default();
            self.block = rest.get(..BLOCK).unwrap_or(rest);
            self.next += self.block.len();
        }
        Ok(())
    }
}

impl Read for CancelReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance()?;
        self.block.read(buffer)
    }

    /// The JPEG decoder reads byte by byte: as fast as from a slice, but for one byte in a block.
    fn read_exact(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while buffer.len() > self.block.len() {
            let length = self.block.read(buffer)?;
            buffer = &mut buffer[length..];
            self.advance()?;
            if self.block.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.block.read_exact(buffer)
    }
}

impl BufRead for CancelReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.advance()?;
        Ok(self.block)
    }

    fn consume(&mut self, length: usize) {
        self.block.consume(length);
    }
}

impl Seek for CancelReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => (self.bytes.len() as u64).checked_add_signed(offset),
            SeekFrom::Current(offset) => ((self.next - self.block.len()) as u64).checked_add_signed(offset),
        };
        let position = position.and_then(|position| usize::try_from(position).ok());
        self.next = position.ok_or(io::ErrorKind::InvalidInput)?;
        self.block = &[];
        Ok(self.next as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reading_ends_with_the_block_in_which_it_is_cancelled() {
        let bytes = vec![7; 5 * BLOCK];
        let cancel = Cancel::new();
        let mut reader = CancelReader::new(&bytes, &cancel);
        let mut half = vec![0; BLOCK / 2];
        reader.read_exact(&mut half).unwrap();
        cancel.clone().cancel();
        reader.read_exact(&mut half).unwrap();
        assert!(reader.read(&mut half).is_err());
        assert!(reader.fill_buf().is_err());
        reader.seek(SeekFrom::Start(0)).unwrap();
        assert!(reader.read(&mut half).is_err());
    }

    proptest! {
        #[test]
        fn it_reads_what_a_cursor_reads(
            length in 0..3 * BLOCK,
            steps in proptest::collection::vec((0..5, -10_000i64..40_000), 0..20),
        ) {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 >> 3) as u8).collect();
            let cancel = Cancel::new();
            let mut ours = CancelReader::new(&bytes, &cancel);
            let mut cursor = io::Cursor::new(&bytes);
            for (kind, number) in steps {
                let (ours, theirs) = match kind {
                    0 => (ours.seek(SeekFrom::Current(number)).ok(), cursor.seek(SeekFrom::Current(number)).ok()),
                    1 => (ours.seek(SeekFrom::End(-number)).ok(), cursor.seek(SeekFrom::End(-number)).ok()),
                    2 => (ours.seek(SeekFrom::Start(number as u64)).ok(), cursor.seek(SeekFrom::Start(number as u64)).ok()),
                    3 => {
                        let mut first = vec![0; number.unsigned_abs() as usize];
                        let mut second = first.clone();
                        let (ours_read, theirs_read) = (ours.read_exact(&mut first), cursor.read_exact(&mut second));
                        prop_assert_eq!(ours_read.is_ok(), theirs_read.is_ok());
                        if ours_read.is_ok() {
                            prop_assert_eq!(first, second);
                        } else {
                            // Where a failure leaves either is nobody's promise.
                            ours.rewind().unwrap();
                            cursor.rewind().unwrap();
                        }
                        continue;
                    }
                    _ => {
                        let (mut first, mut second) = (Vec::new(), Vec::new());
                        ours.by_ref().take(number as u64).read_to_end(&mut first).unwrap();
                        cursor.by_ref().take(number as u64).read_to_end(&mut second).unwrap();
                        prop_assert_eq!(first, second);
                        continue;
                    }
                };
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
