//! Stand-in until the embedded cluster lands.
#![allow(missing_docs, clippy::all, clippy::pedantic, dead_code)]
use sqlx::postgres::PgConnectOptions;
use std::path::Path;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Full,
    Throwaway,
}
#[derive(Clone, Debug)]
pub struct Cluster;
#[derive(Debug, thiserror::Error)]
#[error("no embedded cluster yet")]
pub struct EmbeddedError;
impl Cluster {
    pub async fn start(_: impl AsRef<Path>) -> Result<Self, EmbeddedError> {
        Err(EmbeddedError)
    }
    pub async fn start_with(_: impl AsRef<Path>, _: Durability) -> Result<Self, EmbeddedError> {
        Err(EmbeddedError)
    }
    pub fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().database(database)
    }
}
