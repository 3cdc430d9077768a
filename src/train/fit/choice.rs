//! A data set that need not be named: a run has its own.

use std::path::PathBuf;

use clap::Args;

use crate::train::dataset::{DatasetArguments, Format};

/// [`DatasetArguments`], none of which is needed.
#[derive(Debug, Clone, Args)]
pub struct DataChoice {
    /// Folder of a data set, or its list; `pcqa-train check --help` says of what kind
    #[arg(long, value_name = "DIR|LIST")]
    data: Option<PathBuf>,
    /// The list, where the folder has several; relative to --data
    #[arg(long, value_name = "FILE", requires = "data")]
    list: Option<PathBuf>,
    /// How the list is laid out. Default: seen from its columns
    #[arg(long, value_enum, requires = "data")]
    format: Option<Format>,
    /// Column with the MOS. Default: mos; mos_quality of AGIQA-3K, which has mos_align as well
    #[arg(long, value_name = "NAME", requires = "data")]
    column: Option<String>,
    /// Refuse a list of which any row cannot be used
    #[arg(long, requires = "data")]
    strict: bool,
}

impl DataChoice {
    /// The data set, where one is named.
    pub fn chosen(&self) -> Option<DatasetArguments> {
        let data = self.data.clone()?;
        let Self { list, format, column, strict, .. } = self.clone();
        Some(DatasetArguments { data, list, format, column, strict })
    }
}
