//! Bytes of a list to text, whatever program wrote it.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::Encoding;

/// Text without a byte-order mark. UTF-8, UTF-16 with its mark, or, line by line where a line is no UTF-8, the legacy
/// encoding that fits all such lines best (spreadsheet programs write the one of their country); that is noted.
pub(super) fn decode(bytes: Vec<u8>, notes: &mut Vec<String>) -> String {
    if let Some((encoding, _)) = Encoding::for_bom(&bytes)
        && encoding != encoding_rs::UTF_8
    {
        return encoding.decode(&bytes).0.into_owned();
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => decode_legacy(error.as_bytes(), notes),
    };
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

fn decode_legacy(bytes: &[u8], notes: &mut Vec<String>) -> String {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    let foreign = || bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| std::str::from_utf8(line).is_err());
    foreign().for_each(|line| _ = detector.feed(line, false));
    detector.feed(b"", true);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    notes.push(format!("{} lines are not UTF-8, they are read as {}", foreign().count(), encoding.name()));
    let mut text = String::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match std::str::from_utf8(line) {
            Ok(line) => text.push_str(line),
            Err(_) => text.push_str(&encoding.decode_without_bom_handling(line).0),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> (String, usize) {
        let mut notes = Vec::new();
        let text = decode(bytes.to_vec(), &mut notes);
        (text, notes.len())
    }

    #[test]
    fn marks_are_dropped() {
        assert_eq!(decoded("\u{feff}naïve".as_bytes()), ("naïve".to_owned(), 0));
        let utf16: Vec<u8> = "\u{feff}naïve".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decoded(&utf16), ("naïve".to_owned(), 0));
    }

    #[test]
    fn a_legacy_line_does_not_spoil_the_others() {
        let (western, notes) = decoded(b"caf\xc3\xa9\ndoesn\x92t see the caf\xe9\n");
        assert_eq!((western.as_str(), notes), ("café\ndoesn’t see the café\n", 1));
        let chinese = encoding_rs::GBK.encode("一只猫在看一本书\nit’s a cat\n").0.into_owned();
        assert_eq!(decoded(&chinese).0, "一只猫在看一本书\nit’s a cat\n");
    }
}
