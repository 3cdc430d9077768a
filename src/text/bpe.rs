//! CLIP's byte-pair encoding.
//!
//! The merges run in the `tokenizers` crate; cutting text into words and adding the control tokens is done here, so
//! that no setting of a tokenizer file (added tokens, normaliser, post-processor) can change what an id means: a
//! `<end_of_text>` that somebody types is text like any other.

use super::clean;
use regex::Regex;
use serde::Deserialize;
use std::collections::HashMap;
use tokenizers::{
    Model,
    models::bpe::{BPE, BpeBuilder, Vocab},
};

const END_OF_WORD: &str = "</w>";

/// The control tokens' names: OpenAI's and open_clip's vocabulary, and Hugging Face's.
const CONTROL_TOKENS: [(&str, &str); 2] = [("<start_of_text>", "<end_of_text>"), ("<|startoftext|>", "<|endoftext|>")];

/// CLIP's words. A letter run, a single digit or a run of anything else; the short forms of English come first.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";

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
pub struct Tokenizer {
    bpe: BPE,
    words: Regex,
    /// The character that stands for each byte in the vocabulary.
    byte_chars: [char; 256],
    start: u32,
    end: u32,
    context_length: usize,
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json` that holds CLIP's vocabulary and merges; only its `model` counts.
    ///
    /// # Errors
    ///
    /// When the file is no such JSON, when the context is shorter than the two control tokens, or when the vocabulary is
    /// not of CLIP's shape: ids 0 to n − 1 without gaps, every byte inside and at the end of a word, every merge's parts
    /// and result, both control tokens, and end of text with the highest id (the towers pool at the highest id).
    pub fn from_json(json: &[u8], context_length: usize) -> Result<Self, TextError> {
        if context_length < 2 {
            return Err(TextError(format!("context length {context_length} has no room for the two control tokens")));
        }
        let file: TokenizerFile =
            serde_json::from_slice(json).map_err(|error| TextError(format!("not a tokenizer file: {error}")))?;
        let model = file.model;
        model.check_settings()?;
        let byte_chars = byte_chars();
        let (start, end) = check_vocabulary(&model.vocab, &byte_chars)?;
        let merges = model.merges.iter().map(|merge| merge.parts(&model.vocab)).collect::<Result<Vec<_>, _>>()?;
        let bpe = BpeBuilder::new()
            .vocab_and_merges(Vocab::from_iter(model.vocab), merges)
            .end_of_word_suffix(END_OF_WORD.to_owned())
            .build()
            .map_err(|error| TextError(format!("not a byte-pair model: {error}")))?;
        let words = Regex::new(WORDS).map_err(|error| TextError(error.to_string()))?;
        Ok(Self { bpe, words, byte_chars, start, end, context_length })
    }

    /// Cleans and encodes `prompt`; longer ones are cut to the context length and end with end of text.
    pub fn encode(&self, prompt: &str) -> TokenIds {
        let text = clean(prompt);
        let room = self.context_length - 1;
        let mut ids = vec![self.start];
        // Words are encoded one by one, so that nothing after the cut can change an id before it or cost time.
        for word in self.words.find_iter(&text) {
            self.encode_word(word.as_str(), &mut ids);
            if ids.len() > room {
                break;
            }
        }
        let truncated = ids.len() > room;
        ids.truncate(room);
        ids.push(self.end);
        TokenIds { ids: ids.into_boxed_slice(), truncated }
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        let symbols: String = word.bytes().map(|byte| self.byte_chars[usize::from(byte)]).collect();
        // The model fails only for a symbol that it does not know, and `from_json` made sure that it knows every byte.
        let tokens = self.bpe.tokenize(&symbols).unwrap_or_default();
        ids.extend(tokens.iter().map(|token| token.id));
    }
}

#[derive(Deserialize)]
struct TokenizerFile {
    model: ModelFile,
}

#[derive(Deserialize)]
struct ModelFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    end_of_word_suffix: Option<String>,
    continuing_subword_prefix: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

impl ModelFile {
    fn check_settings(&self) -> Result<(), TextError> {
        let kind = self.kind.as_deref().unwrap_or("BPE");
        if kind != "BPE" {
            return Err(TextError(format!("model type is {kind:?}, must be \"BPE\"")));
        }
        let suffix = self.end_of_word_suffix.as_deref().unwrap_or_default();
        if suffix != END_OF_WORD {
            return Err(TextError(format!("end_of_word_suffix is {suffix:?}, must be {END_OF_WORD:?}")));
        }
        match self.continuing_subword_prefix.as_deref().unwrap_or_default() {
            "" => Ok(()),
            prefix => Err(TextError(format!("continuing_subword_prefix is {prefix:?}, must be empty"))),
        }
    }
}

/// A merge in either of the two spellings that tokenizer files have.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Merge {
    /// Both halves, once they and their result are known to be in the vocabulary.
    fn parts(&self, vocab: &HashMap<String, u32>) -> Result<(String, String), TextError> {
        let (left, right) = match self {
            Self::Joined(merge) => {
                merge.split_once(' ').ok_or_else(|| TextError(format!("merge {merge:?} is not a pair")))?
            }
            Self::Pair(left, right) => (left.as_str(), right.as_str()),
        };
        let merged = format!("{left}{right}");
        match [left, right, &merged].into_iter().find(|token| !vocab.contains_key(*token)) {
            Some(token) => {
                Err(TextError(format!("merge {left:?} {right:?} needs {token:?}, which the vocabulary lacks")))
            }
            None => Ok((left.to_owned(), right.to_owned())),
        }
    }
}

/// The ids of start and end of text in a vocabulary of CLIP's shape.
fn check_vocabulary(vocab: &HashMap<String, u32>, byte_chars: &[char; 256]) -> Result<(u32, u32), TextError> {
    let mut seen = vec![false; vocab.len()];
    for (token, id) in vocab {
        match usize::try_from(*id).ok().and_then(|id| seen.get_mut(id)) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(TextError(format!("id {id} of {token:?} is taken twice or beyond {} ids", vocab.len()))),
        }
    }
    for symbol in byte_chars.iter().flat_map(|c| [c.to_string(), format!("{c}{END_OF_WORD}")]) {
        if !vocab.contains_key(&symbol) {
            return Err(TextError(format!("the vocabulary lacks the byte symbol {symbol:?}")));
        }
    }
    let control = CONTROL_TOKENS.iter().find_map(|(start, end)| Some((*vocab.get(*start)?, *vocab.get(*end)?)));
    let (start, end) = control.ok_or_else(|| {
        TextError(format!("the vocabulary lacks CLIP's control tokens, {CONTROL_TOKENS:?} in either spelling"))
    })?;
    if usize::try_from(end).ok() != Some(vocab.len() - 1) {
        return Err(TextError(format!("end of text is id {end}, must be the highest, {}", vocab.len() - 1)));
    }
    Ok((start, end))
}

/// GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the others take characters from U+0100 on.
fn byte_chars() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|index| {
        let byte = char::from(index as u8);
        match byte {
            '!'..='~' | '¡'..='¬' | '®'..='ÿ' => byte,
            _ => others.next().unwrap_or(char::REPLACEMENT_CHARACTER),
        }
    })
}
