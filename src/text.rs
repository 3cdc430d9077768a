//! Prompts to token ids: open_clip's cleaning and CLIP's byte-pair encoding. No tensors.
//!
//! Both text towers read the same ids: a prompt goes through [`clean`] (the `lower` cleaning of open_clip 3.3.0, which
//! is ftfy, HTML unescaping, white space, lower case) and then through [`Tokenizer`]. Everything here takes any
//! string without panicking and in time that grows with its length; the limit on prompt bytes is the server's.

mod bpe;
mod clean;
mod html;
mod mojibake;

pub use bpe::{TextError, TokenIds, Tokenizer};
pub use clean::clean;
