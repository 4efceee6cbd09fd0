//! Against other people's code, both ways: what we make they accept, what they make we accept, and
//! both refuse the same.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use proptest::prelude::*;
use sha2::Sha256;
use signed_note::{StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::tlog::{self as theirs, HashReader};

use super::files::log_key;
use super::*;

fn ct_tree(size: u64) -> MemoryBackedTree<Sha256, Vec<u8>> {
    let mut tree = MemoryBackedTree::new();
    (0..size).for_each(|n| tree.push(content(n)));
    tree
}

fn from_bytes(bytes: &[u8]) -> Vec<TreeHash> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    assert!(rest.is_empty());
    hashes.iter().copied().map(TreeHash::from_bytes).collect()
}

fn ct_root(tree: &Kept, size: u64) -> RootHash<Sha256> {
    RootHash::new((*tree.root(size).as_bytes()).into(), size)
}

fn to_bytes(hashes: &[TreeHash]) -> Vec<u8> {
    hashes.iter().flat_map(|h| *h.as_bytes()).collect()
}

/// The hashes of `tlog_tiles`, in memory.
struct Stored(Vec<theirs::Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<theirs::Hash>, theirs::Error> {
        let at = |i: &u64| self.0[usize::try_from(*i).unwrap()];
        Ok(indexes.iter().map(at).collect())
    }
}

impl Stored {
    fn new(size: u64) -> Self {
        let mut stored = Self(Vec::new());
        for n in 0..size {
            let more = theirs::stored_hashes(n, &content(n), &stored).unwrap();
            stored.0.extend(more);
        }
        stored
    }
}

fn foreign(hashes: &[TreeHash]) -> Vec<theirs::Hash> {
    hashes.iter().map(|h| theirs::Hash(*h.as_bytes())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn ct_merkle_makes_and_accepts_the_same_proofs(size in 1_u64..700, at in any::<(u64, u64)>(), bit in 0_usize..(1 << 14)) {
        let (ours, ct) = (Kept::new(leaves(size)), ct_tree(size));
        let root = ours.root(size);
        let their_root = ct.root();
        prop_assert_eq!(their_root.as_bytes().as_slice(), root.as_bytes().as_slice());
        let (index, old) = (at.0 % size, at.1 % size + 1);
        let leaf = TreeHash::of_leaf(&content(index));

        let inclusion = ours.inclusion(index, size);
        let made = ct.prove_inclusion(usize::try_from(index).unwrap());
        prop_assert_eq!(from_bytes(made.as_bytes()), inclusion.clone());
        let proof = InclusionProof::from_bytes(to_bytes(&inclusion));
        prop_assert!(ct_root(&ours, size).verify_inclusion(&content(index), index, &proof).is_ok());

        let consistency = ours.consistency(old, size);
        if old < size {
            let made = ct.prove_consistency(usize::try_from(size - old).unwrap());
            prop_assert_eq!(from_bytes(made.as_bytes()), consistency.clone());
            let proof = ConsistencyProof::try_from_bytes(to_bytes(&consistency)).unwrap();
            prop_assert!(ct_root(&ours, size).verify_consistency(&ct_root(&ours, old), &proof).is_ok());
        }

        // What is changed, both refuse.
        let mut changed = to_bytes(&inclusion);
        if !changed.is_empty() {
            let at = bit / 8 % changed.len();
            changed[at] ^= 1 << (bit % 8);
            prop_assert!(verify_inclusion(index, size, &leaf, &from_bytes(&changed), &root).is_err());
            let proof = InclusionProof::from_bytes(changed);
            prop_assert!(ct_root(&ours, size).verify_inclusion(&content(index), index, &proof).is_err());
        }
    }

    #[test]
    fn tlog_tiles_makes_and_accepts_the_same_proofs_and_tiles(size in 1_u64..700, at in any::<(u64, u64)>(), number in any::<u64>(), level in 0_u8..63, width in 1_u16..=256) {
        let (ours, stored) = (Kept::new(leaves(size)), Stored::new(size));
        let root = theirs::tree_hash(size, &stored).unwrap();
        prop_assert_eq!(root.0, *ours.root(size).as_bytes());
        let (index, old) = (at.0 % size, at.1 % size + 1);
        let proof = foreign(&ours.inclusion(index, size));
        prop_assert_eq!(&theirs::prove_record(size, index, &stored).unwrap(), &proof);
        prop_assert!(theirs::check_record(&proof, size, root, index, theirs::record_hash(&content(index))).is_ok());
        let proof = foreign(&ours.consistency(old, size));
        prop_assert_eq!(&theirs::prove_tree(size, old, &stored).unwrap(), &proof);
        let old_root = theirs::tree_hash(old, &stored).unwrap();
        prop_assert!(theirs::check_tree(&proof, size, root, old, old_root).is_ok());

        // The tiles that are new, and what they hold.
        let grown: Vec<_> = Tile::grown(old, size).collect();
        let new = tlog_tiles::tile::Tile::new_tiles(8, old, size);
        prop_assert_eq!(grown.len(), new.len());
        let mut kept = std::collections::BTreeMap::new();
        let mut tree = Growth::new();
        for leaf in leaves(size) {
            tree.push(leaf, |tile, hashes| { kept.insert(tile, to_bytes(hashes)); });
        }
        kept.extend(tree.unfinished().map(|(tile, hashes)| (tile, to_bytes(hashes))));
        for (ours, theirs) in grown.iter().zip(&new) {
            let at = (ours.level(), ours.number(), u32::from(ours.width()));
            prop_assert_eq!(at, (theirs.level(), theirs.level_index(), theirs.width()));
            prop_assert_eq!(&kept[ours], &theirs.read_data(&stored).unwrap());
        }

        // Paths: theirs begin with the height, which the standard has dropped.
        let path = Tile::new(level, number, width).unwrap().to_string();
        let their = tlog_tiles::tile::Tile::new(8, level, number, u32::from(width), false).path();
        prop_assert_eq!(path.replacen("tile/", "tile/8/", 1), their);
    }

    #[test]
    fn signed_note_and_we_accept_and_refuse_the_same_notes(flips in proptest::collection::vec(any::<usize>(), 0..3)) {
        let ours = log_key();
        let tree = Kept::new(leaves(9));
        let checkpoint = Checkpoint::new(ours.origin(), 9, tree.root(9)).unwrap();
        let note = ours.sign(&checkpoint).unwrap();

        // Theirs by the same seed is the same note, since Ed25519 is deterministic.
        let signer = StandardSigner::new(&signing_key(&ours)).unwrap();
        let mut made = signed_note::Note::new(note.text().as_bytes(), &[]).unwrap();
        made.add_sigs(&[&signer]).unwrap();
        prop_assert_eq!(made.to_bytes(), note.to_string().into_bytes());

        let mut bytes = made.to_bytes();
        for flip in &flips {
            let at = flip / 8 % bytes.len();
            bytes[at] ^= 1 << (flip % 8);
        }
        let known = StandardVerifier::new(&ours.verifier().to_string()).unwrap();
        let known = VerifierList::new(vec![Box::new(known)]);
        let accepted = signed_note::Note::from_bytes(&bytes).is_ok_and(|note| note.verify(&known).is_ok());
        let text = std::str::from_utf8(&bytes);
        let by_us = text.is_ok_and(|text| Note::parse(text).is_ok_and(|note| ours.verifier().verify(&note).is_ok()));
        prop_assert_eq!(by_us, accepted);
        prop_assert!(!flips.is_empty() || accepted);

        // And the checkpoint in it.
        let theirs = tlog_tiles::checkpoint::Checkpoint::from_bytes(note.text().as_bytes());
        let theirs = theirs.unwrap();
        prop_assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), (ours.origin(), 9, *tree.root(9).as_bytes()));
        let text = String::from_utf8(theirs.to_bytes()).unwrap();
        prop_assert_eq!(Checkpoint::parse(&text).unwrap(), checkpoint);
    }

    #[test]
    fn tlog_tiles_and_we_read_the_same_checkpoints(origin in "[a-z/+ ]{0,6}", size in "0|[+-]?[0-9]{1,21}", hash in any::<[u8; 32]>(), extension in "([a-z]{0,3}\n){0,2}", cut in 0_usize..3) {
        let mut text = format!("{origin}\n{size}\n{}\n{extension}", TreeHash::from_bytes(hash));
        text.truncate(text.len() - cut);
        let theirs = tlog_tiles::checkpoint::Checkpoint::from_bytes(text.as_bytes());
        let ours = Checkpoint::parse(&text);
        // We alone know that there is one empty tree.
        prop_assert_eq!(ours.is_ok(), theirs.is_ok() && size != "0", "{:?}", text);
    }
}

/// The private key as `signed_note` reads it.
fn signing_key(key: &LogKey) -> String {
    use base64::Engine as _;
    let seed: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let blob = [&[1], seed.as_slice()].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(blob);
    let id = hex::encode(key.verifier().key_id());
    format!("PRIVATE+KEY+{}+{id}+{text}", key.origin())
}
