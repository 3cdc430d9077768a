//! HTML character references, as two Python libraries read them.

use super::mojibake::without_c1;
use std::borrow::Cow;

/// Python's `html.unescape`: htmlize's result for named references, Python's own for numbers that are no characters.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    let Some((head, tail)) = text.split_once('&') else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    out.push_str(head);
    // No reference contains an ampersand: each piece from one to the next stands alone.
    for piece in tail.split('&') {
        match numeric(piece) {
            Some((character, rest)) => {
                out.extend(character);
                out.push_str(rest);
            }
            None if piece.starts_with('#') => {
                out.push('&');
                out.push_str(piece);
            }
            None => out.push_str(&htmlize::unescape(format!("&{piece}"))),
        }
    }
    Cow::Owned(out)
}

/// ftfy's `unescape_html`: only references of at most 24 letters and digits that end in a semicolon, and the ones whose
/// name was put into capitals.
pub(super) fn unescape_entities(text: &str) -> Cow<'_, str> {
    let Some((head, tail)) = text.split_once('&') else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    out.push_str(head);
    for piece in tail.split('&') {
        match entity(piece) {
            Some((replacement, rest)) => {
                out.push_str(&replacement);
                out.push_str(rest);
            }
            None => {
                out.push('&');
                out.push_str(piece);
            }
        }
    }
    Cow::Owned(out)
}

/// What the reference that begins `piece` (after its ampersand) stands for, and the text after it.
fn entity(piece: &str) -> Option<(String, &str)> {
    let name = piece.strip_prefix('#').unwrap_or(piece);
    let (name, rest) = name.split_once(';')?;
    if !(1..=24).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    if piece.starts_with('#') {
        // The semicolon must belong to the number, and `&#59;` stays: ftfy takes its result for a leftover.
        let (character, rest) = numeric(piece).filter(|(_, after)| *after == rest)?;
        return (character != Some(';')).then(|| (character.map(String::from).unwrap_or_default(), rest));
    }
    if let Some(character) = named(name) {
        return Some((character.to_owned(), rest));
    }
    let whole = format!("&{name};");
    let shouted = !name.bytes().any(|b| b.is_ascii_lowercase()) && htmlize::unescape(whole.as_str()) == whole;
    let character = shouted.then(|| named(&name.to_ascii_lowercase())).flatten()?;
    Some((character.to_uppercase(), rest))
}

fn named(name: &str) -> Option<&'static str> {
    let key = format!("&{name};");
    htmlize::ENTITIES.get(key.as_bytes()).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// The numeric reference that begins `piece` (after its ampersand): its character, none for a number that HTML forbids,
/// and the text after it. The semicolon is optional.
fn numeric(piece: &str) -> Option<(Option<char>, &str)> {
    let digits = piece.strip_prefix('#')?;
    let (digits, radix) = match digits.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (number, rest) = digits.split_at(end);
    if number.is_empty() {
        return None;
    }
    // A number that does not fit is beyond Unicode too.
    let number = u32::from_str_radix(number, radix).unwrap_or(u32::MAX);
    Some((character(number), rest.strip_prefix(';').unwrap_or(rest)))
}

fn character(number: u32) -> Option<char> {
    let Some(c) = char::from_u32(number) else { return Some(char::REPLACEMENT_CHARACTER) };
    match c {
        '\0' => Some(char::REPLACEMENT_CHARACTER),
        '\u{80}'..='\u{9f}' => Some(without_c1(c)),
        '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{fdd0}'..='\u{fdef}' => None,
        _ if number & 0xfffe == 0xfffe => None,
        _ => Some(c),
    }
}
