//! A journal's reader takes the lines that were written, whatever stands between them, and no other;
//! what is written is read back as it was meant.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portcullis::audit::fuzzed::journal_line(bytes));
