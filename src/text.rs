//! Prompts to token ids: open_clip's cleaning and CLIP's byte-pair encoding. No tensors.

mod bpe;
mod clean;

pub use bpe::{TextError, TokenIds, Tokenizer};
pub use clean::clean;
