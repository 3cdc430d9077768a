//! Labelled images and videos as they are distributed: AIGIQA-20K, T2VQA-DB, AGIQA-3K, and any table with a path, a
//! prompt and, where there is one, a MOS. A row that cannot be used is left out and becomes a line in [`Problems`]:
//! thousands of them neither stop the reading nor hide.
//!
//! A list is read in four steps, a file each: bytes to rows of cells (`csv`, `jsonl`, `lines`, `parquet`, `sheet`),
//! which column is what (`format`), where the media are (`folder`), rows to items (`rows`). No pixels here.

mod csv;
mod folder;
mod format;
mod jsonl;
mod lines;
mod parquet;
mod problems;
mod rows;
mod sheet;
mod table;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use self::folder::{Folder, find_list};
pub use self::format::Format;
use self::format::Layout;
pub use self::problems::{Kind, Problem, Problems};
use self::table::Table;
use crate::model::Track;

/// One image or video that somebody judged, or that is to be judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The file as the list names it.
    pub name: String,
    /// Where the file is.
    pub path: PathBuf,
    /// What it was made from; never empty.
    pub prompt: String,
    /// Mean opinion score on the data set's scale, finite. None where the list has none.
    pub mos: Option<f64>,
    /// The network that made it.
    pub generator: Option<String>,
    /// What must not be torn apart by a split, by the list's own word.
    pub group: Option<String>,
    /// Image or video, by the file's ending.
    pub track: Track,
}

/// The usable rows of a list, in its order, and what is wrong with the others.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The public data set's name, or that of the folder.
    pub name: String,
    /// The folder that the list's paths are relative to.
    pub root: PathBuf,
    /// The list.
    pub list: PathBuf,
    /// How the list is laid out.
    pub format: Format,
    /// The column that the MOS came from, where there is one.
    pub column: Option<String>,
    /// What can be used.
    pub items: Vec<Item>,
    /// One entry per row that is not among the items.
    pub problems: Problems,
}

impl Dataset {
    /// An error where there are no items or, if `strict`, where there is any problem.
    pub fn check(&self, strict: bool) -> anyhow::Result<()> {
        let list = self.list.display();
        match self.problems.summary() {
            Some(summary) if strict => {
                bail!("{list}: {summary}, which --strict refuses; the first: {}", self.problems.first())
            }
            Some(summary) if self.items.is_empty() => bail!("{list}: {summary}; the first: {}", self.problems.first()),
            None if self.items.is_empty() => bail!("{list}: holds no rows"),
            _ => Ok(()),
        }
    }
}

/// Which data set to read, and how.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetArguments {
    /// Folder of a data set, or its list. Known as distributed: AIGIQA-20K (info_train.xlsx, or name,prompt,mos as CSV
    /// with or without a header), T2VQA-DB (info.txt or train.txt with file|prompt|mos), AGIQA-3K (data.csv); else any
    /// CSV, JSONL, XLSX or Parquet list with the columns path, prompt, mos and, optionally, generator and group. A list
    /// without MOS can be predicted. Files are looked for beside the list and, by their name, in all folders below
    #[arg(long, value_name = "DIR|LIST")]
    pub data: PathBuf,
    /// The list, where the folder has several; relative to --data
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<PathBuf>,
    /// How the list is laid out. Default: seen from its columns
    #[arg(long, value_enum)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Column with the MOS. Default: mos; mos_quality of AGIQA-3K, which has mos_align as well
    #[arg(long, value_name = "NAME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Refuse a list of which any row cannot be used
    #[arg(long)]
    #[serde(default)]
    pub strict: bool,
}

impl DatasetArguments {
    /// A data set whose format and list are found by themselves.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into(), list: None, format: None, column: None, strict: false }
    }

    /// Reads the list and looks for its files. Says on stderr, in one line, how many rows were left out and why.
    ///
    /// # Errors
    /// A list that is not there, cannot be read, lacks a column or has no usable row; with `strict`, any problem.
    pub fn read(&self) -> anyhow::Result<Dataset> {
        let dataset = self.scan()?;
        dataset.check(self.strict)?;
        for note in dataset.problems.notes.iter().chain(&dataset.problems.summary()) {
            eprintln!("{}: {note}", dataset.list.display());
        }
        Ok(dataset)
    }

    /// As [`read`](Self::read), but silent and without the last two errors: there may be no items.
    pub fn scan(&self) -> anyhow::Result<Dataset> {
        let (root, list) = self.find()?;
        let mut problems = Problems::default();
        let opened = self.open(&list, &mut problems.notes);
        let (table, layout) = opened.with_context(|| list.display().to_string())?;
        problems.rows = table.rows.len();
        let mut folder = Folder::new(&root, &list);
        let items = rows::into_items(table.rows, &layout, &mut folder, &mut problems);
        let name = match layout.format.data_set() {
            Some(name) => name.to_owned(),
            None => name_of(&root),
        };
        Ok(Dataset { name, root, list, format: layout.format, column: layout.column, items, problems })
    }

    /// The folder and the list in it.
    fn find(&self) -> anyhow::Result<(PathBuf, PathBuf)> {
        let data = &self.data;
        let metadata = fs::metadata(data).with_context(|| format!("{}: cannot be read", data.display()))?;
        let root = match metadata.is_dir() {
            true => data.clone(),
            false => data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned(),
        };
        let list = match (&self.list, metadata.is_dir()) {
            (Some(list), true) => root.join(list),
            (Some(list), false) => bail!("--list {}: --data {} is a list already", list.display(), data.display()),
            (None, true) => find_list(&root)?,
            (None, false) => data.clone(),
        };
        Ok((root, list))
    }

    /// The list's rows and what their columns are.
    fn open(&self, list: &Path, notes: &mut Vec<String>) -> anyhow::Result<(Table, Layout)> {
        let ending = list.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        let bytes = fs::read(list).context("cannot be read")?;
        let mut table = match ending.as_str() {
            "xlsx" => sheet::read(bytes)?,
            "parquet" => parquet::read(bytes)?,
            "csv" => csv::read(&text::decode(bytes, notes)),
            "jsonl" => jsonl::read(&text::decode(bytes, notes)),
            "txt" => lines::read(&text::decode(bytes, notes))?,
            _ => bail!("a list must end in .csv, .jsonl, .parquet, .txt or .xlsx"),
        };
        if table.rows.is_empty() {
            bail!("holds no rows");
        }
        let layout = format::lay_out(&mut table, self.format, self.column.as_deref())?;
        Ok((table, layout))
    }
}

fn name_of(root: &Path) -> String {
    let whole = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    whole.file_name().map_or_else(|| whole.display().to_string(), |name| name.to_string_lossy().into_owned())
}
