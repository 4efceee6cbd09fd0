//! What a round costs in CPU time: this process, and a server of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// CPU time that was used, here and there.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    here: Duration,
    server: Duration,
}

/// Reads it. Says nothing where there is no `/proc`, or the server is somebody else's.
#[derive(Clone)]
pub(crate) struct Meter {
    postmaster: Option<u32>,
}

impl Meter {
    pub(crate) fn of(data: Option<PathBuf>) -> Self {
        let read = |data: PathBuf| fs::read_to_string(data.join("postmaster.pid")).ok();
        let first = |text: String| text.lines().next()?.trim().parse().ok();
        Self {
            postmaster: data.and_then(read).and_then(first),
        }
    }

    pub(crate) fn read(&self) -> Cpu {
        let server = self.postmaster.map_or(Duration::ZERO, |postmaster| {
            let all = fs::read_dir("/proc").into_iter().flatten().flatten();
            all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
                .filter_map(|pid| stat(&pid.to_string()))
                .filter(|(parent, _)| *parent == postmaster)
                .map(|(_, used)| used)
                .sum()
        });
        let here = stat("self").map_or(Duration::ZERO, |(_, used)| used);
        Cpu { here, server }
    }
}

impl Cpu {
    pub(crate) fn add(&mut self, before: Self, after: Self) {
        self.here += after.here.saturating_sub(before.here);
        self.server += after.server.saturating_sub(before.server);
    }

    /// Microseconds of both for each of `events`.
    pub(crate) fn describe(&self, name: &str, events: usize) {
        let each = |used: Duration| used.as_secs_f64() * 1e6 / events as f64;
        let (here, server) = (each(self.here), each(self.server));
        println!("  {name}: {here:.2} us of CPU here and {server:.2} us in the server, an event");
    }
}

/// The parent of a process, and the CPU time that it has used.
fn stat(pid: &str) -> Option<(u32, Duration)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // In hundredths of a second, whatever the kernel's own clock does.
    Some((parent, Duration::from_millis(10 * (user + system))))
}
