//! No file makes the verifier of bundles panic, and none of nobody's log is clean.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::audit::bundle::{Bundle, Trust};
use portcullis::tlog::LogVerifier;

const NOBODY: &str = "audit.example/chain-1+35908a36+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";

fuzz_target!(|bytes: &[u8]| {
    let log = LogVerifier::parse(NOBODY).expect("a verifier key");
    for trust in [Trust::in_log(log), Trust::in_nobody()] {
        let report = Bundle::new(bytes).verify(&trust).expect("memory can be read");
        assert!(!report.is_clean());
    }
});
