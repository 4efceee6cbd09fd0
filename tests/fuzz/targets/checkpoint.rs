//! A checkpoint, or a tile's path, that is read is written back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::tlog::{Checkpoint, Frontier, Tile};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tree) = Frontier::from_bytes(bytes) {
        assert_eq!(tree.to_bytes(), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.body(), text);
    }
    if let Ok(tile) = Tile::parse(text) {
        assert_eq!(tile.to_string(), text);
    }
});
