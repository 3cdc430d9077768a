//! The committed page.

use std::fmt::Write;

use crate::compare::Row;
use crate::golden::{Golden, Network};

/// `tests/golden/parity/report.md`
pub fn markdown(golden: &Golden, rows: &[Row], threads: i32) -> String {
    let versions: Vec<String> = golden.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let libtorch = libtorch().unwrap_or_else(|| "unknown".to_owned());
    let mut page = format!(
        "# Full-size parity\n\n\
         Written by `make parity`; do not edit. Expected: {} on a CPU, by `make_parity.py`.\n\
         Here: pcqa {}, libtorch {libtorch}, f32, {threads} threads, {}.\n\n\
         Weights and pictures come from the generator of `src/train/hash_init.rs`, seed {}: no file is needed, and no\n\
         weight is what anybody trained. \"Relative\" is the largest difference over the root mean square of the expected\n\
         embedding, or over the expected score. Allowed: 1e-4, of embeddings relative and of scores absolute.\n\n",
        versions.join(", "),
        env!("CARGO_PKG_VERSION"),
        processor().unwrap_or_else(|| "unknown processor".to_owned()),
        golden.seed,
    );
    page.push_str(
        "| network | of | parameters | case | largest absolute | relative | |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.values.is_none()) {
        let network = golden.networks.iter().find(|network| network.name == row.what);
        let millions = network.map(Network::parameters).unwrap_or_default() as f64 / 1e6;
        let Row { what, library, case, absolute, relative, .. } = row;
        let _ = writeln!(
            page,
            "| {what} | {library} | {millions:.2} M | {case} | {absolute:.1e} | {relative:.1e} | {} |",
            verdict(row)
        );
    }
    page.push_str(
        "\nThe whole path: an image of 512² resized to 448², three experts, ViT-H-14-quickgelu and EVA02-CLIP-E-14-plus,\n\
         Eq. 4 with made-up statistics, from a bundle on disk.\n\n\
         | figure | pcqa | expected | absolute | relative | |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Some((ours, theirs)) = row.values else { continue };
        let Row { case, absolute, relative, .. } = row;
        let _ =
            writeln!(page, "| {case} | {ours:.6} | {theirs:.6} | {absolute:.1e} | {relative:.1e} | {} |", verdict(row));
    }
    page
}

fn verdict(row: &Row) -> &'static str {
    if row.fits() { "ok" } else { "**too much**" }
}

fn libtorch() -> Option<String> {
    let directory = std::path::PathBuf::from(std::env::var_os("LIBTORCH")?);
    Some(std::fs::read_to_string(directory.join("build-version")).ok()?.trim().to_owned())
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}
