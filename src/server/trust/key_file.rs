//! The file of keys: one line per key, which holds its hash. Whoever reads the file has no key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

use super::account::KeyLimits;

/// Longest name of a key's holder, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// What a key begins with, so that people and scanners of secrets know one.
const KEY_PREFIX: &str = "pcqa_";

/// SHA-256 of a key.
pub(super) type KeyDigest = [u8; 32];

/// One line.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub name: String,
    pub digest: KeyDigest,
    pub limits: KeyLimits,
}

pub(super) fn digest(key: &[u8]) -> KeyDigest {
    Sha256::digest(key).into()
}

/// A new key of 256 random bits for `name`, and its line for the file.
///
/// # Errors
/// In words, when the name is not one or the system gives no randomness.
pub(in crate::server) fn new_key(name: &str) -> Result<(String, String), String> {
    check_name(name)?;
    let mut secret = [0; 32];
    OsRng.try_fill_bytes(&mut secret).map_err(|error| format!("no randomness: {error}"))?;
    let key = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let line = format!("{name}:{}", hex(&digest(key.as_bytes())));
    Ok((key, line))
}

/// Every line of `text` but empty ones and those that begin with `#`.
///
/// # Errors
/// In words, with the number of the line; never with what it holds.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Line>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())?;
    let mut lines: Vec<Line> = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let line = parse_line(text).map_err(|problem| format!("line {number}: {problem}"))?;
        if lines.iter().any(|other| other.digest == line.digest) {
            return Err(format!("line {number}: the key of {} is there twice", line.name));
        }
        if lines.iter().any(|other| other.name == line.name && other.limits != line.limits) {
            return Err(format!("line {number}: {} has other limits on another line", line.name));
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return Err("holds no key (`pcqa-server key --name NAME` makes one)".to_owned());
    }
    Ok(lines)
}

fn parse_line(text: &str) -> Result<Line, String> {
    let mut words = text.split_whitespace();
    let (name, hash) = words.next().and_then(|word| word.split_once(':')).ok_or("expected NAME:HASH")?;
    check_name(name)?;
    let digest = parse_hex(hash)
        .ok_or("after the name, expected a SHA-256 of 64 hexadecimal digits, as `pcqa-server key` prints it")?;
    let mut limits = KeyLimits::default();
    for word in words {
        match word.split_once('=') {
            Some(("max_calls", value)) => {
                let calls = value.parse().ok().filter(|calls| *calls > 0);
                limits.max_calls = Some(calls.ok_or("max_calls: expected a whole number over 0")?);
            }
            Some(("max_frames_per_second", value)) => {
                let rate = value.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.001);
                limits.max_frames_per_second =
                    Some(rate.ok_or("max_frames_per_second: expected a number of at least 0.001")?);
            }
            _ => return Err("after the hash, expected max_calls=N or max_frames_per_second=X".to_owned()),
        }
    }
    Ok(Line { name: name.to_owned(), digest, limits })
}

fn check_name(name: &str) -> Result<(), String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_known) {
        return Err(format!("a name has 1 to {MAX_NAME_BYTES} letters, digits, dots, dashes or underscores"));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<KeyDigest> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_s_line_is_read_back_and_no_two_are_the_same() {
        let (key, line) = new_key("ci.nightly-2").unwrap();
        let text = format!("# keys\n\n  {line} max_calls=4 max_frames_per_second=2.5 \n");
        let limits = KeyLimits { max_calls: Some(4), max_frames_per_second: Some(2.5) };
        let expected = Line { name: "ci.nightly-2".to_owned(), digest: digest(key.as_bytes()), limits };
        assert_eq!(parse(text.as_bytes()).unwrap(), [expected]);
        assert!(!line.contains(&key));
        assert_ne!(new_key("ci").unwrap(), new_key("ci").unwrap());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_no_secret() {
        let (key, line) = new_key("ci").unwrap();
        let cases = [
            (String::new(), "holds no key"),
            ("# nothing\n".to_owned(), "holds no key"),
            (format!("{line}\nci:{key}\n"), "line 2: after the name"),
            (key.clone(), "line 1: expected NAME:HASH"),
            (format!("{line}\n\n{line}\n"), "line 3: the key of ci is there twice"),
            (format!("{line}\nci:{} max_calls=2\n", "0".repeat(64)), "line 2: ci has other limits"),
            (format!("{line} max_calls=0"), "max_calls"),
            (format!("{line} max_frames_per_second=inf"), "max_frames_per_second"),
            (format!("{line} max_speed=1"), "after the hash"),
            (format!("no name:{}", "0".repeat(64)), "line 1"),
            (format!("{}:{}", "n".repeat(65), "0".repeat(64)), "1 to 64"),
        ];
        for (text, problem) in cases {
            let refused = parse(text.as_bytes()).unwrap_err();
            assert!(refused.contains(problem), "{refused}");
            assert!(!refused.contains(&key), "{refused}");
        }
    }
}
