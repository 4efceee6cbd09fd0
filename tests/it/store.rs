//! The ground against a real Postgres.

use portcullis::store::TestDatabase;

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let test = TestDatabase::fresh().await.unwrap();
    let again = test.database().migrate().await.unwrap();
    assert!(again.applied.is_empty());
    assert_eq!(again.version, 3);
}
