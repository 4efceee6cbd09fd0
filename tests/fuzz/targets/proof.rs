//! A proof file that is read is written back as it was, and no leaf of nobody's log is proved.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::tlog::{LogProof, LogVerifier, TreeHash};

const NOBODY: &str = "audit.example/chain-1+35908a36+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";

fuzz_target!(|text: &str| {
    if let Ok(proof) = LogProof::parse(text) {
        assert_eq!(proof.to_string(), text);
        let log = LogVerifier::parse(NOBODY).expect("a verifier key");
        let _ = proof.verify(&TreeHash::of_nothing(), &log);
    }
});
