//! Strings of others made safe to print.

/// Escapes characters that would steer the terminal: control characters and those that reverse the writing direction.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_direction_mark(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// [`printable`], cut to `limit` characters with `…` for the rest.
pub fn shortened(text: &str, limit: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= limit {
        return text;
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn is_direction_mark(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_survives() {
        assert_eq!(printable("a\u{1b}[31mb\nc\u{202e}d\té"), "a\\u{1b}[31mb\\nc\\u{202e}d\\té");
        let every: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        assert!(!printable(&every).chars().any(char::is_control));
    }

    #[test]
    fn long_text_is_cut_to_the_limit() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("äbcd", 3), "äb…");
        assert_eq!(shortened("\n\n", 3), "\\n…");
    }
}
