//! What a machine's values say, once it has stopped: the tensors of a state dict.

use anyhow::{Context, bail, ensure};

use super::{Described, Id, Storage, Value};
use crate::model::shown;

/// Longest name of a tensor in bytes.
const LONGEST_KEY: usize = 1024;
/// Most sides of a tensor.
const MOST_SIDES: usize = 8;
/// Where training scripts put the state dict inside what they save.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "module", "model"];

/// All values that a machine made.
pub(super) struct Memory<'a>(pub(super) &'a [Value]);

impl Memory<'_> {
    pub(super) fn text(&self, id: Id) -> anyhow::Result<&str> {
        match &self.0[id] {
            Value::Text(text) => Ok(text),
            _ => bail!("has something else where text is expected"),
        }
    }

    pub(super) fn count(&self, id: Id) -> anyhow::Result<u64> {
        match self.0[id] {
            Value::Int(number) => u64::try_from(number).with_context(|| format!("has a length of {number}")),
            _ => bail!("has something else where a number is expected"),
        }
    }

    fn counts(&self, id: Id) -> anyhow::Result<Vec<u64>> {
        let Value::List(items) = &self.0[id] else { bail!("has something else where a shape is expected") };
        ensure!(items.len() <= MOST_SIDES, "has {} sides, expected at most {MOST_SIDES}", items.len());
        items.iter().map(|&item| self.count(item)).collect()
    }

    pub(super) fn state_dict(&self, root: Id) -> anyhow::Result<Vec<Described>> {
        let mut dict = self.dict(root).context("holds no state dict")?;
        // One around the other, at most.
        for _ in WRAPPERS {
            let wraps = |key: Id| self.text(key).is_ok_and(|key| WRAPPERS.contains(&key));
            match dict.iter().filter(|&&(key, _)| wraps(key)).find_map(|&(_, inner)| self.dict(inner)) {
                Some(inner) => dict = inner,
                None => break,
            }
        }
        let mut tensors = Vec::new();
        for &(key, value) in dict {
            let (Ok(name), &Value::Tensor { storage, offset, size, stride }) = (self.text(key), &self.0[value]) else {
                continue;
            };
            ensure!(name.len() <= LONGEST_KEY, "a tensor has a name of {} bytes", name.len());
            let described = self.describe(name, storage, offset, size, stride);
            tensors.push(described.with_context(|| format!("tensor {}", shown(name)))?);
        }
        if tensors.is_empty() {
            let keys = dict.iter().filter_map(|&(key, _)| self.text(key).ok()).take(8).map(shown);
            let (keys, wrappers) = (keys.collect::<Vec<_>>().join(", "), WRAPPERS.join(", "));
            bail!("has no tensors under its keys {keys}: expected a state dict, alone or under one of {wrappers}");
        }
        Ok(tensors)
    }

    fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match &self.0[id] {
            Value::Dict(items) => Some(items),
            _ => None,
        }
    }

    fn describe(&self, name: &str, storage: Id, offset: Id, size: Id, stride: Id) -> anyhow::Result<Described> {
        let Value::Storage(Storage { dtype, key, count: stored }) = self.0[storage] else { bail!("has no storage") };
        let (offset, sides, strides) = (self.count(offset)?, self.counts(size)?, self.counts(stride)?);
        let rows = row_by_row(&sides).context("is larger than any memory")?;
        let plain = strides.len() == sides.len()
            && sides.iter().zip(&strides).zip(&rows.strides).all(|((&side, have), want)| side < 2 || have == want);
        ensure!(plain || rows.count == 0, "is not stored row by row");
        let end = offset.checked_add(rows.count);
        ensure!(end.is_some_and(|end| end <= stored), "reaches beyond its storage of {stored} numbers");
        let shape = sides.iter().map(|&side| usize::try_from(side)).collect::<Result<_, _>>()?;
        let storage = self.text(key)?.to_owned();
        Ok(Described { name: name.to_owned(), dtype, shape, storage, stored, offset })
    }
}

struct Rows {
    strides: Vec<u64>,
    count: u64,
}

/// How a tensor of these sides lies in memory; nothing where no memory is large enough.
fn row_by_row(sides: &[u64]) -> Option<Rows> {
    let mut count: u64 = 1;
    let mut strides = vec![0; sides.len()];
    for (stride, &side) in strides.iter_mut().zip(sides).rev() {
        *stride = count;
        count = count.checked_mul(side)?;
    }
    Some(Rows { strides, count })
}
