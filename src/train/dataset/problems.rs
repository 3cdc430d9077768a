//! What is wrong with a list, one line per row.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// Why a row is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The row cannot be read: cells are missing, or it is no text.
    Row,
    /// The file is not there, is empty, or there are several of that name.
    File,
    /// The file's ending is that of no image and no video.
    Ending,
    /// The MOS is no finite number, or there is none where the others have one.
    Mos,
    /// There is no prompt.
    Prompt,
    /// An earlier row has the same file and prompt.
    Duplicate,
    /// The file does not decode. Found by decoding alone.
    Media,
}

impl Kind {
    /// As summaries name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Row => "unreadable row",
            Self::File => "missing file",
            Self::Ending => "unknown kind of file",
            Self::Mos => "bad MOS",
            Self::Prompt => "empty prompt",
            Self::Duplicate => "duplicate",
            Self::Media => "undecodable file",
        }
    }
}

/// One row that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line or row in the list, from 1; None for what was found in a file.
    pub line: Option<u64>,
    /// Why.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.kind.name(), self.text)
    }
}

/// All rows of a list that are left out.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    /// Rows in the list, good and bad.
    pub rows: usize,
    /// In the order of the list.
    pub entries: Vec<Problem>,
    /// What is worth knowing but costs no row.
    pub notes: Vec<String>,
}

impl Problems {
    pub(super) fn add(&mut self, line: u64, kind: Kind, text: impl Into<String>) {
        self.entries.push(Problem { line: Some(line), kind, text: text.into() });
    }

    /// How many of each kind.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        self.entries.iter().for_each(|problem| *counts.entry(problem.kind).or_default() += 1);
        counts
    }

    /// "12 of 14000 rows are left out (10 missing file, 2 bad MOS)"; None where there is no problem.
    pub fn summary(&self) -> Option<String> {
        if self.entries.is_empty() {
            return None;
        }
        let counts: Vec<String> =
            self.counts().iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
        Some(format!("{} of {} rows are left out ({})", self.entries.len(), self.rows, counts.join(", ")))
    }

    pub(super) fn first(&self) -> String {
        self.entries.first().map(Problem::to_string).unwrap_or_default()
    }
}
