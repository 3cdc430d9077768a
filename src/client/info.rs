//! `pcqa info`: the served model as a page or as JSON.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};

use super::args::{InfoArgs, InfoForm, ServerArgs};
use super::text::printable;
use super::{Error, connect};
use crate::proto::{Dtype, Expert, Limits, ModelInfo, Track};

/// Prints what the server serves.
///
/// # Errors
/// When the server does not say or the page cannot be written.
pub async fn run(server: &ServerArgs, args: &InfoArgs) -> Result<(), Error> {
    let session = connect::open(server).await?;
    let page = match args.output {
        InfoForm::Text => text(&session.model, &session.limits),
        InfoForm::Json => format!("{:#}\n", as_json(&session.model, &session.limits)),
    };
    io::stdout().write_all(page.as_bytes())?;
    Ok(io::stdout().flush()?)
}

fn text(model: &ModelInfo, limits: &Limits) -> String {
    let trained = if model.trained { "yes" } else { "no: untrained, scores show the path and mean nothing" };
    let scale = model.mos.clone().unwrap_or_default();
    let towers: Vec<String> =
        model.text_towers.iter().map(|tower| format!("{} ({} dimensions)", tower.name, tower.embedding_dim)).collect();
    let tta = if model.tta { "on: mean over the frames and their mirror images" } else { "off" };
    let facts = [
        ("model", model.name.clone()),
        ("version", model.version.clone()),
        ("digest", model.digest.clone()),
        ("trained", trained.to_owned()),
        ("provenance", model.provenance.clone()),
        ("licence", model.licence.clone()),
        (
            "MOS scale",
            format!("{}, {} to {}, mean {}, std {}", scale.dataset, scale.min, scale.max, scale.mean, scale.std),
        ),
        ("text towers", towers.join(", ")),
        ("augmentation", tta.to_owned()),
        ("arithmetic", format!("{} on {}", dtype_name(model.dtype()), model.device)),
        ("server", format!("pcqa-server {}", model.server_version)),
    ];
    let mut page = aligned(&facts.map(|(name, value)| (name, printable(&value))));
    page.push_str("\nexperts\n");
    page.push_str(&experts(&model.experts));
    page.push_str("\nlimits\n");
    page.push_str(&aligned(&limits_in_words(limits)));
    page
}

fn experts(experts: &[Expert]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["name", "track", "backbone", "input", "mu", "sigma"]);
    for expert in experts {
        let input = format!("{0} x {0}", expert.input_size);
        let (mu, sigma) = (expert.mu.to_string(), expert.sigma.to_string());
        let [name, backbone] = [&expert.name, &expert.backbone].map(|text| printable(text));
        table.add_row([name, track_name(expert.track()).to_owned(), backbone, input, mu, sigma]);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

fn limits_in_words(limits: &Limits) -> [(&'static str, String); 11] {
    let bytes = |value: u64| format!("{} ({value} bytes)", BinaryBytes(value));
    let count = |value: u64, unit: &str| format!("{} {unit}", HumanCount(value));
    [
        ("message", bytes(limits.max_message_bytes)),
        ("prompt", bytes(limits.max_prompt_bytes)),
        ("image", bytes(limits.max_image_bytes)),
        ("image size", count(limits.max_image_pixels, "pixels")),
        ("video", bytes(limits.max_video_bytes)),
        ("video frame size", count(limits.max_video_pixels, "pixels")),
        ("video length", format!("{} s", limits.max_video_seconds)),
        ("video frames", count(limits.max_video_frames, "frames")),
        ("video frames scored", count(limits.max_frames_used.into(), "frames")),
        ("batch", count(limits.max_batch_frames.into(), "frames")),
        ("images ranked at once", count(limits.max_rank_images.into(), "images")),
    ]
}

/// Names and values in two columns.
fn aligned(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn track_name(track: Track) -> &'static str {
    match track {
        Track::Unspecified => "unspecified",
        Track::Image => "image",
        Track::Video => "video",
    }
}

/// `f32` or `bf16`.
pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Unspecified => "unspecified",
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
    }
}

/// The fields of `ModelInfo` under their own names.
fn as_json(model: &ModelInfo, limits: &Limits) -> Value {
    let experts: Vec<Value> = model
        .experts
        .iter()
        .map(|expert| {
            json!({
                "name": expert.name,
                "track": track_name(expert.track()),
                "backbone": expert.backbone,
                "input_size": expert.input_size,
                "mu": expert.mu,
                "sigma": expert.sigma,
            })
        })
        .collect();
    let towers: Vec<Value> = model
        .text_towers
        .iter()
        .map(|tower| json!({ "name": tower.name, "embedding_dim": tower.embedding_dim }))
        .collect();
    let scale = model.mos.clone().unwrap_or_default();
    json!({
        "name": model.name,
        "version": model.version,
        "digest": model.digest,
        "trained": model.trained,
        "provenance": model.provenance,
        "licence": model.licence,
        "mos": {
            "dataset": scale.dataset, "mean": scale.mean, "std": scale.std, "min": scale.min, "max": scale.max,
        },
        "experts": experts,
        "text_towers": towers,
        "tta": model.tta,
        "dtype": dtype_name(model.dtype()),
        "device": model.device,
        "limits": {
            "max_message_bytes": limits.max_message_bytes,
            "max_prompt_bytes": limits.max_prompt_bytes,
            "max_image_bytes": limits.max_image_bytes,
            "max_image_pixels": limits.max_image_pixels,
            "max_video_bytes": limits.max_video_bytes,
            "max_video_pixels": limits.max_video_pixels,
            "max_video_seconds": limits.max_video_seconds,
            "max_video_frames": limits.max_video_frames,
            "max_rank_images": limits.max_rank_images,
            "max_frames_used": limits.max_frames_used,
            "max_batch_frames": limits.max_batch_frames,
        },
        "server_version": model.server_version,
    })
}
