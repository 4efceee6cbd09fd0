//! Waiting for a moment without sleeping.
//!
//! A line that is written ahead takes some two microseconds. To be put to sleep and woken takes more,
//! twice: the thread that writes, and who waits for it. So each looks for the other about as long as
//! that would take, and sleeps only then: at worst, it costs what sleeping costs. The thread stays
//! one that may hang with its disk, and nobody with it.

use std::hint::spin_loop;
use std::num::NonZero;
use std::sync::OnceLock;
use std::thread::available_parallelism;

/// How often to look; some ten microseconds in all.
const LOOKS: u32 = 400;

/// Looks whether something is `there` for a moment, where another processor can bring it about; says
/// whether it was.
pub(super) fn spin(mut there: impl FnMut() -> bool) -> bool {
    static LOOKING: OnceLock<bool> = OnceLock::new();
    let several = || available_parallelism().is_ok_and(|n| n > NonZero::<usize>::MIN);
    if !*LOOKING.get_or_init(several) {
        return there();
    }
    for _ in 0..LOOKS {
        if there() {
            return true;
        }
        spin_loop();
    }
    false
}
