//! Which column of a list is what.

use anyhow::{anyhow, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::folder::ending_track;
use super::table::{Row, Table};

/// Characters of a line that are shown.
const SHOWN: usize = 80;

/// How a list is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Format {
    /// Columns name, prompt, mos, with or without a header line. The generator is read from the file names
    /// (`SDXL_Turbo_0042.png`).
    #[value(name = "aigiqa-20k")]
    #[serde(rename = "aigiqa-20k")]
    Aigiqa20k,
    /// Lines of `file|prompt|mos`. The generator is read from the file names where they are of AIGIQA-20K's form.
    #[value(name = "t2vqa-db")]
    #[serde(rename = "t2vqa-db")]
    T2vqaDb,
    /// Columns name, prompt, adj1, adj2, style, mos_quality, std_quality, mos_align, std_align. The generator is read
    /// from the file names (`sd1.5_lowstep_042.jpg`), without its settings.
    #[value(name = "agiqa-3k")]
    #[serde(rename = "agiqa-3k")]
    Agiqa3k,
    /// Columns path, prompt and, optionally, mos, generator, group; others are ignored. An empty mos is none.
    #[value(name = "table")]
    #[serde(rename = "table")]
    Table,
}

impl Format {
    /// The public data set that has this format; None for a table of any origin.
    pub fn data_set(self) -> Option<&'static str> {
        match self {
            Self::Aigiqa20k => Some("AIGIQA-20K"),
            Self::T2vqaDb => Some("T2VQA-DB"),
            Self::Agiqa3k => Some("AGIQA-3K"),
            Self::Table => None,
        }
    }

    /// The generator that a file's name begins with, in the data sets whose names carry it: what stands before the
    /// running number.
    pub(super) fn generator_in(self, name: &str) -> Option<String> {
        let (_, file) = name.rsplit_once(['/', '\\']).unwrap_or(("", name));
        let (stem, _) = file.rsplit_once('.')?;
        let series = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        let generator = series.strip_suffix(['_', '-']).filter(|_| series.len() < stem.len())?;
        let generator = match self {
            Self::Table => return None,
            Self::Agiqa3k => generator.rsplit_once('_').map_or(generator, |(generator, _settings)| generator),
            Self::Aigiqa20k | Self::T2vqaDb => generator,
        };
        (!generator.is_empty()).then(|| generator.to_owned())
    }
}

/// The columns of a list, by index.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub format: Format,
    pub path: usize,
    pub prompt: usize,
    pub mos: Option<usize>,
    pub generator: Option<usize>,
    pub group: Option<usize>,
    /// The MOS column's name.
    pub column: Option<String>,
}

/// Finds the columns of `table` and takes the header out of its rows, where it is one of them. `format` is what the
/// caller says, `column` the column to take the MOS from.
pub(super) fn lay_out(table: &mut Table, format: Option<Format>, column: Option<&str>) -> anyhow::Result<Layout> {
    let Some(header) = take_header(table) else {
        return headless(table, format, column);
    };
    let find = |name: &str| -> anyhow::Result<Option<usize>> {
        let mut places = (0..).zip(&header).filter(|(_, title)| title.trim().eq_ignore_ascii_case(name));
        match (places.next(), places.next()) {
            (Some(_), Some(_)) => bail!("has more than one column `{name}`"),
            (place, _) => Ok(place.map(|(place, _)| place)),
        }
    };
    let lacks = |name: &str| anyhow!("has no column `{name}`; its columns are {}", header.join(", "));
    let format = match format {
        Some(format) => format,
        None if table.is_lines => Format::T2vqaDb,
        None if find("path")?.is_some() => Format::Table,
        None if find("mos_quality")?.is_some() => Format::Agiqa3k,
        None => Format::Aigiqa20k,
    };
    let path = match find("path")? {
        Some(path) => path,
        None => find("name")?.ok_or_else(|| lacks("path"))?,
    };
    let usual = if format == Format::Agiqa3k { "mos_quality" } else { "mos" };
    let mos = match column {
        Some(column) => Some(find(column)?.ok_or_else(|| lacks(column))?),
        None => find(usual)?,
    };
    Ok(Layout {
        format,
        path,
        prompt: find("prompt")?.ok_or_else(|| lacks("prompt"))?,
        mos,
        generator: find("generator")?,
        group: find("group")?,
        column: mos.and_then(|mos| header.get(mos).cloned()),
    })
}

/// The header: the table's own, or its first row where that names columns of ours.
fn take_header(table: &mut Table) -> Option<Vec<String>> {
    if table.header.is_some() {
        return table.header.take();
    }
    let first = table.rows.first()?.cells.as_ref().ok()?;
    let has = |name: &str| first.iter().any(|title| title.eq_ignore_ascii_case(name));
    let is_header = has("prompt") && (has("path") || has("name"));
    is_header.then(|| table.rows.remove(0).cells.unwrap_or_default())
}

/// A list without a header: name, prompt and, where there is a third column, mos.
fn headless(table: &Table, format: Option<Format>, column: Option<&str>) -> anyhow::Result<Layout> {
    if let Some(column) = column {
        bail!("--column {column}: the list has no header line");
    }
    let width = |row: &Row| row.cells.as_ref().map_or(0, Vec::len);
    let first = table.rows.first().and_then(|row| row.cells.as_ref().ok()).and_then(|cells| cells.first());
    let names_media = first.is_some_and(|name| ending_track(name.as_ref()).is_some());
    let width = table.rows.first().map_or(0, width);
    if !names_media || width < 2 || !matches!(format, None | Some(Format::Aigiqa20k)) {
        let first = table.rows.first().and_then(|row| row.cells.as_ref().ok()).map(|cells| cells.join(", "));
        let shown: String = first.unwrap_or_default().chars().take(SHOWN).collect();
        bail!("has no header line that names the columns path (or name) and prompt; its first line is {shown:?}");
    }
    let mos = (width > 2).then_some(2);
    let column = mos.map(|_| "3".to_owned());
    Ok(Layout { format: Format::Aigiqa20k, path: 0, prompt: 1, mos, generator: None, group: None, column })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_stand_before_the_running_number() {
        let cases = [
            (Format::Aigiqa20k, "SDXL_Turbo_0042.png", Some("SDXL_Turbo")),
            (Format::Aigiqa20k, "train/SD1.5_1999.png", Some("SD1.5")),
            (Format::Aigiqa20k, "cat.png", None),
            (Format::Aigiqa20k, "0042.png", None),
            (Format::Aigiqa20k, "cat42.png", None),
            (Format::Agiqa3k, "sd1.5_lowstep_042.jpg", Some("sd1.5")),
            (Format::Agiqa3k, "AttnGAN_normal_000.jpg", Some("AttnGAN")),
            (Format::T2vqaDb, "lavie-0042.mp4", Some("lavie")),
            (Format::T2vqaDb, "0042.mp4", None),
            (Format::Table, "SDXL_Turbo_0042.png", None),
        ];
        for (format, name, expected) in cases {
            assert_eq!(format.generator_in(name).as_deref(), expected, "{name}");
        }
    }
}
