//! What the tests share.

pub(crate) mod http;
pub(crate) mod journal;
pub(crate) mod ledger;
pub(crate) mod openai_gate;
pub(crate) mod openai_server;
pub(crate) mod proxy;
pub(crate) mod trail;
pub(crate) mod witness;

use portcullis::ConnectError;
use portcullis::audit::AuditKeys;
use portcullis::store::TestDatabase;
use portcullis::{AgentId, Database, Governance, Principal, Secret};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor};

/// The secret of all tests: random-looking, of no worth.
pub(crate) fn keys() -> AuditKeys {
    let secret = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
    AuditKeys::single(Secret::parse(secret).unwrap())
}

/// A handle over `database`.
pub(crate) async fn governance(database: &Database) -> Result<Governance, ConnectError> {
    Governance::builder(database.clone(), keys())
        .connect()
        .await
}

/// A principal for the agent `name`.
pub(crate) fn principal(name: &str) -> Principal {
    Principal::agent(AgentId::parse(name).unwrap())
}

/// A connection of the test's own, past all gates.
pub(crate) async fn connect(options: &PgConnectOptions) -> PgConnection {
    options.connect().await.unwrap()
}

/// A database without our schema.
pub(crate) async fn bare_database() -> TestDatabase {
    let test = TestDatabase::fresh().await.unwrap();
    connect(&test.options())
        .await
        .execute("DROP SCHEMA portcullis CASCADE")
        .await
        .unwrap();
    test
}

/// The URL of a test database, for a child process.
pub(crate) fn url(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap();
    match options.get_socket() {
        Some(socket) => format!(
            "postgres://{}@localhost:{}/{database}?host={}",
            options.get_username(),
            options.get_port(),
            socket.display()
        ),
        None => format!(
            "postgres://{}@{}:{}/{database}?host={}",
            options.get_username(),
            "localhost",
            options.get_port(),
            options.get_host()
        ),
    }
}
