//! What an edit looks like to `verify`: in a copy of the database, which is dropped afterwards.

use std::error::Error;

use portcullis::audit::AuditKeys;
use portcullis::store::embedded::{Cluster, DatabaseName};
use portcullis::{Database, Governance, Principal};
use sqlx::{ConnectOptions as _, Connection as _};

/// Edits one entry behind the gates' back, as an administrator of the database could, and verifies.
pub(crate) async fn edit_a_copy(
    cluster: &Cluster,
    original: &DatabaseName,
    keys: AuditKeys,
    me: &Principal,
) -> Result<(), Box<dyn Error>> {
    let copy: DatabaseName = "quickstart_edited".parse()?;
    cluster.drop_database(&copy).await?;
    cluster.clone_database(original, &copy).await?;

    let mut administrator = cluster.options(copy.as_str()).connect().await?;
    sqlx::query("ALTER TABLE portcullis.entries DISABLE TRIGGER ALL")
        .execute(&mut administrator)
        .await?;
    let (chain_no, seq): (i32, i64) = sqlx::query_as(
        "UPDATE portcullis.entries
            SET metadata = replace(metadata, 'send_email', 'read_email')
          WHERE session_id = $1 AND kind = 'tool.call.started' AND metadata LIKE '%send_email%'
         RETURNING chain_no, seq",
    )
    .bind(me.session_id().as_str())
    .fetch_one(&mut administrator)
    .await?;
    administrator.close().await?;
    println!("edited: entry {seq} of chain {chain_no} now says read_email instead of send_email");

    let database = Database::options(cluster.options(copy.as_str()));
    let gov = Governance::builder(database.clone(), keys)
        .connect()
        .await?;
    print!("{}", gov.audit().verify_all().await?);

    gov.shutdown().await;
    database.connect_pool().await?.close().await;
    cluster.drop_database(&copy).await?;
    Ok(())
}
