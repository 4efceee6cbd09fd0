//! A process of its own that does nothing but look whether a promise is broken, at every moment.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use crate::orders::Orders;

/// How many looks are told at once.
const TOLD: u32 = 20;

/// Windows in which more is taken than their limit, but for what calls cost beyond their ceilings.
pub(crate) const BROKEN: &str = "
    SELECT w.budget || ' ' || w.window_key
      FROM portcullis.budget_windows w
     WHERE w.settled_usd + w.held_usd > w.usd_limit + w.raised_usd + w.overrun_usd
        OR w.settled_tokens + w.held_tokens > w.token_limit + w.raised_tokens + w.overrun_tokens
        OR w.settled_calls + w.held_calls > w.call_limit + w.raised_calls + w.overrun_calls
        OR least(w.settled_usd, w.held_usd, w.settled_tokens, w.held_tokens, w.settled_calls,
                 w.held_calls) < 0";

pub(crate) async fn watch(orders: &Orders) {
    let options: PgConnectOptions = orders.url.parse().unwrap();
    loop {
        let _ = look(&options.clone().disable_statement_logging()).await;
        // The server is away.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn look(options: &PgConnectOptions) -> Result<Infallible, sqlx::Error> {
    let mut connection = options.connect().await?;
    let mut looks = 0;
    loop {
        let broken: Vec<String> = sqlx::query_scalar(BROKEN)
            .fetch_all(&mut connection)
            .await?;
        for window in broken {
            println!("broken {window}");
        }
        looks += 1;
        if looks == TOLD {
            println!("looked {looks}");
            looks = 0;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
