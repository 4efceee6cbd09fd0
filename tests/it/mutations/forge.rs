//! What a thief of the chain's key can do: write a chain anew from any entry on.
//!
//! Row v1 once more, from the documentation and not from the crate.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

/// The chain's key of the only tenant, of a stolen secret.
fn stolen(secret: &str) -> [u8; 32] {
    let secret = hex::decode(secret).unwrap();
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(b"default"), &secret)
        .expand(b"portcullis/audit-hmac/v1", &mut key)
        .unwrap();
    key
}

fn field(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            out.push(1);
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

/// Gives every entry of a chain from `from` on its right MAC, and the head with it.
pub(super) async fn rechain(pool: &PgPool, secrets: &[&str], chain_no: i32, from: i64) {
    let rows = sqlx::query(
        "SELECT seq, key_id, kind,
                (extract(epoch FROM occurred_at) * 1000000)::bigint,
                (extract(epoch FROM recorded_at) * 1000000)::bigint,
                event_id, session_id, agent_id, user_id, agent_key, parent_id, model,
                input_hash, output_hash, decision, metadata, sealed, ingest,
                origin_journal, origin_seq, origin_mac, mac
           FROM portcullis.entries
          WHERE chain_no = $1
          ORDER BY seq",
    )
    .bind(chain_no)
    .fetch_all(pool)
    .await
    .unwrap();
    let mut previous = vec![0; 32];
    for row in &rows {
        let (seq, key_id): (i64, i64) = (row.get(0), row.get(1));
        if seq < from {
            previous = row.get(21);
            continue;
        }
        let text = |at: usize| row.get::<Option<String>, _>(at);
        let bytes = |at: usize| row.get::<Option<Vec<u8>>, _>(at);
        let uuid = |at: usize| row.get::<Option<Uuid>, _>(at);
        let mut out = Vec::new();
        let mut put = |bytes: Option<&[u8]>| field(&mut out, bytes);
        put(Some(b"portcullis/row/v1"));
        put(Some(b"default"));
        put(Some(&chain_no.to_be_bytes()));
        put(Some(&seq.to_be_bytes()));
        put(Some(&u32::try_from(key_id).unwrap().to_be_bytes()));
        put(text(2).as_ref().map(String::as_bytes));
        put(Some(&row.get::<i64, _>(3).to_be_bytes()));
        put(Some(&row.get::<i64, _>(4).to_be_bytes()));
        put(uuid(5).as_ref().map(|id| id.as_bytes().as_slice()));
        for at in [6, 7, 8] {
            put(text(at).as_ref().map(String::as_bytes));
        }
        put(bytes(9).as_deref());
        put(uuid(10).as_ref().map(|id| id.as_bytes().as_slice()));
        put(text(11).as_ref().map(String::as_bytes));
        put(bytes(12).as_deref());
        put(bytes(13).as_deref());
        put(text(14).as_ref().map(String::as_bytes));
        put(text(15).as_ref().map(String::as_bytes));
        put(bytes(16).as_deref());
        put(text(17).as_ref().map(String::as_bytes));
        put(uuid(18).as_ref().map(|id| id.as_bytes().as_slice()));
        let line = row.get::<Option<i64>, _>(19).map(i64::to_be_bytes);
        put(line.as_ref().map(<[u8; 8]>::as_slice));
        put(bytes(20).as_deref());
        put(Some(&previous));
        let key = stolen(secrets[usize::try_from(key_id).unwrap() - 1]);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(&out);
        previous = mac.finalize().into_bytes().to_vec();
        sqlx::query("UPDATE portcullis.entries SET mac = $3 WHERE chain_no = $1 AND seq = $2")
            .bind(chain_no)
            .bind(seq)
            .bind(&previous)
            .execute(pool)
            .await
            .unwrap();
    }
    sqlx::query(
        "UPDATE portcullis.chains c
            SET next_seq = e.seq + 1, head_mac = e.mac, recorded_at = e.recorded_at, key_id = e.key_id
           FROM (SELECT * FROM portcullis.entries WHERE chain_no = $1 ORDER BY seq DESC LIMIT 1) e
          WHERE c.chain_no = $1",
    )
    .bind(chain_no)
    .execute(pool)
    .await
    .unwrap();
}
