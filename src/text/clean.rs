//! open_clip's `lower` cleaning: ftfy.fix_text, html.unescape twice, strip, collapse white space, lower case.
//!
//! The steps are those of ftfy 6.3.1's `fix_text` with its default settings, in its order; `mojibake` and `html` hold
//! the two that need more than a screen.

use super::{html, mojibake};
use regex::Regex;
use std::{borrow::Cow, sync::LazyLock};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// ftfy repeats its steps until nothing changes, which takes quadratic time on text like `&amp;amp;amp;…`. No prompt
/// needs more rounds than this; text that would keeps its innermost layers.
const MAX_ROUNDS: usize = 32;

/// The text that is tokenised for `prompt`: lower case, with single spaces and none at the ends.
pub fn clean(prompt: &str) -> String {
    let fixed = fix_text(prompt);
    let unescaped = html::unescape(&fixed);
    let unescaped = html::unescape(&unescaped);
    let mut text = String::with_capacity(unescaped.len());
    for word in unescaped.split(is_space).filter(|word| !word.is_empty()) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    // Over the whole text: the lower case of Σ depends on its neighbours.
    text.to_lowercase()
}

/// White space as Python's `str.split` sees it: Unicode's and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// ftfy mends line by line. From the first line with a `<` on, the text counts as HTML and keeps its entities.
fn fix_text(text: &str) -> String {
    let mut entities = true;
    let mut fixed = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        entities &= !line.contains('<');
        fixed.push_str(&fix_line(line, entities));
    }
    fixed
}

fn fix_line(line: &str, entities: bool) -> String {
    let mut text = line.to_owned();
    for _ in 0..MAX_ROUNDS {
        let unescaped = if entities { html::unescape_entities(&text) } else { Cow::Borrowed(text.as_str()) };
        let decoded = mojibake::fix_encoding(unescaped);
        let plain = remove_controls(&plain_characters(&decoded));
        let normal = if is_nfc(&plain) { plain } else { plain.nfc().collect() };
        if normal == text {
            break;
        }
        text = normal;
    }
    text
}

/// Standard forms: C1 controls as Windows-1252, ligatures apart, usual widths, straight quotes, `\n` as line break.
fn plain_characters(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut after_return = false;
    for c in text.chars() {
        match c {
            '\n' if after_return => {}
            '\r' | '\u{2028}' | '\u{2029}' => plain.push('\n'),
            // The only ligature whose compatibility form goes further than taking it apart.
            '\u{fb05}' => plain.push_str("\u{17f}t"),
            _ if is_ligature(c) || is_width_form(c) => plain.extend(std::iter::once(c).nfkc().map(straight_quote)),
            _ => plain.push(straight_quote(mojibake::without_c1(c))),
        }
        after_return = c == '\r';
    }
    plain
}

/// Latin ligatures and digraphs (ftfy.chardata.LIGATURES).
fn is_ligature(c: char) -> bool {
    matches!(c, '\u{132}' | '\u{133}' | '\u{149}' | '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}' | '\u{fb00}'..='\u{fb06}')
}

/// Full-width and half-width forms, and the ideographic space.
fn is_width_form(c: char) -> bool {
    matches!(c, '\u{3000}' | '\u{ff01}'..='\u{ffef}')
}

fn straight_quote(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        _ => c,
    }
}

/// Takes out terminal escapes, then the control characters that have no visible effect.
fn remove_controls(text: &str) -> String {
    static TERMINAL_ESCAPE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("the pattern is constant"));
    let mut text = TERMINAL_ESCAPE.replace_all(text, "").into_owned();
    text.retain(|c| {
        !matches!(c,
            '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
            | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
    });
    text
}
