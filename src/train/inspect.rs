//! A bundle in words, for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::anyhow;
use comfy_table::{Table, presets};
use safetensors::SafeTensors;

use crate::model::{Bundle, Manifest};

/// What `bundle` is: name, digest, text towers, experts, calibration, files.
pub fn describe(bundle: &Bundle) -> anyhow::Result<String> {
    let manifest = bundle.manifest();
    let parameters = count_parameters(bundle)?;
    let mut text = String::new();
    let mos = &manifest.mos;
    let trained = if manifest.trained { "" } else { " (untrained: scores mean nothing)" };
    writeln!(text, "bundle      {} version {}{trained}", manifest.name, manifest.version)?;
    writeln!(text, "digest      {}", bundle.digest())?;
    writeln!(text, "licence     {}", manifest.licence)?;
    writeln!(text, "provenance  {}", manifest.provenance)?;
    writeln!(text, "mos         {} + {} z, scale {} to {} of {}", mos.mean, mos.std, mos.min, mos.max, mos.dataset)?;
    writeln!(text, "frames      at most {}", manifest.max_frames)?;
    for table in [experts(manifest, &parameters), towers(manifest, &parameters), calibration(manifest), files(bundle)] {
        writeln!(text, "\n{table}")?;
    }
    Ok(text)
}

fn experts(manifest: &Manifest, parameters: &BTreeMap<String, u64>) -> Table {
    let mut table = table(&["expert", "track", "backbone", "input", "mixer", "backbone params", "head params"]);
    for expert in &manifest.experts {
        table.add_row([
            expert.name.clone(),
            format!("{:?}", expert.track).to_lowercase(),
            format!("{:?}", expert.backbone.kind).to_lowercase(),
            expert.input_size.to_string(),
            format!("{:?}", expert.mixer).to_lowercase(),
            millions(parameters, &expert.backbone.weights),
            millions(parameters, &expert.head),
        ]);
    }
    table
}

fn towers(manifest: &Manifest, parameters: &BTreeMap<String, u64>) -> Table {
    let mut table = table(&["text tower", "params", "l2 norm", "context"]);
    let text = &manifest.text;
    for tower in &text.towers {
        let params = millions(parameters, &tower.weights);
        table.add_row([tower.name.clone(), params, text.l2_norm.to_string(), text.context_length.to_string()]);
    }
    table
}

fn calibration(manifest: &Manifest) -> Table {
    let mut table = table(&["calibration", "tta", "input", "dtypes", "mu", "sigma"]);
    for entry in &manifest.calibration {
        table.add_row([
            entry.expert.clone(),
            entry.tta.to_string(),
            entry.input_size.to_string(),
            entry.dtypes.join(", "),
            entry.mu.to_string(),
            entry.sigma.to_string(),
        ]);
    }
    table
}

fn files(bundle: &Bundle) -> Table {
    let mut table = table(&["file", "bytes", "sha256"]);
    for (name, digest) in &bundle.manifest().files {
        table.add_row([name.clone(), digest.bytes.to_string(), digest.sha256.chars().take(12).collect()]);
    }
    table
}

/// Numbers in floating-point tensors, by file; counters are no parameters.
fn count_parameters(bundle: &Bundle) -> anyhow::Result<BTreeMap<String, u64>> {
    let manifest = bundle.manifest();
    let mut counts = BTreeMap::new();
    for name in manifest.files.keys().filter(|name| **name != manifest.text.tokenizer) {
        let file = bundle.file(name)?;
        let tensors = SafeTensors::deserialize(file.bytes()).map_err(|error| anyhow!("{name}: {error}"))?;
        let parameters = tensors.iter().filter(|(_, tensor)| !tensor.shape().is_empty());
        counts
            .insert(name.clone(), parameters.map(|(_, tensor)| tensor.shape().iter().product::<usize>() as u64).sum());
    }
    Ok(counts)
}

fn millions(parameters: &BTreeMap<String, u64>, file: &str) -> String {
    parameters.get(file).map_or(String::new(), |&count| format!("{:.2} M", count as f64 / 1e6))
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
