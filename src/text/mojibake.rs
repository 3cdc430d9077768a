//! Repair of text that was UTF-8 and was read as a single-byte encoding ("cafÃ©"), as ftfy 6.3.1 does it.
//!
//! A port of `ftfy.fix_encoding`; its tables are in `mojibake.json`, which `tests/golden/text/make_mojibake_tables.py`
//! writes. Only text that ftfy's pattern calls bad is touched.

use regex::{
    Regex,
    bytes::{NoExpand, Regex as BytesRegex},
};
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// Text may have been misread several times; each layer costs one round.
const MAX_ROUNDS: usize = 32;

/// Repairs of a part inside a part. Each needs a shorter part, so that this only bounds hostile text.
const MAX_DEPTH: usize = 8;

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let raw: RawTables = serde_json::from_str(include_str!("mojibake.json")).expect("the compiled-in tables are valid");
    raw.into()
});

/// UTF-8 sequences in which a space stands for byte 0xa0 (ftfy.chardata.ALTERED_UTF8_RE).
static ALTERED_UTF8: LazyLock<BytesRegex> = LazyLock::new(|| {
    bytes_regex(
        r"[\xc2\xc3\xc5\xce\xd0\xd9] |[\xe2\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf] |\xf0 [\x80-\xbf][\x80-\xbf]|\xf0[\x80-\xbf] [\x80-\xbf]|\xf0[\x80-\xbf][\x80-\xbf] ",
    )
});

/// UTF-8 sequences that lost a byte to U+FFFD, here 0x1a, or to `?` (ftfy.chardata.LOSSY_UTF8_RE).
static LOSSY_UTF8: LazyLock<BytesRegex> = LazyLock::new(|| {
    bytes_regex(
        r"[\xc2-\xdf]\x1a|[\xc2-\xc3][?]|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]|\x1a",
    )
});

fn bytes_regex(pattern: &str) -> BytesRegex {
    BytesRegex::new(&format!("(?s-u){pattern}")).expect("the pattern is constant")
}

#[derive(Deserialize)]
struct RawTables {
    bad: String,
    first_of_2: String,
    first_of_3: String,
    first_of_4: String,
    continuation: String,
    continuation_strict: String,
    encodings: Vec<RawEncoding>,
}

#[derive(Deserialize)]
struct RawEncoding {
    name: String,
    high: String,
}

struct Tables {
    bad: Regex,
    /// Character that looks like a lead byte, to the number of continuation bytes that it announces.
    leads: HashMap<char, usize>,
    continuation: HashSet<char>,
    continuation_strict: HashSet<char>,
    encodings: Vec<Encoding>,
    windows_1252: Vec<char>,
}

impl From<RawTables> for Tables {
    fn from(raw: RawTables) -> Self {
        let leads = [(raw.first_of_2, 1), (raw.first_of_3, 2), (raw.first_of_4, 3)];
        let sloppy_1252 = raw.encodings.iter().find(|encoding| encoding.name == "sloppy-windows-1252");
        Self {
            bad: Regex::new(&raw.bad).expect("the compiled-in tables are valid"),
            leads: leads.iter().flat_map(|(chars, count)| chars.chars().map(|c| (c, *count))).collect(),
            continuation: raw.continuation.chars().collect(),
            continuation_strict: raw.continuation_strict.chars().collect(),
            windows_1252: sloppy_1252.expect("the compiled-in tables are valid").high.chars().collect(),
            encodings: raw.encodings.iter().map(Encoding::from).collect(),
        }
    }
}

/// A single-byte encoding. The sloppy ones write U+FFFD as byte 0x1a.
struct Encoding {
    macroman: bool,
    sloppy: bool,
    bytes: HashMap<char, u8>,
}

impl From<&RawEncoding> for Encoding {
    fn from(raw: &RawEncoding) -> Self {
        let sloppy = raw.name.starts_with("sloppy");
        let mut bytes: HashMap<char, u8> = raw.high.chars().zip(0x80..=u8::MAX).collect();
        bytes.extend((0..0x80).map(|byte| (char::from(byte), byte)));
        if sloppy {
            bytes.remove(&'\u{1a}');
            bytes.insert(char::REPLACEMENT_CHARACTER, 0x1a);
        }
        Self { macroman: raw.name == "macroman", sloppy, bytes }
    }
}

impl Encoding {
    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.bytes.get(&c).copied()).collect()
    }
}

/// The character that Windows-1252 has in place of a C1 control; every other character as it is.
pub(super) fn without_c1(c: char) -> char {
    match u32::from(c).checked_sub(0x80) {
        Some(index @ 0..0x20) => TABLES.windows_1252.get(index as usize).copied().unwrap_or(c),
        _ => c,
    }
}

/// `text` with mojibake decoded.
pub(super) fn fix_encoding(text: Cow<'_, str>) -> Cow<'_, str> {
    fix_within(text, 0)
}

fn fix_within(mut text: Cow<'_, str>, depth: usize) -> Cow<'_, str> {
    for _ in 0..MAX_ROUNDS {
        match fix_once(&text, depth) {
            Some(fixed) if fixed != text => text = Cow::Owned(fixed),
            _ => break,
        }
    }
    text
}

/// One layer of repair: the whole text as UTF-8, else the parts that look like it, else C1 controls as Windows-1252.
fn fix_once(text: &str, depth: usize) -> Option<String> {
    if text.is_ascii() || !TABLES.bad.is_match(text) {
        return None;
    }
    let as_utf8 = |encoding: &Encoding| decode_as_utf8(encoding, encoding.encode(text)?);
    if let Some(fixed) = TABLES.encodings.iter().find_map(as_utf8) {
        return Some(fixed);
    }
    let fixed = fix_parts(text, depth);
    if fixed != text {
        return Some(fixed);
    }
    Some(text.chars().map(without_c1).collect())
}

/// The UTF-8 that `bytes` are, once spaces and lost bytes are made good.
fn decode_as_utf8(encoding: &Encoding, mut bytes: Vec<u8>) -> Option<String> {
    // In MacRoman a dash followed by a space would look like such a sequence.
    if !encoding.macroman && ALTERED_UTF8.is_match(&bytes) {
        bytes = restore_byte_a0(&bytes);
    }
    if encoding.sloppy {
        bytes = LOSSY_UTF8.replace_all(&bytes, NoExpand("\u{fffd}".as_bytes())).into_owned();
    }
    if bytes.contains(&0xed) || bytes.contains(&0xc0) {
        decode_utf8_variants(&bytes)
    } else {
        String::from_utf8(bytes).ok()
    }
}

/// Puts byte 0xa0 back where a space took its place. "Ã " alone is the word "à" and keeps its space.
fn restore_byte_a0(bytes: &[u8]) -> Vec<u8> {
    let mut worded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        worded.push(byte);
        let Some(word) = after.strip_prefix(b" ").filter(|_| byte == 0xc3) else { continue };
        let portuguese: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
        if !portuguese.iter().any(|start| word.starts_with(start)) {
            worded.extend([0xa0, b' ']);
            rest = word;
        }
    }
    let restore = |found: &regex::bytes::Captures<'_>| -> Vec<u8> {
        found[0].iter().map(|&byte| if byte == b' ' { 0xa0 } else { byte }).collect()
    };
    ALTERED_UTF8.replace_all(&worded, restore).into_owned()
}

/// UTF-8, CESU-8 (surrogate pairs as two sequences of three bytes) and Java's two-byte NUL, mixed.
fn decode_utf8_variants(bytes: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(bytes.len());
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (character, length) = match bytes.get(at..)? {
            [0xc0, 0x80, ..] => ('\0', 2),
            [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, ..] => {
                let bits = |byte: &u8, mask: u8| u32::from(byte & mask);
                let pair = bits(a, 0x0f) << 16 | bits(b, 0x3f) << 10 | bits(c, 0x0f) << 6 | bits(d, 0x3f);
                (char::from_u32(pair + 0x10000)?, 6)
            }
            _ => {
                at += 1;
                continue;
            }
        };
        text.push_str(std::str::from_utf8(bytes.get(start..at)?).ok()?);
        text.push(character);
        at += length;
        start = at;
    }
    text.push_str(std::str::from_utf8(bytes.get(start..)?).ok()?);
    Some(text)
}

/// Repairs the runs that look like UTF-8 bytes where the whole text is not of one encoding.
fn fix_parts(text: &str, depth: usize) -> String {
    if depth == MAX_DEPTH {
        return text.to_owned();
    }
    let mut fixed = String::with_capacity(text.len());
    let mut previous = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let strict = previous.is_some_and(|c| TABLES.continuation_strict.contains(&c));
        let length = if strict { 0 } else { run_length(rest) };
        // A run is taken whole, any other character alone.
        let (part, after) = rest.split_at(length.max(c.len_utf8()));
        if length > 0 && length < text.len() && TABLES.bad.is_match(part) {
            fixed.push_str(&fix_within(Cow::Borrowed(part), depth + 1));
        } else {
            fixed.push_str(part);
        }
        previous = part.chars().next_back();
        rest = after;
    }
    fixed
}

/// Bytes of `text` that the run of lead and continuation characters at its start takes.
fn run_length(text: &str) -> usize {
    let mut length = 0;
    let mut chars = text.chars();
    while let Some(lead) = chars.next() {
        let Some(&count) = TABLES.leads.get(&lead) else { break };
        let tail: Vec<char> = chars.by_ref().take(count).collect();
        if tail.len() < count || !tail.iter().all(|c| TABLES.continuation.contains(c)) {
            break;
        }
        length += lead.len_utf8() + tail.iter().map(|c| c.len_utf8()).sum::<usize>();
    }
    length
}
