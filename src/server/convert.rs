//! Plain values of the rooms below to messages of the API.

use std::time::Duration;

use super::config::LimitOptions;
use super::error::ServiceError;
use crate::engine::{ModelFacts, Priority, Scored};
use crate::model::{Dtype, ExpertSpec, Track};
use crate::proto;

/// What a score says beside the numbers of the engine.
pub(super) struct Circumstances {
    pub track: Track,
    pub model_version: String,
    pub prompt_truncated: bool,
    pub frames_used: u32,
    pub receive: Duration,
    pub decode: Duration,
    pub resize: Duration,
}

/// A score as the API says it; `total` is the time since the request's arrival.
pub(super) fn score(scored: Scored, circumstances: Circumstances, total: Duration) -> proto::Score {
    let experts = scored.score.experts.into_iter();
    let Circumstances { model_version, prompt_truncated, frames_used, receive, decode, resize, .. } = circumstances;
    proto::Score {
        mos: scored.score.mos,
        z: scored.score.z,
        experts: experts.map(|e| proto::ExpertScore { expert: e.name, raw: e.raw, z: e.z }).collect(),
        disagreement: scored.score.disagreement,
        prompt_truncated,
        frames_used,
        model_version,
        timings: Some(proto::Timings {
            receive: Some(duration(receive)),
            decode: Some(duration(decode)),
            resize: Some(duration(resize)),
            queue: Some(duration(scored.queue)),
            text: Some(duration(scored.text)),
            vision: Some(duration(scored.vision)),
            head: Some(duration(scored.head)),
            total: Some(duration(total)),
        }),
        batch_frames: scored.batch_frames,
    }
}

/// The model as GetModel describes it.
pub(super) fn model_info(
    facts: &ModelFacts,
    digest: &str,
    limits: &LimitOptions,
    max_batch_frames: u32,
) -> proto::ModelInfo {
    let manifest = &facts.manifest;
    let mos = &manifest.mos;
    let towers = manifest.text.towers.iter().zip(&facts.text_dims);
    proto::ModelInfo {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        digest: digest.to_owned(),
        trained: manifest.trained,
        provenance: manifest.provenance.clone(),
        licence: manifest.licence.clone(),
        mos: Some(proto::MosScale {
            dataset: mos.dataset.clone(),
            mean: mos.mean,
            std: mos.std,
            min: mos.min,
            max: mos.max,
        }),
        experts: experts(facts),
        text_towers: towers
            .map(|(tower, &dim)| proto::TextTower {
                name: tower.name.clone(),
                embedding_dim: u32::try_from(dim).unwrap_or(u32::MAX),
            })
            .collect(),
        tta: facts.options.tta,
        dtype: match facts.options.dtype {
            Dtype::F32 => proto::Dtype::F32.into(),
            Dtype::Bf16 => proto::Dtype::Bf16.into(),
        },
        device: facts.options.device_name(),
        limits: Some(proto::Limits {
            max_message_bytes: limits.max_message_bytes.get(),
            max_prompt_bytes: limits.max_prompt_bytes.get(),
            max_image_bytes: limits.max_image_bytes.get(),
            max_image_pixels: limits.max_image_pixels.get(),
            max_video_bytes: limits.max_video_bytes.get(),
            max_video_pixels: limits.max_video_pixels.get(),
            max_video_seconds: limits.max_video_seconds.0,
            max_video_frames: limits.max_video_frames.get(),
            max_rank_images: limits.max_rank_images.get(),
            max_frames_used: manifest.max_frames,
            max_batch_frames,
        }),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The priority in a request, which is interactive where the request does not say.
pub(super) fn priority(number: i32) -> Result<Priority, ServiceError> {
    match proto::Priority::try_from(number) {
        Ok(proto::Priority::Unspecified | proto::Priority::Interactive) => Ok(Priority::Interactive),
        Ok(proto::Priority::Bulk) => Ok(Priority::Bulk),
        Err(_) => Err(ServiceError::invalid("priority", format!("is {number}, which is no Priority"))),
    }
}

/// A duration as protobuf's.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos().cast_signed() }
}

fn experts(facts: &ModelFacts) -> Vec<proto::Expert> {
    let describe = |expert: &ExpertSpec| {
        // The ensemble does not load without a calibration for its options.
        let (mu, sigma) = facts.calibration(expert).map(|found| (found.mu, found.sigma)).unwrap_or_default();
        proto::Expert {
            name: expert.name.clone(),
            track: match expert.track {
                Track::Image => proto::Track::Image.into(),
                Track::Video => proto::Track::Video.into(),
            },
            backbone: expert.backbone.kind.name().to_owned(),
            input_size: expert.input_size,
            mu,
            sigma,
        }
    };
    facts.manifest.experts.iter().map(describe).collect()
}
