//! CLIP's byte-pair encoding.

/// Why a tokenizer could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);

/// One tokenised prompt: start of text, the prompt's ids, end of text, without padding.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenIds {
    /// 2 to `context_length` ids; the last one is end of text.
    pub ids: Box<[u32]>,
    /// True when the prompt did not fit and lost its tail.
    pub truncated: bool,
}

/// Turns prompts into ids. Cheap to share, safe to use from many threads.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json` that holds CLIP's vocabulary and merges.
    pub fn from_json(json: &[u8], context_length: usize) -> Result<Self, TextError> {
        let _ = (json, context_length);
        todo!()
    }

    /// Cleans and encodes `prompt`; longer ones are cut to the context length and end with end of text.
    pub fn encode(&self, prompt: &str) -> TokenIds {
        let _ = prompt;
        todo!()
    }
}
