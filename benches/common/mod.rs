//! The server that a benchmark measures on.

use std::path::PathBuf;

use portcullis::store::embedded::{Cluster, Durability};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

const URL: &str = "PORTCULLIS_BENCH_DATABASE_URL";

/// The server that `PORTCULLIS_BENCH_DATABASE_URL` names, or one of our own, durable, in a directory
/// that goes with it.
pub(crate) struct Server {
    options: PgConnectOptions,
    own: Option<(Cluster, PathBuf)>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        if let Ok(url) = std::env::var(URL) {
            let options = url.parse().unwrap();
            return Self { options, own: None };
        }
        let directory =
            std::env::temp_dir().join(format!("portcullis-bench-{}", std::process::id()));
        let cluster = Cluster::start_with(&directory, Durability::Full)
            .await
            .unwrap();
        Self {
            options: cluster.options("postgres"),
            own: Some((cluster, directory)),
        }
    }

    /// Whether it is nobody else's.
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub(crate) const fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Where its files are, if it is ours.
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub(crate) fn data(&self) -> Option<PathBuf> {
        let (_, directory) = self.own.as_ref()?;
        Some(directory.join("data"))
    }

    /// For an administrator.
    #[allow(dead_code, reason = "not every benchmark needs one")]
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// An empty database of this name, whatever was in it.
    pub(crate) async fn database(&self, name: &'static str) -> PgConnectOptions {
        let mut admin = self.options.connect().await.unwrap();
        for sql in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0"),
        ] {
            #[allow(clippy::disallowed_types, reason = "a name of our own")]
            let sql = sqlx::AssertSqlSafe(sql);
            sqlx::query(sql).execute(&mut admin).await.unwrap();
        }
        admin.close().await.unwrap();
        self.options.clone().database(name)
    }

    /// Stops it and removes what it wrote, if it is ours: a benchmark leaves gigabytes.
    pub(crate) async fn stop(self) {
        if let Some((cluster, directory)) = self.own {
            cluster.stop().await;
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
