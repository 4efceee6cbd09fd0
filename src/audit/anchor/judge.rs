//! Whether what an anchor holds is the beginning of what was signed.

use super::{AnchorError, Held, KeptAt};
use crate::audit::{Audit, AuditError};
use crate::tlog::{LogVerifier, Plan, TreeHash, verify_consistency};

/// The newest tree that was signed, as the database has it.
#[derive(Clone, Copy, Debug)]
pub(in crate::audit) struct Signed {
    pub(in crate::audit) size: u64,
    pub(in crate::audit) root: TreeHash,
}

/// How an anchor stands to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// It holds a tree of this size, which is the beginning of ours; 0 if it holds none.
    Follows(u64),
    /// It says that it holds a tree of this size, of which we signed one, and no more.
    Told(u64),
    /// It could not be asked, or its answer is no good.
    Silent(AnchorError),
    /// It holds more than we have.
    Ahead(u64),
    /// It holds another tree.
    Fork(u64),
}

impl Audit {
    /// Compares what an anchor holds with the newest tree, of which it took `published` entries
    /// before, as far as we remember.
    pub(super) async fn judge(
        &self,
        log: &LogVerifier,
        kept: &KeptAt,
        published: Option<u64>,
        signed: Signed,
    ) -> Result<Stand, AuditError> {
        let held = match kept.found() {
            Ok(held) => held,
            // A witness compares by itself.
            Err(AnchorError::Mismatch { held }) => return Ok(Stand::Fork(*held)),
            Err(error) => return Ok(Stand::Silent(error.clone())),
        };
        let size = held.map_or(0, Held::size);
        if size > signed.size {
            return Ok(Stand::Ahead(size));
        }
        // Only somebody who writes there can have taken it away: it is no witness any more.
        let lost = published.filter(|published| *published > size);
        let lost = lost.map(|published| Stand::Silent(AnchorError::Lost { published }));
        let Some(held) = held.filter(|held| held.size() > 0) else {
            return Ok(lost.unwrap_or(Stand::Follows(0)));
        };
        let Some(root) = held.root() else {
            let known = size == signed.size || self.signed_at(log, size).await?.is_some();
            let told = if known {
                Stand::Told(size)
            } else {
                Stand::Fork(size)
            };
            return Ok(lost.filter(|_| known).unwrap_or(told));
        };
        let follows = if size == signed.size {
            root == signed.root
        } else {
            let plan = Plan::consistency(size, signed.size)?;
            let proof = self.fold(&plan, signed.size).await?;
            verify_consistency(size, signed.size, &root, &signed.root, &proof).is_ok()
        };
        Ok(if follows {
            lost.unwrap_or(Stand::Follows(size))
        } else {
            Stand::Fork(size)
        })
    }
}
