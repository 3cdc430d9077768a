//! A batch's frames on the device.

use tch::{Kind, TchError, Tensor};

use crate::media::Frames;
use crate::model::ops::to_channels_first;
use crate::model::{ExpertSpec, LoadOptions, ModelError};

/// The items of a batch by their frames: the same picture sent for several prompts is looked at once.
pub(super) struct Distinct<'a> {
    /// Each different one, in the order of first appearance.
    pub(super) frames: Vec<&'a Frames>,
    /// Of each item of the batch, its index in `frames`.
    owners: Vec<usize>,
}

impl<'a> Distinct<'a> {
    /// Items are the same when all their bytes are; those of unequal pictures differ early.
    pub(super) fn new(items: &[&'a Frames]) -> Self {
        let mut frames: Vec<&'a Frames> = Vec::with_capacity(items.len());
        let mut owners = Vec::with_capacity(items.len());
        for &item in items {
            let known = frames.iter().position(|&known| known == item);
            owners.push(known.unwrap_or(frames.len()));
            if known.is_none() {
                frames.push(item);
            }
        }
        Self { frames, owners }
    }

    /// Number of frames of each item of the batch.
    pub(super) fn counts(&self) -> Vec<i64> {
        self.owners.iter().map(|&owner| i64::from(self.frames[owner].count)).collect()
    }

    /// Rows of `features`, one a frame of the distinct items, as rows of all items of the batch.
    pub(super) fn spread(&self, features: &Tensor) -> Result<Tensor, TchError> {
        if self.frames.len() == self.owners.len() {
            return Ok(features.shallow_clone());
        }
        let mut starts = Vec::with_capacity(self.frames.len());
        let mut total = 0;
        for frames in &self.frames {
            starts.push(total);
            total += i64::from(frames.count);
        }
        let rows = self.owners.iter().flat_map(|&owner| (starts[owner]..).take(self.frames[owner].count as usize));
        let rows = Tensor::f_from_slice(&rows.collect::<Vec<i64>>())?.f_to_device(features.device())?;
        features.f_index_select(0, &rows)
    }
}

/// Frames on the device: uploaded once a side, normalised once a side and statistics.
pub(crate) struct Inputs<'a> {
    options: LoadOptions,
    items: &'a [&'a Frames],
    /// By side, `[N, S, S, 3]` in f32, 0 to 1.
    uploaded: Vec<(u32, Tensor)>,
    /// By expert's input size, mean and std, `[N, 3, S, S]` in the network's number format.
    normalised: Vec<(Normalisation, Tensor)>,
}

type Normalisation = (u32, [f64; 3], [f64; 3]);

impl<'a> Inputs<'a> {
    pub(crate) fn new(options: LoadOptions, items: &'a [&'a Frames]) -> Self {
        Self { options, items, uploaded: Vec::new(), normalised: Vec::new() }
    }

    /// All items' frames as `spec`'s backbone takes them.
    pub(crate) fn normalised(&mut self, spec: &ExpertSpec) -> Result<Tensor, ModelError> {
        let wanted = (spec.input_size, spec.backbone.mean, spec.backbone.std);
        if let Some((_, frames)) = self.normalised.iter().find(|(have, _)| *have == wanted) {
            return Ok(frames.shallow_clone());
        }
        let channels = |values: [f64; 3]| -> Result<Tensor, TchError> {
            Tensor::f_from_slice(&values)?.f_to_kind(Kind::Float)?.f_to_device(self.options.device)
        };
        let (mean, std) = (channels(spec.backbone.mean)?, channels(spec.backbone.std)?);
        let frames = self.uploaded(spec.input_size)?.f_sub(&mean)?.f_div_(&std)?;
        let frames = to_channels_first(&frames.f_to_kind(self.options.dtype.kind())?)?;
        self.normalised.push((wanted, frames.shallow_clone()));
        Ok(frames)
    }

    fn uploaded(&mut self, side: u32) -> Result<Tensor, ModelError> {
        if let Some((_, frames)) = self.uploaded.iter().find(|(have, _)| *have == side) {
            return Ok(frames.shallow_clone());
        }
        let frame_bytes = side as usize * side as usize * 3;
        let count: usize = self.items.iter().map(|item| item.count as usize).sum();
        let mut rgb = Vec::with_capacity(count * frame_bytes);
        for item in self.items {
            let stack =
                item.at(side).ok_or_else(|| ModelError::Input(format!("an item has no frames of side {side}")))?;
            let (have, want) = (stack.rgb.len(), item.count as usize * frame_bytes);
            if have != want {
                return Err(ModelError::Input(format!("frames of side {side} are {have} bytes long, expected {want}")));
            }
            rgb.extend_from_slice(&stack.rgb);
        }
        let shape = [count as i64, i64::from(side), i64::from(side), 3];
        let bytes = Tensor::f_from_data_size(&rgb, &shape, Kind::Uint8)?.f_to_device(self.options.device)?;
        let frames = bytes.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?;
        self.uploaded.push((side, frames.shallow_clone()));
        Ok(frames)
    }
}
