//! Hashes, trees, proofs and tiles: the vectors of the RFC, and properties.

use proptest::prelude::*;

use super::*;

/// The leaves and hashes of RFC 6962's own test tree, computed apart from this crate (Python).
const RFC_LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
const RFC_ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];
const RFC_INCLUSION: [(u64, u64, &[&str]); 2] = [
    (
        5,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        6,
        7,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
];
const RFC_CONSISTENCY: [(u64, u64, &[&str]); 5] = [
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        &[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        3,
        7,
        &[
            "0298d122906dcfc10892cb53a73992fc5b9f493ea4c9badb27b791b4127a7fe7",
            "07506a85fd9dd2f120eb694f86011e5bb4662e5c415a62917033d4a9624487e7",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "837dbb152e9b079010717e84e865da4ebc0fa198a806d59d31bf15accef22d0e",
        ],
    ),
    (
        4,
        8,
        &["6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    ),
];

fn rfc_tree() -> Kept {
    let leaves = RFC_LEAVES.iter().map(|text| hex::decode(text).unwrap());
    Kept::new(leaves.map(|data| TreeHash::of_leaf(&data)))
}

fn in_hex(hashes: &[TreeHash]) -> Vec<String> {
    hashes.iter().map(|h| hex::encode(h.as_bytes())).collect()
}

#[test]
fn the_vectors_of_the_rfc() {
    let tree = rfc_tree();
    let mut frontier = Frontier::new();
    for (size, root) in (0_u64..).zip(RFC_ROOTS) {
        assert_eq!(in_hex(&[tree.root(size)]), [root]);
        assert_eq!(in_hex(&[frontier.root()]), [root]);
        if size < 8 {
            frontier.push(tree.hash(Subtree {
                level: 0,
                index: size,
            }));
        }
    }
    for (index, size, proof) in RFC_INCLUSION {
        assert_eq!(in_hex(&tree.inclusion(index, size)), proof);
    }
    for (old, new, proof) in RFC_CONSISTENCY {
        assert_eq!(in_hex(&tree.consistency(old, new)), proof);
    }
}

#[test]
fn an_empty_tree_is_no_anchor() {
    let (root, nothing) = (rfc_tree().root(8), TreeHash::of_nothing());
    let refused = verify_consistency(0, 8, &nothing, &root, &[]);
    assert_eq!(refused, Err(LogError::EmptyAnchor));
    assert_eq!(
        verify_consistency(0, 0, &nothing, &nothing, &[]),
        Err(LogError::EmptyAnchor)
    );
    assert_eq!(Plan::consistency(0, 8), Err(LogError::EmptyAnchor));
    assert_eq!(Plan::consistency(9, 8), Err(LogError::OutOfRange));
    assert_eq!(Plan::inclusion(8, 8), Err(LogError::OutOfRange));
}

/// Bottom up, whether each sibling of the way to the root stands on the left: RFC 6962 section
/// 2.1.1, by its recursion.
fn way(index: u64, size: u64) -> Vec<bool> {
    if size == 1 {
        return Vec::new();
    }
    let split = (size - 1).ilog2();
    let split = 1 << split;
    let mut way = if index < split {
        way(index, split)
    } else {
        way(index - split, size - split)
    };
    way.push(index >= split);
    way
}

/// The same for a consistency proof (section 2.1.2), and whether it begins with the old root.
fn consistency_way(old: u64, new: u64, complete: bool) -> (bool, Vec<bool>) {
    if old == new {
        return (complete, Vec::new());
    }
    let split = 1 << (new - 1).ilog2();
    let (begin, mut way) = if old <= split {
        consistency_way(old, split, complete)
    } else {
        consistency_way(old - split, new - split, false)
    };
    way.push(old > split);
    (begin, way)
}

#[test]
fn every_proof_of_every_small_tree_holds_and_holds_for_nothing_else() {
    let tree = Kept::new(leaves(20));
    for size in 1..=20 {
        let root = tree.root(size);
        for index in 0..size {
            let leaf = tree.hash(Subtree { level: 0, index });
            let proof = tree.inclusion(index, size);
            for other_index in 0..size {
                let held = verify_inclusion(other_index, size, &leaf, &proof, &root).is_ok();
                assert_eq!(held, other_index == index);
            }
            // A path does not say how large the tree is beyond its own turns; the signed
            // checkpoint does.
            for other_size in 0..=21 {
                let held = verify_inclusion(index, other_size, &leaf, &proof, &root).is_ok();
                let same_way = other_size > index && way(index, other_size) == way(index, size);
                assert_eq!(held, same_way, "{index} of {size}, taken for {other_size}");
            }
        }
        for old in 1..=size {
            let old_root = tree.root(old);
            let proof = tree.consistency(old, size);
            for (other_old, other_size) in (0..=21).flat_map(|a| (0..=21).map(move |b| (a, b))) {
                let held =
                    verify_consistency(other_old, other_size, &old_root, &root, &proof).is_ok();
                let same_way = other_old > 0
                    && other_old <= other_size
                    && (other_old == other_size) == (old == size)
                    && consistency_way(other_old, other_size, true)
                        == consistency_way(old, size, true);
                assert_eq!(
                    held, same_way,
                    "{old} to {size}, taken for {other_old} to {other_size}"
                );
            }
        }
    }
}

fn flipped(hash: TreeHash, bit: usize) -> TreeHash {
    let mut bytes = *hash.as_bytes();
    bytes[bit / 8 % 32] ^= 1 << (bit % 8);
    TreeHash::from_bytes(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_of_a_proof_a_leaf_or_a_root_is_found(size in 1_u64..2000, at in any::<(u64, u64)>(), bit in 0_usize..256) {
        let tree = Kept::new(leaves(size));
        let root = tree.root(size);
        let index = at.0 % size;
        let leaf = tree.hash(Subtree { level: 0, index });
        let proof = tree.inclusion(index, size);
        prop_assert_eq!(verify_inclusion(index, size, &leaf, &proof, &root), Ok(()));
        prop_assert!(verify_inclusion(index, size, &flipped(leaf, bit), &proof, &root).is_err());
        prop_assert!(verify_inclusion(index, size, &leaf, &proof, &flipped(root, bit)).is_err());
        for place in 0..11 {
            prop_assert!(verify_inclusion(index ^ (1 << place), size, &leaf, &proof, &root).is_err());
        }
        let old = at.1 % size + 1;
        let old_root = tree.root(old);
        let history = tree.consistency(old, size);
        prop_assert_eq!(verify_consistency(old, size, &old_root, &root, &history), Ok(()));
        prop_assert!(verify_consistency(old, size, &flipped(old_root, bit), &root, &history).is_err());
        prop_assert!(verify_consistency(old, size, &old_root, &flipped(root, bit), &history).is_err());
        for (which, kind) in (0..proof.len()).map(|i| (i, true)).chain((0..history.len()).map(|i| (i, false))) {
            let mut bad = if kind { proof.clone() } else { history.clone() };
            bad[which] = flipped(bad[which], bit);
            let held = |hashes: &[TreeHash]| if kind {
                verify_inclusion(index, size, &leaf, hashes, &root).is_ok()
            } else {
                verify_consistency(old, size, &old_root, &root, hashes).is_ok()
            };
            prop_assert!(!held(&bad));
            // One too few, and one too many.
            bad = if kind { proof.clone() } else { history.clone() };
            bad.remove(which);
            prop_assert!(!held(&bad));
            bad = if kind { proof.clone() } else { history.clone() };
            bad.insert(which, root);
            prop_assert!(!held(&bad));
        }
    }

    #[test]
    fn a_tree_that_grew_in_steps_is_the_tree_at_once(size in 0_u64..1200, step in 60_usize..400) {
        let all = leaves(size);
        let (mut tree, mut kept) = (Growth::new(), std::collections::BTreeMap::new());
        for chunk in all.chunks(step) {
            let old = tree.size();
            let mut written = Vec::new();
            for leaf in chunk {
                tree.push(*leaf, |tile, hashes| written.push((tile, hashes.to_vec())));
            }
            written.extend(tree.unfinished().map(|(tile, hashes)| (tile, hashes.to_vec())));
            // Exactly the tiles that the coordinates say, each an extension of what was there. An
            // unfinished tile that did not grow is the same as before.
            let mut wanted: Vec<Tile> = Tile::grown(old, tree.size()).collect();
            let before: Vec<Tile> = kept.values().map(|(tile, _)| *tile).collect();
            let mut changed: Vec<Tile> = written.iter().map(|(tile, _)| *tile).filter(|tile| !before.contains(tile)).collect();
            wanted.sort();
            changed.sort();
            prop_assert_eq!(changed, wanted);
            for (tile, hashes) in written {
                let place = (tile.level(), tile.number());
                if let Some((_, older)) = kept.insert(place, (tile, hashes.clone())) {
                    prop_assert!(hashes.starts_with(&older));
                }
            }
            // A new process goes on from the tiles.
            let edge = Growth::edge_of(tree.size()).map(|tile| kept[&(tile.level(), tile.number())].clone());
            prop_assert_eq!(&Growth::resume(tree.size(), edge).unwrap(), &tree);
        }
        let whole = Kept::new(all);
        prop_assert_eq!(tree.root(), whole.root(size));
        // Every hash of every proof can be had from the tiles.
        let plans = [Plan::root(size)].into_iter()
            .chain((0..size).step_by(97).map(|index| Plan::inclusion(index, size).unwrap()))
            .chain((1..size).step_by(89).map(|old| Plan::consistency(old, size).unwrap()));
        for plan in plans {
            let hashes = plan.fold(|subtree| {
                let tile = Tile::of(subtree, size)?;
                let (stored, hashes) = &kept[&(tile.level(), tile.number())];
                assert_eq!(*stored, tile);
                tile.hash_of(subtree, hashes)
            });
            prop_assert_eq!(hashes.unwrap(), whole.fold(&plan));
        }
    }

    #[test]
    fn a_frontier_of_other_bytes_is_refused(size in 0_u64..3000, cut in 0_usize..8) {
        let tree = Frontier::over(&leaves(size));
        let bytes = tree.to_bytes();
        prop_assert_eq!(&Frontier::from_bytes(&bytes).unwrap(), &tree);
        prop_assert!(Frontier::from_bytes(&bytes[..bytes.len() - 1 - cut]).is_err());
        prop_assert!(Frontier::from_bytes(&[&bytes[..], &[0; 32]].concat()).is_err());
    }

    #[test]
    fn no_coordinates_panic(size in any::<u64>(), index in any::<u64>(), level in any::<u8>(), other in any::<u64>()) {
        let subtree = Subtree { level, index };
        let _ = Tile::of(subtree, size).map(|tile| tile.hash_of(subtree, &[TreeHash::of_nothing(); 256]));
        let _ = Plan::inclusion(index, size);
        let _ = Plan::consistency(other, size);
        let _ = Plan::root(size);
        let proof = [TreeHash::of_nothing(); 64];
        let _ = verify_inclusion(index, size, &proof[0], &proof, &proof[1]);
        let _ = verify_consistency(other, size, &proof[0], &proof[1], &proof);
    }

    #[test]
    fn a_tile_has_one_path(level in 0_u8..64, number in any::<u64>(), width in 1_u16..=256, text in "tile/[0-9]{1,2}/(x[0-9]{3}/){0,3}[0-9]{2,4}(\\.p/[0-9]{1,3})?") {
        let tile = Tile::new(level, number, width).unwrap();
        prop_assert_eq!(Tile::parse(&tile.to_string()), Ok(tile));
        if let Ok(tile) = Tile::parse(&text) {
            prop_assert_eq!(tile.to_string(), text);
        }
    }
}

#[test]
fn what_is_no_path_of_a_tile_is_refused() {
    for path in [
        "",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/0/x000/001",
        "tile/0/001/x002",
        "tile/0/x001/002/",
        "tile/0/+01",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/entries/000",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
    ] {
        assert_eq!(Tile::parse(path), Err(LogError::Tile), "{path}");
    }
    let last = "tile/63/x018/x446/x744/x073/x709/x551/615";
    assert_eq!(Tile::parse(last).unwrap().number(), u64::MAX);
}
