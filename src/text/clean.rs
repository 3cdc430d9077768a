//! open_clip's `lower` cleaning: ftfy.fix_text, html.unescape twice, strip, collapse white space, lower case.

/// The text that is tokenised for `prompt`.
pub fn clean(prompt: &str) -> String {
    let _ = prompt;
    todo!()
}
