//! What every reader makes of a list: rows of cells.

/// A list before anybody knows what its columns mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Table {
    /// Names of the columns, where the format has them apart from the rows.
    pub header: Option<Vec<String>>,
    /// Whether it came in T2VQA-DB's lines with bars, whose columns have no names of their own.
    pub is_lines: bool,
    /// Rows with anything in them. A spreadsheet's or a CSV file's header is still the first of them.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Its line in the file, from 1.
    pub line: u64,
    /// Trimmed cells, empty where there is nothing; or why the row cannot be read.
    pub cells: Result<Vec<String>, String>,
}

impl Row {
    pub fn new(line: u64, cells: Vec<String>) -> Self {
        Self { line, cells: Ok(cells) }
    }

    pub fn unreadable(line: u64, problem: impl Into<String>) -> Self {
        Self { line, cells: Err(problem.into()) }
    }

    /// Whether there is nothing in it, as in the rows that a spreadsheet keeps below the last one.
    pub fn is_blank(&self) -> bool {
        self.cells.as_ref().is_ok_and(|cells| cells.iter().all(String::is_empty))
    }
}
