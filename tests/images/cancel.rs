//! Decoding for a caller who has left.

use pcqa::media::{Cancel, ImageLimits, MediaError, decode_image};

use crate::{cases, file};

#[test]
fn nothing_is_decoded_once_cancelled_in_any_format() {
    let cancel = Cancel::new();
    let before = cancel.clone();
    assert!(!before.is_cancelled());
    cancel.cancel();
    assert!(before.is_cancelled(), "clones share the flag");
    for case in cases() {
        let decoded = decode_image(&file(&case), &ImageLimits::default(), &before);
        assert_eq!(decoded, Err(MediaError::Cancelled), "{}", case.file);
    }
    assert!(!MediaError::Cancelled.is_callers_fault());
    assert!(!Cancel::new().is_cancelled(), "flags are not shared otherwise");
}
