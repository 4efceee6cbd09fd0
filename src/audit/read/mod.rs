//! Reading the trail: by filter and page, live, and along its provenance.
//!
//! Reading shows what is stored; whether that is what was written is the business of
//! [`Audit::verify`]. With [`verify_on_read`](Audit::verify_on_read) each entry that is read is
//! checked against its MAC too.
//!
//! | The store is | [`Audit::events`] and the like | [`Follow::next`] |
//! |---|---|---|
//! | reachable | answer | answers with the next entry, when there is one |
//! | unreachable | an error of kind `Unavailable` | goes on trying, and misses nothing |

mod cursor;
mod follow;
mod lineage;
mod query;

use subtle::ConstantTimeEq as _;

pub use self::cursor::Cursor;
pub use self::follow::{Follow, Position};
pub use self::lineage::{Lineage, Relative};
pub(in crate::audit) use self::query::Lead;
pub use self::query::{Page, Query};

use super::keys::{Purpose, Tag, sha256};
use super::row::{self, GENESIS};
use super::store::read::{self as sql, Fetched};
use super::stored::Stored;
use super::verify::Keyring;
use super::{Audit, AuditError, AuditKeys, Entry};
use crate::canon::Fields;
use crate::ids::EventId;
use crate::store::{Store, StoreError};

impl Audit {
    /// Whether each entry that is read is checked against its MAC (no, unless asked for).
    ///
    /// It costs one look-up and one MAC for each entry. A mismatch is [`AuditError::Tampered`]: of
    /// the entry, of the one before it, or because that is gone. What is missing from a page does
    /// not show; for that, and to know which of two lied, run [`verify`](Self::verify).
    #[must_use]
    pub fn verify_on_read(mut self, check: bool) -> Self {
        self.check_reads = check;
        self
    }

    /// A page of entries.
    ///
    /// # Errors
    ///
    /// * [`AuditError::Store`] if the database did not answer.
    /// * [`AuditError::Tampered`] if an entry holds what is never written, or, with
    ///   [`verify_on_read`](Self::verify_on_read), does not match its MAC.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn events(&self, query: &Query) -> Result<Page, AuditError> {
        let page = query.page_of(self.store().tenant(), self.check_reads);
        let mut rows = sql::list_entries(self.store(), &page).await?;
        let more = rows.len() > query.size();
        rows.truncate(query.size());
        let entries = self.entries(&rows)?;
        let next = entries.last().filter(|_| more).map(Cursor::of);
        Ok(Page { entries, next })
    }

    /// The entry of an event; `None` if it is not on record.
    ///
    /// # Errors
    ///
    /// As for [`events`](Self::events).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn event(&self, id: EventId) -> Result<Option<Entry>, AuditError> {
        let row = sql::fetch_entry(self.store(), id, self.check_reads).await?;
        Ok(self.entries(row.as_slice())?.pop())
    }

    /// Whether `content` is what went in, as [`AuditEvent::input`](super::AuditEvent::input) was
    /// given it.
    ///
    /// A hash is made once, when the event is handed over, under the key that was current then. It
    /// is the entry's own key, or, of an event that was under way during a rotation, another one of
    /// the tenant's: all that this process has are tried.
    #[must_use]
    pub fn is_input(&self, entry: &Entry, content: &[u8]) -> bool {
        self.is_content(entry.input_hash.as_ref(), content)
    }

    /// Whether `content` is what came out; see [`is_input`](Self::is_input).
    #[must_use]
    pub fn is_output(&self, entry: &Entry, content: &[u8]) -> bool {
        self.is_content(entry.output_hash.as_ref(), content)
    }

    fn is_content(&self, hash: Option<&Tag>, content: &[u8]) -> bool {
        let Some(hash) = hash else { return false };
        let (keys, tenant) = (self.keys(), self.store().tenant());
        let sha256 = sha256(content);
        keys.key_ids().any(|id| {
            let key = keys.derive_under(id, tenant, Purpose::Content);
            key.is_some_and(|key| key.content_hash(&sha256).ct_eq(hash).into())
        })
    }

    /// Follows the trail live, from now on; see [`Follow`].
    pub fn follow(&self, query: &Query) -> Follow {
        Follow::new(self.clone(), query.clone())
    }

    pub(in crate::audit) fn store(&self) -> &Store {
        &self.shared.0
    }

    pub(in crate::audit) fn keys(&self) -> &AuditKeys {
        &self.shared.1
    }

    pub(in crate::audit) const fn checks_reads(&self) -> bool {
        self.check_reads
    }

    /// What callers see of `rows`, checked where that was asked for.
    pub(in crate::audit) fn entries(&self, rows: &[Fetched]) -> Result<Vec<Entry>, AuditError> {
        let tenant = self.store().tenant();
        let check = self.check_reads.then(|| Keyring::new(self.keys(), tenant));
        let malformed = |_| StoreError::malformed("read the audit trail");
        let mut entries = Vec::with_capacity(rows.len());
        for fetched in rows {
            let stored = match fetched.stored(tenant).map_err(malformed)? {
                Ok(stored) => stored,
                Err(torn) => {
                    return Err(AuditError::Tampered {
                        chain_no: torn.chain_no.unwrap_or(0),
                        seq: torn.seq.and_then(|seq| seq.try_into().ok()).unwrap_or(0),
                    });
                }
            };
            let sound = match &check {
                Some(keys) => is_sound(keys, &stored, fetched).map_err(malformed)?,
                None => true,
            };
            match stored.entry() {
                Some(entry) if sound => entries.push(entry),
                _ => {
                    return Err(AuditError::Tampered {
                        chain_no: stored.row.chain_no,
                        seq: stored.row.seq,
                    });
                }
            }
        }
        Ok(entries)
    }
}

/// Whether an entry has the MAC that it should have after the one that is stored before it.
pub(in crate::audit) fn is_sound(
    keys: &Keyring,
    stored: &Stored<'_>,
    fetched: &Fetched,
) -> Result<bool, sqlx::Error> {
    let previous = match fetched.previous()? {
        None if stored.row.seq == 1 => Some(GENESIS),
        previous => previous,
    };
    let (Some(previous), Some(mac), Some(key)) =
        (previous, stored.mac, keys.key(stored.row.key_id))
    else {
        return Ok(false);
    };
    let mut encoded = Fields::default();
    stored.row.encode(&mut encoded);
    Ok(row::mac(key, &encoded, &previous).ct_eq(mac).into())
}

#[cfg(test)]
mod tests;
