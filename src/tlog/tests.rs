use super::*;

mod differential;
mod files;
mod trees;

/// A tree whose every complete subtree is kept, for proofs.
pub(super) struct Kept {
    levels: Vec<Vec<TreeHash>>,
}

impl Kept {
    pub(super) fn new(leaves: impl IntoIterator<Item = TreeHash>) -> Self {
        let mut levels = vec![leaves.into_iter().collect::<Vec<_>>()];
        while levels[levels.len() - 1].len() > 1 {
            let below = &levels[levels.len() - 1];
            let above = below.chunks_exact(2);
            let above = above
                .map(|two| TreeHash::of_node(&two[0], &two[1]))
                .collect();
            levels.push(above);
        }
        Self { levels }
    }

    pub(super) fn hash(&self, subtree: Subtree) -> TreeHash {
        self.levels[usize::from(subtree.level)][usize::try_from(subtree.index).unwrap()]
    }

    pub(super) fn fold(&self, plan: &Plan) -> Vec<TreeHash> {
        plan.fold(|subtree| Ok::<_, LogError>(self.hash(subtree)))
            .unwrap()
    }

    pub(super) fn root(&self, size: u64) -> TreeHash {
        let root = self.fold(&Plan::root(size)).pop();
        root.unwrap_or_else(TreeHash::of_nothing)
    }

    pub(super) fn inclusion(&self, index: u64, size: u64) -> Vec<TreeHash> {
        self.fold(&Plan::inclusion(index, size).unwrap())
    }

    pub(super) fn consistency(&self, old: u64, new: u64) -> Vec<TreeHash> {
        self.fold(&Plan::consistency(old, new).unwrap())
    }
}

/// The content of leaf `n`, as the tests write it.
pub(super) fn content(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

pub(super) fn leaves(count: u64) -> Vec<TreeHash> {
    (0..count).map(|n| TreeHash::of_leaf(&content(n))).collect()
}
