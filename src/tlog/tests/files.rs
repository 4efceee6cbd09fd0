//! Notes, checkpoints, cosignatures and proof files.

use super::*;
use crate::ids::TenantId;
use crate::secret::Secret;
use crate::time::Timestamp;

/// Computed apart from this crate (Python's `cryptography`).
const LOG_VKEY: &str =
    "audit.example/chain-1+35908a36+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
const WITNESS_VKEY: &str =
    "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
const BODY: &str = "audit.example/chain-1\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n";
const LOG_LINE: &str = "\u{2014} audit.example/chain-1 NZCKNlaNgB27btWmGxoI4brCETBZqgXp9PHdSYylkGgBHz7gckrj31L0rvhlusQnOpEwRXDUIrmQzC0hrdvTnqwSOgk=\n";
const WITNESS_LINE: &str = "\u{2014} witness.example/w1 IDJKvgAAAABpVbkAljBJFuFZ9Xk3719lmN0/cbIFSMrRD3mZMMrbYBB/CvixmKoPRn4KVpWys1/19Z2ElaeJC8MlDB0976NWIrLaCw==\n";
const COSIGNED_AT: i64 = 1_767_225_600_000_000;

fn seed(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first + u8::try_from(i).unwrap())
}

pub(super) fn log_key() -> LogKey {
    LogKey::from_seed("audit.example/chain-1", &seed(0)).unwrap()
}

fn witness_key() -> WitnessKey {
    WitnessKey::from_seed("witness.example/w1", &seed(32)).unwrap()
}

/// Eight leaves, the proof of the sixth, and its checkpoint with both signatures.
fn proof_of_5() -> (TreeHash, LogProof) {
    let tree = Kept::new(leaves(8));
    let key = log_key();
    let checkpoint = Checkpoint::new(key.origin(), 8, tree.root(8)).unwrap();
    let note = key.sign(&checkpoint).unwrap();
    let leaf = tree.hash(Subtree { level: 0, index: 5 });
    (leaf, LogProof::new(5, tree.inclusion(5, 8), note).unwrap())
}

#[test]
fn the_vectors_of_notes_and_keys() {
    let (log, witness) = (log_key(), witness_key());
    assert_eq!(log.verifier().to_string(), LOG_VKEY);
    assert_eq!(witness.verifier().to_string(), WITNESS_VKEY);
    let checkpoint = Checkpoint::parse(BODY).unwrap();
    assert_eq!(checkpoint.body(), BODY);
    let mut note = log.sign(&checkpoint).unwrap();
    assert_eq!(note.to_string(), format!("{BODY}\n{LOG_LINE}"));
    let at = Timestamp::from_micros(COSIGNED_AT);
    witness.cosign(&mut note, at).unwrap();
    let cosigned = format!("{BODY}\n{LOG_LINE}{WITNESS_LINE}");
    assert_eq!(note.to_string(), cosigned);

    let log = LogVerifier::parse(LOG_VKEY).unwrap();
    let witness = WitnessVerifier::parse(WITNESS_VKEY).unwrap();
    assert_eq!(Checkpoint::open(&cosigned, &log), Ok(checkpoint));
    let note = Note::parse(&cosigned).unwrap();
    assert_eq!(note.to_string(), cosigned);
    assert_eq!(witness.verify(&note), Ok(at));
    // A log is no witness, and a witness no log.
    assert_eq!(WitnessVerifier::parse(LOG_VKEY), Err(LogError::Key));
    assert_eq!(LogVerifier::parse(WITNESS_VKEY), Err(LogError::Key));
}

#[test]
fn a_wrong_signature_of_a_known_key_refuses_even_next_to_a_good_one() {
    let (log, note) = (log_key(), format!("{BODY}\n{LOG_LINE}{WITNESS_LINE}"));
    let other = log
        .sign(&Checkpoint::new(log.origin(), 1, TreeHash::of_leaf(b"")).unwrap())
        .unwrap()
        .to_string();
    let wrong_line = other.rsplit_once("\n\n").unwrap().1;
    for note in [
        format!("{BODY}\n{wrong_line}"),
        format!("{note}{wrong_line}"),
        format!("{BODY}\n{wrong_line}{LOG_LINE}"),
    ] {
        let refused = Checkpoint::open(&note, log.verifier());
        assert_eq!(refused, Err(LogError::BadSignature));
    }
    // The same signature twice is a good one twice.
    let twice = format!("{note}{LOG_LINE}");
    assert!(Checkpoint::open(&twice, log.verifier()).is_ok());
}

#[test]
fn keys_that_only_share_a_name_or_an_id_are_passed_over() {
    let log = log_key();
    // Same name, another key; and another name.
    let namesake = LogKey::from_seed(log.origin(), &seed(64)).unwrap();
    let same_seed = LogKey::from_seed("audit.example/chain-2", &seed(0)).unwrap();
    assert_ne!(namesake.verifier().key_id(), log.verifier().key_id());
    assert_ne!(same_seed.verifier().key_id(), log.verifier().key_id());
    let checkpoint = Checkpoint::parse(BODY).unwrap();
    let by_namesake = namesake.sign(&checkpoint).unwrap().to_string();
    assert_eq!(
        Checkpoint::open(&by_namesake, log.verifier()),
        Err(LogError::Unsigned)
    );
    let line = by_namesake.rsplit_once("\n\n").unwrap().1;
    let both = format!("{BODY}\n{line}{LOG_LINE}");
    assert!(Checkpoint::open(&both, log.verifier()).is_ok());
    // A checkpoint of one log under the signature of another.
    assert_eq!(same_seed.sign(&checkpoint), Err(LogError::Origin));
}

#[test]
fn a_log_signs_and_accepts_only_its_own_origin() {
    let log = log_key();
    let tenant = TenantId::parse("acme").unwrap();
    let of_tenant = log.for_tenant(&tenant).unwrap();
    assert_eq!(of_tenant.origin(), "audit.example/chain-1/acme");
    let plus = TenantId::parse("a+b").unwrap();
    assert_eq!(log.for_tenant(&plus).err(), Some(LogError::Name));
    // Signed by the right key, with the text of another log.
    let mut note = Note::unsigned(BODY.replace("chain-1", "chain-2")).unwrap();
    let signature = log.sign_text(note.text());
    note.add(signature).unwrap();
    let refused = Checkpoint::open(&note.to_string(), log.verifier());
    assert_eq!(refused, Err(LogError::Origin));
}

#[test]
fn weak_and_ambiguous_keys_are_refused() {
    use base64::Engine as _;
    use sha2::{Digest as _, Sha256};
    let vkey = |key: [u8; 32]| {
        let blob = [&[1], key.as_slice()].concat();
        let id = Sha256::digest([b"n\n", blob.as_slice()].concat());
        let text = base64::engine::general_purpose::STANDARD.encode(&blob);
        format!("n+{}+{text}", hex::encode(&id[..4]))
    };
    // The identity; a point of order 4; y = 0; y = p + 1, the identity's second encoding.
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut second = [0xff; 32];
    (second[0], second[31]) = (0xee, 0x7f);
    for key in [identity, [0; 32], second] {
        let refused = LogVerifier::parse(&vkey(key));
        assert_eq!(refused, Err(LogError::WeakKey), "{key:?}");
    }
    // y = p + 3: not of small order, and not the canonical spelling of y = 3.
    let mut plain = [0; 32];
    plain[0] = 3;
    let mut odd = [0xff; 32];
    (odd[0], odd[31]) = (0xf0, 0x7f);
    assert!(LogVerifier::parse(&vkey(plain)).is_ok());
    assert_eq!(LogVerifier::parse(&vkey(odd)), Err(LogError::WeakKey));
}

#[test]
fn a_verifier_key_has_one_text() {
    for vkey in [
        "",
        "a+b",
        "audit.example/chain-1",
        &LOG_VKEY.replace("35908a36", "35908a37"),
        &LOG_VKEY.replace("35908a36", "35908A36"),
        &LOG_VKEY.replace("chain-1", "chain-2"),
        &LOG_VKEY.replace("chain-1", "chain 1"),
        &format!("{LOG_VKEY}\n"),
        &format!("{LOG_VKEY}="),
        LOG_VKEY.strip_suffix('4').unwrap(),
    ] {
        assert!(LogVerifier::parse(vkey).is_err(), "{vkey}");
    }
}

#[test]
fn what_is_no_note_or_checkpoint_is_refused() {
    let note = format!("{BODY}\n{LOG_LINE}");
    for bad in [
        "",
        "\n\n",
        BODY,
        note.trim_end(),
        &note.replace("\n\u{2014}", "\u{2014}"),
        &note.replace('\u{2014}', "-"),
        &note.replace("\u{2014} ", "\u{2014}  "),
        &note.replace("\n8\n", "\n8\r\n"),
        &note.replace("\n8\n", "\n8\t\n"),
        // The same bytes with other padding bits, without padding, and with a space after.
        &note.replace("Ogk=", "Ogl="),
        &note.replace("Ogk=", "Ogk"),
        &note.replace("Ogk=", "Ogk= "),
        &format!("{note}\u{2014} witness AAAA\n"),
        &format!("{note}\u{2014} wit+ness AAAAAAA=\n"),
        &format!("{note}\u{2014}  AAAAAAA=\n"),
        &format!("{note}\n"),
    ] {
        assert!(
            matches!(Note::parse(bad), Err(LogError::Note(_))),
            "{bad:?}"
        );
    }
    let line = "\u{2014} witness AAAAAAA=\n";
    assert!(Note::parse(&format!("{note}{}", line.repeat(MAX_SIGNATURES - 1))).is_ok());
    assert!(Note::parse(&format!("{note}{}", line.repeat(MAX_SIGNATURES))).is_err());
    // Blank lines in the text are the text's.
    let parsed = Note::parse(&format!("a\n\nb\n\n{LOG_LINE}")).unwrap();
    assert_eq!(parsed.text(), "a\n\nb\n");

    let extended = format!("{BODY}an extension\n");
    assert_eq!(Checkpoint::parse(&extended).unwrap().body(), extended);
    for bad in [
        "",
        "\n",
        BODY.trim_end(),
        &BODY.replace("\n8\n", "\n08\n"),
        &BODY.replace("\n8\n", "\n+8\n"),
        &BODY.replace("\n8\n", "\n-8\n"),
        &BODY.replace("\n8\n", "\n18446744073709551616\n"),
        &BODY.replace("\n8\n", "\n0\n"),
        &BODY.replace("audit.example/chain-1", ""),
        &BODY.replace("Qyg=", "Qyh="),
        &BODY.replace("Qyg=", "Qyg"),
        &format!("{BODY}\n"),
        &format!("{BODY}\nmore\n"),
    ] {
        let refused = Checkpoint::parse(bad);
        assert!(matches!(refused, Err(LogError::Checkpoint(_))), "{bad:?}");
    }
}

/// The bytes with one bit flipped, as text; where that is no text it is no note.
fn with_flipped_bit(text: &str, bit: usize) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    String::from_utf8(bytes).ok()
}

#[test]
fn every_flipped_bit_of_a_proof_file_is_found() {
    let (leaf, proof) = proof_of_5();
    let log = log_key();
    let file = proof.to_string();
    let read = |file: &str| LogProof::parse(file)?.verify(&leaf, log.verifier());
    assert!(read(&file).is_ok());
    for bit in 0..file.len() * 8 {
        let Some(changed) = with_flipped_bit(&file, bit) else {
            continue;
        };
        assert!(read(&changed).is_err(), "bit {bit}:\n{changed}");
    }
}

#[test]
fn every_flipped_bit_of_a_note_is_found() {
    let (_, proof) = proof_of_5();
    let (log, note) = (log_key(), proof.note().to_string());
    assert!(Checkpoint::open(&note, log.verifier()).is_ok());
    for bit in 0..note.len() * 8 {
        let Some(changed) = with_flipped_bit(&note, bit) else {
            continue;
        };
        let refused = Checkpoint::open(&changed, log.verifier());
        assert!(refused.is_err(), "bit {bit}:\n{changed}");
    }
}

#[test]
fn a_flipped_bit_that_is_accepted_changes_nothing_that_was_proved() {
    let (leaf, proof) = proof_of_5();
    let log = log_key();
    let mut note = proof.note().clone();
    witness_key()
        .cosign(&mut note, Timestamp::from_micros(COSIGNED_AT))
        .unwrap();
    let tree = Kept::new(leaves(8));
    let proof = LogProof::new(5, tree.inclusion(5, 8), note)
        .unwrap()
        .with_extra(b"anything".to_vec());
    let file = proof.to_string();
    let read = |file: &str| {
        let proof = LogProof::parse(file)?;
        Ok::<_, LogError>((proof.verify(&leaf, log.verifier())?, proof.index()))
    };
    let meant = read(&file).unwrap();
    // Nothing vouches for the extra data, and to who does not know the witness its line is
    // anybody's.
    let extra = file.find("extra ").unwrap()..file.find("index").unwrap();
    let witness = file.find("\u{2014} witness").unwrap()..file.len();
    let mut accepted = 0;
    for bit in extra
        .clone()
        .chain(witness.clone())
        .flat_map(|at| at * 8..at * 8 + 8)
    {
        let Some(changed) = with_flipped_bit(&file, bit) else {
            continue;
        };
        if let Ok(changed) = read(&changed) {
            assert_eq!(changed, meant);
            accepted += 1;
        }
    }
    assert!(accepted > 0);
    // To who does, every bit of it counts.
    let by_witness = |file: &str| {
        let proof = LogProof::parse(file)?;
        witness_key().verifier().verify(proof.note())
    };
    assert!(by_witness(&file).is_ok());
    for bit in witness.start * 8..witness.end * 8 {
        let changed = with_flipped_bit(&file, bit);
        assert!(changed.is_none_or(|changed| by_witness(&changed).is_err()));
    }
}

#[test]
fn what_is_no_proof_file_is_refused() {
    let (_, proof) = proof_of_5();
    let file = proof.to_string();
    assert_eq!(LogProof::parse(&file), Ok(proof.clone()));
    let more = proof.clone().with_extra(b"x".to_vec());
    assert_eq!(LogProof::parse(&more.to_string()), Ok(more));
    let hash = TreeHash::of_nothing();
    for bad in [
        "",
        &file.replace("@v1", "@v2"),
        &file.replace("index 5", "index 05"),
        &file.replace("index 5", "index +5"),
        &file.replace("index 5\n", ""),
        &file.replace("index 5", "extra \nindex 5"),
        &file.replace("index 5", "extra eB==\nindex 5"),
        &file.replace("index 5", "extra eA==\nextra eA==\nindex 5"),
        &file.replace("index 5", "index 5\nextra eA=="),
        &file.replace(
            "index 5\n",
            &format!("index 5\n{}", format!("{hash}\n").repeat(61)),
        ),
        &file.replace("\n\naudit", "\naudit"),
        &format!(" {file}"),
        &format!("{file}\n"),
    ] {
        assert!(LogProof::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn keys_are_made_from_32_bytes_and_never_shown() {
    let secret = Secret::parse("8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90");
    let secret = secret.unwrap();
    let key = LogKey::new("audit.example/x", &secret).unwrap();
    let shown = format!("{key:?}{:?}", WitnessKey::new("w", &secret).unwrap());
    assert!(!shown.contains("8f3a") && !shown.contains("143"));
    let long =
        Secret::from_bytes((0..33).map(|n: u8| n.wrapping_mul(37) ^ 0x5b).collect()).unwrap();
    assert_eq!(LogKey::new("a", &long).err(), Some(LogError::Seed));
    for name in ["", "a b", "a+b", "a\u{2003}b", "a\nb", &"a".repeat(513)] {
        assert_eq!(LogKey::new(name, &secret).err(), Some(LogError::Name));
    }
}
