//! The databases of a cluster.

use super::*;

#[tokio::test]
async fn databases_are_created_copied_and_dropped() {
    let scratch = Scratch::new();
    let cluster = throwaway(&scratch.dir()).await;
    let name = |name: &str| name.parse::<DatabaseName>().unwrap();
    let (template, copy) = (name("1_template"), name("copy"));
    cluster.create_database(&template).await.unwrap();
    let mut connection = cluster.options("1_template").connect().await.unwrap();
    sqlx::query("create table t ()")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    cluster.clone_database(&template, &copy).await.unwrap();
    let mut connection = PgConnection::connect(&cluster.url("copy")).await.unwrap();
    sqlx::query("select * from t")
        .execute(&mut connection)
        .await
        .unwrap();

    let error = cluster.create_database(&copy).await.unwrap_err();
    let EmbeddedError::Statement { sqlstate, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(sqlstate.as_deref(), Some("42P04"));
    cluster.drop_database(&copy).await.unwrap();
    cluster.drop_database(&copy).await.unwrap();
    assert!(connection.ping().await.is_err());
    for bad in ["", "A", "a-b", "a\"b", "ä", &"a".repeat(64)] {
        assert!(bad.parse::<DatabaseName>().is_err(), "{bad}");
    }
    let settings = [
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "listen_addresses",
        "max_connections",
    ];
    let mut connection = connect(&cluster).await;
    let mut shown = Vec::new();
    for setting in settings {
        let query = sqlx::query_scalar::<_, String>("select current_setting($1)").bind(setting);
        shown.push(query.fetch_one(&mut connection).await.unwrap());
    }
    assert_eq!(shown, ["off", "off", "off", "", "200"]);
    cluster.stop().await;
}
