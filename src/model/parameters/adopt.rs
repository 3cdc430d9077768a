//! A start from weights that others have trained.

use std::collections::BTreeMap;

use tch::Tensor;

use super::{Parameters, read_floats};
use crate::model::ModelError;
use crate::model::backbone::resample_positions;
use crate::model::weights::show;

/// BAAI's names of EVA02's tensors, and timm's.
const RENAMED: [(&str, &str); 6] = [
    (".attn.q_bias", ".attn.q_proj.bias"),
    (".attn.v_bias", ".attn.v_proj.bias"),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
    (".mlp.ffn_ln.", ".mlp.norm."),
];

/// What became of a checkpoint's tensors, by key; counters are not mentioned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Of the network, and now the checkpoint's.
    pub loaded: Vec<String>,
    /// In the checkpoint, but no part of the network: its classifier, for one.
    pub ignored: Vec<String>,
    /// Of the network, but not in the checkpoint: as they were.
    pub missing: Vec<String>,
}

impl Parameters {
    /// Takes over the values of every tensor of the safetensors file `bytes` that this network has. Positions of
    /// another grid are resampled to this network's. Refused where a tensor has another shape, which is then named, and
    /// where no tensor is this network's.
    pub fn adopt(&mut self, file: &str, bytes: &[u8]) -> Result<Adopted, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let mut adopted = Adopted::default();
        let mut found: BTreeMap<&str, Tensor> = BTreeMap::new();
        for (key, tensor) in read_floats(file, bytes, self.device)? {
            let own = self.own_key(&key);
            match own.as_deref().and_then(|own| self.tensors.get_key_value(own)) {
                Some((own, wanted)) => {
                    found.insert(own, fitted(file, &key, tensor, wanted)?);
                    adopted.loaded.push(own.clone());
                }
                None => adopted.ignored.push(key),
            }
        }
        if found.is_empty() {
            let problem = format!("has no tensor of this network, which has {}", self.some_names());
            return Err(ModelError::File { file: file.to_owned(), problem });
        }
        adopted.missing = self.tensors.keys().filter(|key| !found.contains_key(key.as_str())).cloned().collect();
        for (key, value) in &found {
            if let Some(tensor) = self.tensors.get(*key) {
                tensor.shallow_clone().f_copy_(value)?;
            }
        }
        Ok(adopted)
    }

    /// What this network calls the checkpoint's tensor `key`.
    fn own_key(&self, key: &str) -> Option<String> {
        if self.tensors.contains_key(key) {
            return Some(key.to_owned());
        }
        let renamed = RENAMED.iter().fold(key.to_owned(), |key, (theirs, ours)| key.replace(theirs, ours));
        self.tensors.contains_key(&renamed).then_some(renamed)
    }

    fn some_names(&self) -> String {
        let names: Vec<&str> = self.names().take(3).collect();
        names.join(", ")
    }
}

fn fitted(file: &str, key: &str, tensor: Tensor, wanted: &Tensor) -> Result<Tensor, ModelError> {
    let (has, wants) = (tensor.size(), wanted.size());
    if has == wants {
        return Ok(tensor);
    }
    if key.ends_with("pos_embed")
        && let Some(resampled) = resample_positions(&tensor, &wants)?
    {
        return Ok(resampled);
    }
    Err(ModelError::Tensor {
        file: file.to_owned(),
        key: key.to_owned(),
        problem: format!("has shape {}, expected {}", show(&has), show(&wants)),
    })
}
