//! What the commands of operators share: whose order it is, and how long ago something was.

use std::time::Duration;

use clap::Args;
use portcullis::{Clock as _, OperatorId, SystemClock, Timestamp};

use crate::fault::Fault;

/// Whose order it is, and why: both stand in the trail for ever.
#[derive(Args, Debug)]
pub(crate) struct Given {
    /// Who gives the order, as user:ID: a pseudonym, and no agent's name. It is believed.
    #[arg(long, value_name = "USER")]
    by: String,
    /// Why, in one line.
    #[arg(long, value_name = "TEXT")]
    pub(crate) why: String,
}

impl Given {
    pub(crate) fn by(&self) -> Result<OperatorId, Fault> {
        OperatorId::parse(&self.by).map_err(Fault::during("read --by"))
    }
}

/// How long ago it was by the clock of this machine; the database's may be another one.
pub(crate) fn age(at: Timestamp) -> Duration {
    SystemClock::default().now().since(at)
}

/// A time that has passed, to the two units that matter.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// A cell of a table that may be empty.
pub(crate) fn or_none(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3_599, "59m 59s"),
            (3_661, "1h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), shown);
        }
    }
}
