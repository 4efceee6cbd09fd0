//! A set of line numbers: one bit each where they stand close, nothing where none or all are there.

use std::collections::BTreeMap;

/// How many lines one block tells of.
const BLOCK: u64 = 4_096;
const WORDS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Block {
    Some(Box<[u64; WORDS]>, u16),
    All,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    blocks: BTreeMap<u64, Block>,
}

impl Lines {
    /// Adds a line; `false` if it was there already.
    pub(super) fn insert(&mut self, line: u64) -> bool {
        let block = self.blocks.entry(line / BLOCK);
        let block = block.or_insert_with(|| Block::Some(Box::new([0; WORDS]), 0));
        let Block::Some(words, count) = block else {
            return false;
        };
        let (word, bit) = place(line);
        let Some(word) = words.get_mut(word).filter(|word| **word & bit == 0) else {
            return false;
        };
        *word |= bit;
        *count += 1;
        if u64::from(*count) == BLOCK {
            *block = Block::All;
        }
        true
    }

    pub(super) fn contains(&self, line: u64) -> bool {
        match self.blocks.get(&(line / BLOCK)) {
            None => false,
            Some(Block::All) => true,
            Some(Block::Some(words, _)) => {
                let (word, bit) = place(line);
                words.get(word).is_some_and(|word| word & bit != 0)
            }
        }
    }

    /// How many of the lines from one to another are there.
    pub(super) fn count(&self, from: u64, to: u64) -> u64 {
        if from > to {
            return 0;
        }
        let blocks = self.blocks.range(from / BLOCK..=to / BLOCK);
        blocks
            .map(|(number, block)| {
                let first = (number * BLOCK).max(from);
                let last = (number * BLOCK).saturating_add(BLOCK - 1).min(to);
                match block {
                    Block::All => last - first + 1,
                    Block::Some(_, count) if last - first + 1 == BLOCK => u64::from(*count),
                    Block::Some(..) => {
                        let inside = (first..=last).filter(|line| self.contains(*line));
                        inside.count().try_into().unwrap_or(u64::MAX)
                    }
                }
            })
            .sum()
    }

    /// The first line from `from` on that is not there.
    pub(super) fn first_missing(&self, from: u64) -> u64 {
        let mut line = from;
        loop {
            match self.blocks.get(&(line / BLOCK)) {
                Some(Block::All) => line = (line / BLOCK + 1).saturating_mul(BLOCK),
                Some(Block::Some(..)) if self.contains(line) => line += 1,
                Some(Block::Some(..)) | None => return line,
            }
        }
    }
}

fn place(line: u64) -> (usize, u64) {
    let inside = line % BLOCK;
    (
        usize::try_from(inside / 64).unwrap_or(0),
        1 << (inside % 64),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(lines in proptest::collection::vec(0_u64..20_000, 0..300), whole in 0_u64..4, asked in (0_u64..20_000, 0_u64..20_000)) {
            let (mut ours, mut theirs) = (Lines::default(), BTreeSet::new());
            for line in lines.into_iter().chain(whole * BLOCK..(whole + 1) * BLOCK) {
                prop_assert_eq!(ours.insert(line), theirs.insert(line));
            }
            let (from, to) = asked;
            prop_assert_eq!(ours.contains(from), theirs.contains(&from));
            let count = if from <= to { theirs.range(from..=to).count() } else { 0 };
            prop_assert_eq!(ours.count(from, to), u64::try_from(count).unwrap());
            let missing = (from..30_000).find(|line| !theirs.contains(line)).unwrap();
            prop_assert_eq!(ours.first_missing(from), missing);
        }
    }
}
