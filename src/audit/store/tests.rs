use sqlx::{ConnectOptions, Executor};

use super::{append, lineage, read};
use crate::store::TestDatabase;

/// Those that macros make of parts; `it::statements` prepares what stands in the source.
#[tokio::test]
async fn every_composed_statement_fits_the_schema() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut connection = test.options().connect().await.unwrap();
    let statements: Vec<&str> = read::COMPOSED
        .into_iter()
        .flatten()
        .chain(lineage::COMPOSED)
        .chain(append::COMPOSED)
        .collect();
    assert_eq!(statements.len(), 16);
    for statement in statements {
        let prepare = sqlx::AssertSqlSafe(format!("PREPARE probe AS {statement}"));
        connection
            .execute(prepare)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{statement}"));
        connection.execute("DEALLOCATE probe").await.unwrap();
    }
}
