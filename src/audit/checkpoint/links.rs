//! Entries as links of their chain and as leaves of the tree, at once.

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use subtle::ConstantTimeEq as _;

use crate::audit::keys::Tag;
use crate::audit::row;
use crate::audit::store::verify as sql;
use crate::audit::stored::Stored;
use crate::audit::verify::{Decoder, Keyring};
use crate::canon::Fields;
use crate::ids::TenantId;
use crate::store::{Store, StoreError};
use crate::tlog::TreeHash;

/// The way along one chain, from an entry that is known.
#[derive(Debug)]
pub(super) struct Links<'k> {
    keys: &'k Keyring,
    previous: Tag,
    next: u64,
    encoded: Fields,
}

/// One entry that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) leaf: TreeHash,
    /// Whether it has the MAC that it should have after the one before it, and the next place.
    pub(super) sound: bool,
    pub(super) key_id: u32,
}

impl<'k> Links<'k> {
    /// From the entry at `after` on, which has the MAC `previous`.
    pub(super) fn new(keys: &'k Keyring, after: u64, previous: Tag) -> Self {
        Self {
            keys,
            previous,
            next: after + 1,
            encoded: Fields::default(),
        }
    }

    /// The MAC of the last entry.
    pub(super) const fn previous(&self) -> Tag {
        self.previous
    }

    /// The place of the next entry.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next entry; `None` if it has no MAC, and so no leaf.
    fn take(&mut self, stored: &Stored<'_>) -> Option<Link> {
        let row = &stored.row;
        row.encode(&mut self.encoded);
        let mac = stored.mac?;
        let follows = self
            .keys
            .key(row.key_id)
            .is_some_and(|key| bool::from(row::mac(key, &self.encoded, &self.previous).ct_eq(mac)));
        let link = Link {
            seq: row.seq,
            leaf: leaf(&self.encoded, mac),
            sound: follows && row.seq == self.next,
            key_id: row.key_id,
        };
        self.previous = *mac;
        self.next = row.seq.saturating_add(1);
        Some(link)
    }
}

/// The leaf of an entry: the bytes that its MAC covers, and the MAC.
pub(in crate::audit) fn leaf(encoded: &Fields, mac: &Tag) -> TreeHash {
    TreeHash::of_leaf_parts(&[encoded.as_bytes(), mac])
}

/// Reads the entries of a chain from one to another and hands each to `each`; one that cannot be
/// read is `None`.
pub(super) async fn read(
    connection: &mut PgConnection,
    store: &Store,
    chain_no: i32,
    links: &mut Links<'_>,
    range: (u64, u64),
    mut each: impl FnMut(Option<Link>),
) -> Result<(), StoreError> {
    read_stored(connection, store, chain_no, range, |stored| {
        each(stored.and_then(|stored| links.take(stored)));
    })
    .await
}

/// Reads the entries of a chain from one to another, as they are stored.
pub(in crate::audit) async fn read_stored(
    connection: &mut PgConnection,
    store: &Store,
    chain_no: i32,
    (from, to): (u64, u64),
    mut each: impl FnMut(Option<&Stored<'_>>),
) -> Result<(), StoreError> {
    const OPERATION: &str = "read the audit trail for a checkpoint";
    let during = StoreError::during(OPERATION);
    let tenant: &TenantId = store.tenant();
    // Inside of the caller's transaction this is a savepoint.
    let mut transaction = connection.begin().await.map_err(&during)?;
    sql::unhurry(&mut transaction).await.map_err(&during)?;
    let (after, to) = (from.cast_signed() - 1, to.cast_signed());
    sql::set_range(&mut transaction, tenant, chain_no, (after, to), sql::RANGE)
        .await
        .map_err(&during)?;
    let mut decoder = Decoder::default();
    sql::copy_range(&mut transaction, store.deadline(), |message| {
        decoder
            .feed(message, |raw| {
                each(Stored::decode(tenant.as_str(), raw).ok().as_ref());
            })
            .map_err(|_| StoreError::malformed(OPERATION))
    })
    .await?;
    if !decoder.is_complete() {
        return Err(StoreError::malformed(OPERATION));
    }
    transaction.commit().await.map_err(during)
}
