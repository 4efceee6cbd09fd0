//! The anchors of one trail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::model::Held;
use super::{Anchor, AnchorError, Inquiry, KeptAt};
use crate::audit::AuditError;

/// How long an anchor may take to say what it holds. The signer holds a lock meanwhile, for which
/// others wait no longer than a statement may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The anchors of one trail, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Anchors {
    list: Vec<Arc<dyn Anchor>>,
}

impl Anchors {
    pub(crate) fn new(list: Vec<Arc<dyn Anchor>>) -> Self {
        Self { list }
    }

    /// Refuses names that are none, or that two anchors have.
    pub(crate) fn check(list: &[Arc<dyn Anchor>]) -> Result<(), AuditError> {
        let mut names = BTreeSet::new();
        for anchor in list {
            let name = anchor.name();
            let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
            if name.is_empty() || name.len() > 256 || !plain {
                return Err(AuditError::AnchorName {
                    problem: "is not 1 to 256 bytes of printable ASCII without blanks",
                });
            }
            if !names.insert(name) {
                return Err(AuditError::AnchorName {
                    problem: "is given to two anchors; give each a name of its own",
                });
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What each of those that can tell says that it holds.
    pub(super) async fn ask(&self, inquiry: Inquiry) -> Vec<KeptAt> {
        let inquiry = Arc::new(inquiry);
        let mut asked = JoinSet::new();
        for (place, anchor) in self.list.iter().enumerate() {
            if !anchor.remembers() {
                continue;
            }
            let (anchor, inquiry) = (Arc::clone(anchor), Arc::clone(&inquiry));
            asked.spawn(async move {
                let found = ask(&*anchor, &inquiry).await;
                let kept = KeptAt {
                    anchor: anchor.name().to_owned(),
                    kind: anchor.kind(),
                    found,
                };
                (place, kept)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, kept)| kept).collect()
    }
}

async fn ask(anchor: &dyn Anchor, inquiry: &Inquiry) -> Result<Option<Held>, AnchorError> {
    let answered = tokio::time::timeout(PATIENCE, anchor.latest(inquiry)).await;
    let Some(kept) = answered.map_err(|_| AnchorError::TimedOut)?? else {
        return Ok(None);
    };
    Ok(Some(kept.check(inquiry.log())?))
}
