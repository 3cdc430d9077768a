//! From which tensors of a checkpoint those of a network are made.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};
use safetensors::Dtype;

use super::checkpoint::Checkpoint;
use crate::model::shown;
use crate::train::networks::Network;

/// Widest layer that is believed; the widest of any known network has 5,120.
const WIDEST: usize = 65_536;

/// How one tensor is made.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Recipe {
    /// The checkpoint's tensor of this key, as it is.
    Whole(String),
    /// Three tensors, one below the other.
    Stacked([String; 3]),
    /// A matrix, rows for columns.
    Transposed(String),
    /// So many rows of the first, and what lies below them in the second.
    Spliced([String; 2], usize),
}

impl Recipe {
    pub(super) fn keys(&self) -> &[String] {
        match self {
            Self::Whole(key) | Self::Transposed(key) => std::slice::from_ref(key),
            Self::Stacked(keys) => keys,
            Self::Spliced(keys, _) => keys,
        }
    }
}

/// One tensor to write.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) key: String,
    pub(super) shape: Vec<usize>,
    pub(super) recipe: Recipe,
}

/// All tensors of `network`, each made by what `recipe` says of its key. Every tensor that is needed must be there with
/// its shape, and every tensor that is there must be needed or be `ignored`: whatever else it were part of, the result
/// would not compute what the checkpoint does.
pub(super) fn plan(
    checkpoint: &Checkpoint,
    network: &Network,
    recipe: impl Fn(&str) -> Recipe,
    ignored: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut used = BTreeSet::new();
    for entry in network.0.iter().filter(|entry| !entry.counter) {
        let recipe = recipe(&entry.key);
        for key in recipe.keys() {
            check(checkpoint, key, &source_shape(&recipe, &entry.shape))?;
            used.insert(key.clone());
        }
        pieces.push(Piece { key: entry.key.clone(), shape: entry.shape.clone(), recipe });
    }
    if let Some(key) = checkpoint.keys().find(|key| !used.contains(*key) && !ignored(key)) {
        bail!("tensor {}: is not part of this network", shown(key));
    }
    Ok(pieces)
}

fn check(checkpoint: &Checkpoint, key: &str, expected: &[usize]) -> anyhow::Result<()> {
    let tensor = checkpoint.tensor(key)?;
    ensure!(tensor.shape == expected, "tensor {key}: has shape {:?}, expected {expected:?}", tensor.shape);
    let floats = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];
    ensure!(floats.contains(&tensor.dtype), "tensor {key}: has type {:?}, expected one of {floats:?}", tensor.dtype);
    Ok(())
}

/// The shape of what a tensor of `shape` is made from.
fn source_shape(recipe: &Recipe, shape: &[usize]) -> Vec<usize> {
    let mut shape = shape.to_vec();
    match recipe {
        Recipe::Whole(_) | Recipe::Spliced(..) => {}
        Recipe::Stacked(parts) => {
            if let Some(rows) = shape.first_mut() {
                *rows /= parts.len();
            }
        }
        Recipe::Transposed(_) => shape.reverse(),
    }
    shape
}

/// Side `axis` of the tensor `key`: a width that the network follows from.
pub(super) fn width(checkpoint: &Checkpoint, key: &str, axis: usize) -> anyhow::Result<usize> {
    let shape = &checkpoint.tensor(key)?.shape;
    match shape.get(axis) {
        Some(&side) if (1..=WIDEST).contains(&side) => Ok(side),
        _ => bail!("tensor {key}: has shape {shape:?}, expected 1 to {WIDEST} in place {axis}"),
    }
}
