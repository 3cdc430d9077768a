//! T2VQA-DB's lists: lines of `file|prompt|mos`, or of `file|prompt` where there is no MOS. A prompt may contain bars.

use anyhow::bail;

use super::table::{Row, Table};

/// Reads every line. The list has a MOS where at least half of its lines end in a number.
pub(super) fn read(text: &str) -> anyhow::Result<Table> {
    let lines: Vec<(u64, &str)> = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty()).collect();
    if !lines.iter().any(|(_, line)| line.contains('|')) {
        bail!("no line is of the form file|prompt|mos");
    }
    let numbered = lines.iter().filter(|(_, line)| has_mos(line)).count();
    let is_labelled = 2 * numbered >= lines.len();
    let rows = lines.into_iter().map(|(number, line)| match cells(line, is_labelled) {
        Some(cells) => Row::new(number, cells.iter().map(|cell| cell.trim().to_owned()).collect()),
        None => Row::unreadable(number, "is not of the form file|prompt|mos"),
    });
    let header = ["name", "prompt", "mos"].into_iter().take(if is_labelled { 3 } else { 2 });
    Ok(Table { header: Some(header.map(str::to_owned).collect()), is_lines: true, rows: rows.collect() })
}

fn has_mos(line: &str) -> bool {
    cells(line, true).is_some_and(|cells| cells.last().is_some_and(|mos| mos.trim().parse::<f64>().is_ok()))
}

fn cells(line: &str, is_labelled: bool) -> Option<Vec<&str>> {
    let (name, rest) = line.split_once('|')?;
    if !is_labelled {
        return Some(vec![name, rest]);
    }
    let (prompt, mos) = rest.rsplit_once('|')?;
    Some(vec![name, prompt, mos])
}
