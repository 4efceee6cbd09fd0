//! Verification: is every entry as it was written, and are all of them there?
//!
//! The heads are read first, in one snapshot; then each chain is streamed by binary COPY, in
//! ranges of 250,000 entries with a transaction each, never past the head that was read. One pass,
//! constant memory, while the trail goes on growing.
//!
//! What a keyed chain alone cannot show, and [`Verification::limits`] says so each time: a chain
//! that was removed with its head, where no later chain is left; a tail removed together with a
//! head set back to match; the whole trail removed; an old backup restored. These take a checkpoint
//! kept elsewhere: [`Audit::verify_checkpoints`]. The operational columns of a head (holder, epoch, lease) are not evidence and
//! not covered; its `next_seq`, `head_mac`, `key_id` and `recorded_at` are compared with the entries.
//!
//! | The store is | [`Audit::verify`] |
//! |---|---|
//! | reachable | answers with a [`Verification`] |
//! | unreachable, or silent for longer than the deadline | an error of kind `Unavailable`, never "clean" |

mod canonical;
mod copy;
mod doubt;
mod finding;
mod keyring;
mod walk;
mod window;

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

pub(in crate::audit) use self::copy::Decoder;
pub(in crate::audit) use self::finding::Findings;
pub use self::finding::{
    ChainReport, CompromisedKey, Finding, FindingClass, Verdict, Verification,
};
pub(in crate::audit) use self::keyring::Keyring;

use self::walk::{Head, Part, Walk};
use super::identity::Registry;
use super::read::is_sound;
use super::store::identity::list_key_entries;
use super::store::verify::{self as sql, ChainRow};
use super::stored::Stored;
use super::{Audit, AuditError};
use crate::ids::{SessionId, TenantId};
use crate::store::StoreError;

const OPERATION: &str = "read the audit trail to verify it";

/// What to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Every chain of the tenant, as far as it went when the verification began.
    All,
    /// Every entry between the first and the last of a session, in each chain that it touches.
    Session(SessionId),
    /// One chain.
    Chain {
        /// Its number.
        chain_no: u32,
    },
    /// Some entries of one chain.
    Range {
        /// The chain's number.
        chain_no: u32,
        /// The first entry, from 1.
        from: u64,
        /// The last entry; where the chain is shorter, its end.
        to: u64,
    },
}

impl Scope {
    /// What its verification does not prove.
    const fn limits(&self) -> &'static [&'static str] {
        const CHECKPOINT: &str = "that nothing was removed together with its head; that takes a checkpoint kept elsewhere";
        match self {
            Self::All => &[CHECKPOINT],
            Self::Session(_) => &[
                "that the session has no entries before its first and after its last, or in other chains, or that the key of its first ones held then; verify everything",
                CHECKPOINT,
            ],
            Self::Chain { .. } => &["anything about other chains", CHECKPOINT],
            Self::Range { .. } => &[
                "anything about entries outside the range; its first entry is proved to follow the one stored before it, whose key is taken for the one that held then",
                CHECKPOINT,
            ],
        }
    }
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The chain that is being read.
    pub chain_no: u32,
    /// The last entry of it that was read.
    pub seq: u64,
    /// How many entries were read in all.
    pub entries: u64,
    /// How many findings there are so far.
    pub findings: u64,
}

impl Audit {
    /// Verifies what `scope` says.
    ///
    /// # Errors
    ///
    /// [`AuditError::Store`] if the trail could not be read to its end. Findings are no error: they
    /// are in the answer; see [`Verification::into_result`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads, over a connection of its own.
    pub async fn verify(&self, scope: Scope) -> Result<Verification, AuditError> {
        self.verify_with(scope, |_| ()).await
    }

    /// Verifies what `scope` says, and reports after each range of at most 250,000 entries.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads, over a connection of its own.
    pub async fn verify_with(
        &self,
        scope: Scope,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Verification, AuditError> {
        let keys = Keyring::new(self.keys(), self.store().tenant());
        let mut reader = Reader {
            connection: sql::open(self.store()).await?,
            tenant: self.store().tenant().clone(),
            patience: self.store().deadline(),
        };
        let mut findings = Findings::default();
        let mut chains = Vec::new();
        let mut entries = 0;
        let parts = reader.parts(&scope, &mut findings).await?;
        // After the heads: what was signed before them is signed by a key of before them.
        let (registry, doubtful) = self.registry(&keys).await?;
        for (chain_no, part) in parts {
            let mut walk = Walk::new(&keys, part).signed(&registry);
            let mut after = if part.from == 1 {
                // From the very first, so that what stands before it shows.
                i64::MIN
            } else {
                seq_of_sql(part.lead_in()) - 1
            };
            let to = part.to.min(part.max_seq);
            while part.from <= to && after < seq_of_sql(to) {
                let last = reader
                    .range(&mut walk, chain_no, after, seq_of_sql(to), &mut findings)
                    .await?;
                progress(Progress {
                    chain_no: part.chain_no,
                    seq: last.map_or(part.to, |last| last.try_into().unwrap_or(0)),
                    entries: entries + walk.report().entries,
                    findings: findings.total(),
                });
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
            let report = walk.finish(&mut findings);
            entries += report.entries;
            chains.push(report);
        }
        if scope == Scope::All {
            find_left_behind(&chains, &mut findings);
        }
        // Where the walk came by, it has said so.
        let unseen = |finding: &Finding| {
            let walked = |chain: &ChainReport| {
                chain.chain_no == finding.chain_no && (chain.from..=chain.to).contains(&finding.seq)
            };
            !chains.iter().any(walked)
        };
        doubtful
            .into_iter()
            .filter(unseen)
            .for_each(|finding| findings.push(finding));
        // Politely; what was read stands whatever the server says to it.
        let _ = reader.connection.close().await;
        let verification = Verification::new(findings, chains, scope.limits());
        if verification.finding_count() > 0 {
            tracing::error!(
                findings = verification.finding_count(),
                "the audit trail is not as it was written"
            );
        }
        Ok(verification)
    }
}

impl Audit {
    /// The agents' keys that are on record, by entries whose MACs are right; and the entries whose
    /// MACs are not, which may have said something else.
    async fn registry(&self, keys: &Keyring) -> Result<(Registry, Vec<Finding>), StoreError> {
        let malformed = |_| StoreError::malformed(OPERATION);
        let (mut registry, mut doubtful) = (Registry::default(), Vec::new());
        for fetched in list_key_entries(self.store()).await? {
            let stored = fetched.stored(self.store().tenant()).map_err(malformed)?;
            let place = match stored {
                Ok(stored) if is_sound(keys, &stored, &fetched).map_err(malformed)? => {
                    registry.take(&stored);
                    continue;
                }
                Ok(stored) => (stored.row.chain_no, stored.row.seq),
                Err(torn) => (
                    torn.chain_no.unwrap_or(0),
                    torn.seq.and_then(|seq| seq.try_into().ok()).unwrap_or(0),
                ),
            };
            doubtful.push(Finding {
                class: FindingClass::BadMac,
                chain_no: place.0,
                seq: place.1,
                through: place.1,
                detail: "the entry, which says whose a signing key is, is not proved after the one before it",
            });
        }
        Ok((registry, doubtful))
    }
}

/// The connection of one verification.
struct Reader {
    connection: PgConnection,
    tenant: TenantId,
    patience: Duration,
}

impl Reader {
    /// The parts of chains that `scope` asks for, with what the heads say.
    async fn parts(
        &mut self,
        scope: &Scope,
        findings: &mut Findings,
    ) -> Result<Vec<(i32, Part)>, StoreError> {
        let during = StoreError::during(OPERATION);
        let mut transaction = self.connection.begin().await.map_err(&during)?;
        sql::unhurry(&mut transaction).await.map_err(&during)?;
        let chains = sql::list_chains(&mut transaction, &self.tenant).await?;
        let wanted = match scope {
            Scope::All => {
                find_missing_chains(&chains, findings);
                None
            }
            Scope::Session(session) => {
                Some(sql::list_session_ranges(&mut transaction, &self.tenant, session).await?)
            }
            Scope::Chain { chain_no } => Some(vec![(chain_no.cast_signed(), 1, i64::MAX)]),
            Scope::Range { chain_no, from, to } => Some(vec![(
                chain_no.cast_signed(),
                seq_of_sql((*from).max(1)),
                seq_of_sql(*to),
            )]),
        };
        transaction.commit().await.map_err(during)?;
        let of = |wanted: &[(i32, i64, i64)], chain: &ChainRow| {
            let (_, from, to) = wanted.iter().find(|(no, ..)| *no == chain.chain_no)?;
            Some((from.cast_unsigned(), to.cast_unsigned()))
        };
        Ok(chains
            .iter()
            .filter_map(|chain| {
                let (from, to) = match &wanted {
                    Some(wanted) => of(wanted, chain)?,
                    None => (1, u64::MAX),
                };
                Some((chain.chain_no, part(chain, from, to)))
            })
            .collect())
    }

    /// Streams one range through `walk`; the last place that was read, `None` if there was no more.
    async fn range(
        &mut self,
        walk: &mut Walk<'_>,
        chain_no: i32,
        after: i64,
        to: i64,
        findings: &mut Findings,
    ) -> Result<Option<i64>, StoreError> {
        let during = StoreError::during(OPERATION);
        let mut transaction = self.connection.begin().await.map_err(&during)?;
        sql::unhurry(&mut transaction).await.map_err(&during)?;
        sql::set_range(&mut transaction, &self.tenant, chain_no, after, to)
            .await
            .map_err(&during)?;
        let tenant = self.tenant.as_str();
        let (mut decoder, mut count, mut last) = (Decoder::default(), 0_u64, None);
        sql::copy_range(&mut transaction, self.patience, |message| {
            decoder
                .feed(message, |raw| {
                    count += 1;
                    match Stored::decode(tenant, raw) {
                        Ok(stored) => {
                            last = Some(stored.row.seq.cast_signed());
                            walk.entry(&stored, findings);
                        }
                        Err(torn) => {
                            last = torn.seq.or(last);
                            walk.torn(&torn, findings);
                        }
                    }
                })
                .map_err(|_| StoreError::malformed(OPERATION))
        })
        .await?;
        if !decoder.is_complete() {
            return Err(StoreError::malformed(OPERATION));
        }
        transaction.commit().await.map_err(during)?;
        Ok(last.filter(|_| count >= sql::RANGE))
    }
}

fn part(chain: &ChainRow, from: u64, to: u64) -> Part {
    let head = chain.head.map(|head| Head {
        next_seq: head.next_seq.max(1).cast_unsigned(),
        mac: head.mac,
        key_id: head.key_id,
        recorded_us: head.recorded_at.as_micros(),
    });
    let max_seq = chain.max_seq.unwrap_or(0).max(0).cast_unsigned();
    let whole = Part::whole(chain.chain_no.cast_unsigned(), head, max_seq);
    Part {
        from,
        to: to.min(whole.to),
        ..whole
    }
}

/// Chains are numbered from 1 without a hole, and none is ever removed: where a number is missing,
/// a chain was.
fn find_missing_chains(chains: &[ChainRow], findings: &mut Findings) {
    let mut next = 1_i64;
    for chain in chains {
        let number = i64::from(chain.chain_no);
        if number > next {
            findings.push(Finding {
                class: FindingClass::Truncated,
                chain_no: u32::try_from(next).unwrap_or(0),
                seq: 1,
                through: 1,
                detail: "a chain is gone with its head, or several: later ones are there",
            });
        }
        next = next.max(number + 1);
    }
}

/// A rotation hands on every chain that is not stopped: one that is still under an older key was
/// begun, or gone on with, by somebody who has that key and no newer one.
fn find_left_behind(chains: &[ChainReport], findings: &mut Findings) {
    let Some(newest) = chains.iter().filter_map(|chain| chain.last_key).max() else {
        return;
    };
    for chain in chains {
        let Some(key) = chain.last_key.filter(|key| *key < newest) else {
            continue;
        };
        let handed_on = chains.iter().flat_map(|chain| &chain.rotations);
        let stopped = handed_on
            .filter(|rotation| rotation.from == key)
            .flat_map(|rotation| &rotation.stopped)
            .find(|(chain_no, _)| *chain_no == chain.chain_no);
        let last = chain.head.unwrap_or(chain.to);
        let (class, seq, detail) = match stopped {
            Some((_, next)) if last < *next => continue,
            Some((_, next)) => (
                FindingClass::KeyWindow,
                *next,
                "entries under an old key, in a chain that was stopped before the rotation",
            ),
            None => (
                FindingClass::Rotation,
                last,
                "the chain ends under an old key; no rotation left it there",
            ),
        };
        findings.push(Finding {
            class,
            chain_no: chain.chain_no,
            seq,
            through: last.max(seq),
            detail,
        });
    }
}

/// As Postgres counts; past its largest number there is nothing.
fn seq_of_sql(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
