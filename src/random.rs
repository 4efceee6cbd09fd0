//! Randomness for ids, fetched from the operating system in blocks.
//!
//! A call into the kernel for each id costs more than everything else about one. Keys and tokens do
//! not come from here: what must not be guessed is drawn for itself, and wiped.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

/// Enough for 51 ids.
const BLOCK: usize = 512;

struct Pool {
    bytes: [u8; BLOCK],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; BLOCK], used: BLOCK }) };
}

/// A new UUIDv7 ([RFC 9562], section 5.7). Ids of one process sort by the time they were made, to a
/// quarter of a microsecond (its section 6.2, method 3).
///
/// [RFC 9562]: https://www.rfc-editor.org/rfc/rfc9562
pub(crate) fn uuid_v7() -> Uuid {
    #[expect(
        clippy::disallowed_methods,
        reason = "an id's time orders an index; what is recorded comes from the `Clock`"
    )]
    let now = SystemTime::now();
    // A clock before 1970 gives ids that sort badly, and are as unique.
    uuid_v7_at(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The same, of a time since 1970 that has been read already.
pub(crate) fn uuid_v7_at(now: Duration) -> Uuid {
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let Some(random) = take() else {
        // Without the system's randomness: the `uuid` crate decides, and panics, as `std` does.
        return Uuid::now_v7();
    };
    let mut bytes = [0; 10];
    let (first, rest) = bytes.split_at_mut(2);
    first.copy_from_slice(&fraction(now.subsec_nanos() % 1_000_000).to_be_bytes());
    rest.copy_from_slice(&random);
    Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

/// What part of a millisecond has gone, in 4,096ths.
fn fraction(nanos: u32) -> u16 {
    u16::try_from(u64::from(nanos) * 4_096 / 1_000_000).unwrap_or(4_095)
}

/// Eight bytes that nobody else gets.
fn take() -> Option<[u8; 8]> {
    POOL.with_borrow_mut(|pool| {
        if pool.used >= BLOCK {
            getrandom::fill(&mut pool.bytes).ok()?;
            pool.used = 0;
        }
        let taken = pool.bytes.get(pool.used..)?.first_chunk().copied()?;
        pool.used += 8;
        Some(taken)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_version_7_and_never_repeat_across_threads() {
        let many = || (0..20_000).map(|_| uuid_v7()).collect::<Vec<_>>();
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(many)).collect();
            let ids = threads.into_iter().map(|thread| thread.join().unwrap());
            ids.flatten().collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert!(
            ids.iter()
                .all(|id| id.get_variant() == uuid::Variant::RFC4122)
        );
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let first = uuid_v7();
        std::thread::sleep(Duration::from_micros(50));
        assert!(first < uuid_v7());
    }

    #[test]
    fn a_millisecond_has_4096_parts() {
        assert_eq!(fraction(0), 0);
        assert_eq!(fraction(500_000), 2_048);
        assert_eq!(fraction(999_999), 4_095);
    }
}
