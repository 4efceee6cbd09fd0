//! Canonical JSON is told from other JSON, and an entry's canonical bytes are read back field by field.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portcullis::audit::fuzzed::canonical(bytes));
