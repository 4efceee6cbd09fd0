//! Holding a chain: claiming, opening, giving back, and finding out where it ends.

use tokio::time::timeout;

use sqlx::{Connection, PgConnection};

use super::batch::Place;
use super::lane::{Lane, alone};
use super::outcome::{Failure, Fault};
use crate::audit::error::AuditError;
use crate::audit::keys::MacKey;
use crate::audit::kind::Kind;
use crate::audit::model::{AuditEvent, Draft};
use crate::audit::store::chain::{self, Head, Hold, StoredChain};
use crate::store::{StoreError, StoreFault};

const CLAIM: &str = "claim a chain";
const OPEN: &str = "open a chain";
const FIND_OUT: &str = "find out where a chain ends";
/// How often another process may take the number that a new chain was to have.
const OPENINGS: u32 = 64;

/// The chain that a lane holds.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) no: u32,
    pub(super) epoch: i64,
    /// Reclaims that were sent and not answered: each may have raised the epoch by one.
    reclaims: i64,
    /// Where it ends, as far as was acknowledged.
    pub(super) head: Head,
    /// Where it ends if the last append was applied, whose outcome is unknown.
    pub(super) doubt: Option<Head>,
}

/// What became of an append whose outcome was unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Applied,
    NotApplied,
    /// The chain is no longer ours: look for the events themselves.
    Gone,
}

impl Lane<'_> {
    /// Finds out what became of the last append, if that is not known.
    pub(super) async fn find_out(&mut self) -> Result<Option<Verdict>, Failure> {
        let Some(chain) = self.chain.as_mut() else {
            return Ok(None);
        };
        let Some(doubt) = chain.doubt else {
            return Ok(None);
        };
        let Some(connection) = self.connection.as_mut() else {
            return Err(Failure::unreachable(FIND_OUT));
        };
        let hold = Hold {
            tenant: self.shared.store.tenant().as_str(),
            chain_no: chain.no,
            epoch: chain.epoch,
            holder: self.holder,
            key_id: self.keys.key_id,
            now: self.shared.store.database_now(),
        };
        let unanswered = chain.reclaims;
        chain.reclaims += 1;
        self.shared.stats.statement();
        let store = &self.shared.store;
        let work = alone!(store, connection, chain::try_reclaim, hold, unanswered);
        let found = Self::answer(FIND_OUT, timeout(self.limit, work).await);
        let found = Self::heed(&mut self.connection, found)?;
        let Some(found) = found else {
            return self.find_out_why(hold, doubt).await.map(Some);
        };
        chain.epoch = found.epoch;
        chain.reclaims = 0;
        if same(&found.head, &doubt) {
            chain.head = doubt;
            chain.doubt = None;
            let written = doubt.next_seq.saturating_sub(self.batch.from.next_seq);
            let now = self.shared.store.now();
            self.shared.stats.batch(written, now);
            Ok(Some(Verdict::Applied))
        } else if same(&found.head, &chain.head) {
            chain.doubt = None;
            Ok(Some(Verdict::NotApplied))
        } else {
            self.condemn("its head is not where it was left").await;
            Ok(Some(Verdict::Gone))
        }
    }

    /// The chain could not be taken again: because another writer has it, as it should be?
    async fn find_out_why(&mut self, hold: Hold<'_>, doubt: Head) -> Result<Verdict, Failure> {
        let (Some(connection), Some(chain)) = (self.connection.as_mut(), self.chain.as_ref())
        else {
            return Err(Failure::unreachable(FIND_OUT));
        };
        self.shared.stats.statement();
        let store = &self.shared.store;
        let work = alone!(store, connection, chain::fetch_chain, hold);
        let found = Self::answer(FIND_OUT, timeout(self.limit, work).await);
        let ours = chain.head.next_seq;
        match Self::heed(&mut self.connection, found)? {
            Some(StoredChain { stopped: true, .. }) => {
                tracing::warn!(
                    chain_no = hold.chain_no,
                    "the audit chain was stopped; going on with another"
                );
                self.chain = None;
            }
            Some(found) if found.epoch > hold.epoch && found.head.next_seq >= ours => {
                tracing::info!(
                    chain_no = hold.chain_no,
                    believed = doubt.next_seq,
                    "another writer has claimed the audit chain; going on with another"
                );
                self.chain = None;
            }
            Some(_) => self.condemn("it was set back").await,
            None => self.condemn("it is not there any more").await,
        }
        Ok(Verdict::Gone)
    }

    /// Leaves a chain that is not as it was left, and stops it for ever.
    pub(super) async fn condemn(&mut self, why: &'static str) {
        let Some(chain) = self.chain.take() else {
            return;
        };
        tracing::error!(
            chain_no = chain.no,
            next_seq = chain.head.next_seq,
            "audit chain rolled back: {why}; it is stopped, and entries go to a fresh one; verify the trail, and look for a restored backup or a failover that lost commits"
        );
        let Some(connection) = self.connection.as_mut() else {
            return;
        };
        let hold = Hold {
            tenant: self.shared.store.tenant().as_str(),
            chain_no: chain.no,
            epoch: chain.epoch,
            holder: self.holder,
            key_id: self.keys.key_id,
            now: self.shared.store.database_now(),
        };
        self.shared.stats.statement();
        let store = &self.shared.store;
        let work = alone!(store, connection, chain::stop, hold);
        let stopped = Self::answer("stop a chain", timeout(self.limit, work).await);
        if let Err(failure) = Self::heed(&mut self.connection, stopped) {
            // Whoever claims it finds the same and stops it.
            tracing::warn!(chain_no = chain.no, error = %failure.error, "could not stop the chain");
        }
    }

    /// Claims a chain that nobody holds, or opens one.
    pub(super) async fn hold_a_chain(&mut self) -> Result<(), Failure> {
        if self.chain.is_some() {
            return Ok(());
        }
        self.learn_key().await?;
        let Some(connection) = self.connection.as_mut() else {
            return Err(Failure::unreachable(CLAIM));
        };
        let store = &self.shared.store;
        let (tenant, key_id) = (store.tenant().as_str(), self.keys.key_id);
        self.shared.stats.statement();
        let (holder, now) = (self.holder, store.database_now());
        let work = alone!(
            store,
            connection,
            chain::try_claim,
            tenant,
            holder,
            key_id,
            now
        );
        let claimed = Self::answer(CLAIM, timeout(self.limit, work).await);
        if let Some(claimed) = Self::heed(&mut self.connection, claimed)? {
            self.chain = Some(Chain {
                no: claimed.chain_no,
                epoch: claimed.epoch,
                reclaims: 0,
                head: claimed.head,
                doubt: None,
            });
            return Ok(());
        }
        let opened = timeout(self.limit, self.open_a_chain()).await;
        let opened = opened.unwrap_or_else(|_| Err(Failure::timed_out(OPEN)));
        self.chain = Some(Self::heed(&mut self.connection, opened)?);
        Ok(())
    }

    async fn open_a_chain(&mut self) -> Result<Chain, Failure> {
        let failed = |error| Failure::of(OPEN, &error);
        let store = &self.shared.store;
        let tenant = store.tenant();
        let draft = genesis(&self.keys.content).map_err(|_| Failure::unreachable(OPEN))?;
        let Some(connection) = self.connection.as_mut() else {
            return Err(Failure::unreachable(OPEN));
        };
        for _ in 0..OPENINGS {
            self.shared.stats.statement();
            self.shared.stats.statement();
            let no = alone!(
                store,
                connection,
                chain::fetch_next_chain_no,
                tenant.as_str()
            )
            .await
            .map_err(failed)?;
            let place = Place {
                tenant,
                keys: &self.keys,
                chain_no: no,
            };
            let (genesis, head) = self.batch.genesis(place, store.now(), &draft);
            let hold = Hold {
                tenant: tenant.as_str(),
                chain_no: no,
                epoch: 1,
                holder: self.holder,
                key_id: self.keys.key_id,
                now: store.database_now(),
            };
            if alone!(store, connection, chain::try_open, hold, &genesis)
                .await
                .map_err(failed)?
            {
                return Ok(Chain {
                    no,
                    epoch: 1,
                    reclaims: 0,
                    head,
                    doubt: None,
                });
            }
        }
        Err(Failure {
            fault: Fault::Aborted,
            error: StoreError::new(OPEN, StoreFault::Aborted),
        })
    }

    /// Gives the chain back, so that another writer need not wait for the lease to end.
    pub(super) async fn release(mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if let Some(chain) = self.chain.take().filter(|chain| chain.doubt.is_none()) {
            let hold = Hold {
                tenant: self.shared.store.tenant().as_str(),
                chain_no: chain.no,
                epoch: chain.epoch,
                holder: self.holder,
                key_id: self.keys.key_id,
                now: self.shared.store.database_now(),
            };
            self.shared.stats.statement();
            let (store, lent) = (&self.shared.store, &mut connection);
            let work = alone!(store, lent, chain::give_back, hold);
            let given = Self::answer("give a chain back", timeout(self.limit, work).await);
            if let Err(failure) = given {
                tracing::debug!(error = %failure.error, "the chain's lease runs out instead");
                return;
            }
        }
        let _ = timeout(self.limit, connection.close()).await;
    }
}

/// Whether two heads are one place; the time is not compared, since the MAC covers it.
fn same(a: &Head, b: &Head) -> bool {
    a.next_seq == b.next_seq && a.mac == b.mac
}

/// What the first entry of a chain says.
fn genesis(content: &MacKey) -> Result<Draft, AuditError> {
    AuditEvent::system(None, Kind::ChainGenesis)
        .with("row", "portcullis/row/v1")
        .with("version", env!("CARGO_PKG_VERSION"))
        .seal(crate::time::Timestamp::MIN, content)
}
