//! A batch's frames on the device.

use tch::{Device, Kind, TchError, Tensor};

use crate::media::Frames;
use crate::model::ops::to_channels_first;
use crate::model::{Dtype, ExpertSpec, ModelError};
use crate::native::{self, kernels};

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
        let rows = native::uploaded(Tensor::f_from_slice(&rows.collect::<Vec<i64>>())?, features.device())?;
        features.f_index_select(0, &rows)
    }
}

/// Bytes of frames on the device, `[N, S, S, 3]` each, by side.
pub(crate) type Uploaded = Vec<(u32, Tensor)>;

/// The frames of `items` at every one of `sides`, uploaded.
pub(crate) fn upload(items: &[&Frames], sides: &[u32], device: Device) -> Result<Uploaded, ModelError> {
    let count: usize = items.iter().map(|item| item.count as usize).sum();
    let upload = |&side: &u32| -> Result<(u32, Tensor), ModelError> {
        let shape = [count as i64, i64::from(side), i64::from(side), 3];
        let mut bytes = Tensor::f_empty(shape, (Kind::Uint8, Device::Cpu))?;
        let rgb = native::bytes_mut(&mut bytes).unwrap_or_default();
        let mut places = rgb.chunks_exact_mut(frame_bytes(side));
        for item in items {
            for (frame, place) in frames_at(item, side)?.zip(&mut places) {
                place.copy_from_slice(frame);
            }
        }
        Ok((side, bytes.f_to_device(device)?))
    };
    sides.iter().map(upload).collect()
}

/// Bytes of one frame.
pub(super) fn frame_bytes(side: u32) -> usize {
    side as usize * side as usize * 3
}

/// The frames of `item` at `side`, in their order.
pub(super) fn frames_at(item: &Frames, side: u32) -> Result<impl Iterator<Item = &[u8]>, ModelError> {
    let stack = item.at(side).ok_or_else(|| ModelError::Input(format!("an item has no frames of side {side}")))?;
    let (have, want) = (stack.rgb.len(), item.count as usize * frame_bytes(side));
    if have != want {
        return Err(ModelError::Input(format!("frames of side {side} are {have} bytes long, expected {want}")));
    }
    Ok(stack.rgb.chunks_exact(frame_bytes(side)))
}

/// Frames as the backbones take them, made on the device: once a side, and once a side and statistics.
pub(crate) struct Inputs<'a> {
    kind: Kind,
    uploaded: &'a Uploaded,
    /// By side, `[N, S, S, 3]` in f32, 0 to 1.
    scaled: Vec<(u32, Tensor)>,
    /// By expert's input size, mean and std, `[N, 3, S, S]` in the network's number format.
    normalised: Vec<(Normalisation, Tensor)>,
}

type Normalisation = (u32, [f64; 3], [f64; 3]);

impl<'a> Inputs<'a> {
    pub(crate) fn new(dtype: Dtype, uploaded: &'a Uploaded) -> Self {
        Self { kind: dtype.kind(), uploaded, scaled: Vec::new(), normalised: Vec::new() }
    }

    /// All frames as `spec`'s backbone takes them. Asks the device for work and never waits for it.
    pub(crate) fn normalised(&mut self, spec: &ExpertSpec) -> Result<Tensor, ModelError> {
        let wanted = (spec.input_size, spec.backbone.mean, spec.backbone.std);
        if let Some((_, frames)) = self.normalised.iter().find(|(have, _)| *have == wanted) {
            return Ok(frames.shallow_clone());
        }
        let (size, mean, std) = wanted;
        let served = if self.kind == Kind::BFloat16 { kernels::normalise(self.bytes(size)?, mean, std)? } else { None };
        let frames = match served {
            Some(frames) => frames,
            None => {
                let scaled = self.scaled(size)?;
                let (mean, std) = (channels(mean, &scaled)?, channels(std, &scaled)?);
                scaled.f_sub(&mean)?.f_div_(&std)?.f_to_kind(self.kind)?
            }
        };
        let frames = to_channels_first(&frames)?;
        self.normalised.push((wanted, frames.shallow_clone()));
        Ok(frames)
    }

    fn scaled(&mut self, side: u32) -> Result<Tensor, ModelError> {
        if let Some((_, frames)) = self.scaled.iter().find(|(have, _)| *have == side) {
            return Ok(frames.shallow_clone());
        }
        let frames = self.bytes(side)?.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?;
        self.scaled.push((side, frames.shallow_clone()));
        Ok(frames)
    }

    fn bytes(&self, side: u32) -> Result<&'a Tensor, ModelError> {
        let bytes = self.uploaded.iter().find(|(have, _)| *have == side).map(|(_, bytes)| bytes);
        bytes.ok_or_else(|| ModelError::Input(format!("no frames of side {side} were uploaded")))
    }
}

/// A value for each channel, made where `like` is: an upload would wait for the device.
fn channels(values: [f64; 3], like: &Tensor) -> Result<Tensor, TchError> {
    let value = |value: f64| Tensor::f_full([1], value, (Kind::Float, like.device()));
    let [red, green, blue] = values;
    Tensor::f_cat(&[value(red)?, value(green)?, value(blue)?], 0)
}
