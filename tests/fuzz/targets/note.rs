//! A note that is read is written back as it was, byte for byte. `cargo fuzz run --fuzz-dir tests/fuzz note`
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::tlog::{LogVerifier, Note, WitnessVerifier};

fuzz_target!(|text: &str| {
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
    }
    if let Ok(key) = LogVerifier::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = WitnessVerifier::parse(text) {
        assert_eq!(key.to_string(), text);
    }
});
