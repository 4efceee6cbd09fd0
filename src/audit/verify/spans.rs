//! Which entries of a chain are proved and which are not, as runs.

/// The most runs that are kept.
const MOST: usize = 1_000;

/// Entries next to each other that are all proved, or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) proved: bool,
}

/// Runs in the order of their places. Where there are more than fit, the rest counts as not proved:
/// a report may say too little, never too much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    runs: Vec<Run>,
}

impl Spans {
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Takes the next entry. Of two at one place both must be proved.
    pub(super) fn add(&mut self, seq: u64, proved: bool) {
        let full = self.runs.len() >= MOST;
        match self.runs.last_mut() {
            Some(last) if seq <= last.to => {
                if !proved {
                    self.set(seq, seq, false);
                }
            }
            Some(last) if last.to + 1 == seq && last.proved == proved => last.to = seq,
            Some(last) if full => (last.to, last.proved) = (seq, false),
            _ => self.runs.push(Run {
                from: seq,
                to: seq,
                proved,
            }),
        }
    }

    /// Says of entries that were taken whether they are proved after all; how many it changed.
    pub(super) fn set(&mut self, from: u64, to: u64, proved: bool) -> u64 {
        let mut changed = 0;
        let mut runs: Vec<Run> = Vec::with_capacity(self.runs.len() + 2);
        for run in std::mem::take(&mut self.runs) {
            let (first, last) = (run.from.max(from), run.to.min(to));
            if first > last || run.proved == proved {
                push(&mut runs, run);
                continue;
            }
            changed += last - first + 1;
            if run.from < first {
                push(
                    &mut runs,
                    Run {
                        to: first - 1,
                        ..run
                    },
                );
            }
            push(
                &mut runs,
                Run {
                    from: first,
                    to: last,
                    proved,
                },
            );
            if last < run.to {
                push(
                    &mut runs,
                    Run {
                        from: last + 1,
                        ..run
                    },
                );
            }
        }
        if runs.len() > MOST {
            let end = runs.last().map_or(0, |run| run.to);
            runs.truncate(MOST);
            if let Some(last) = runs.last_mut() {
                (last.to, last.proved) = (end, false);
            }
        }
        self.runs = runs;
        changed
    }
}

/// Joins what belongs together.
fn push(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.to + 1 == run.from && last.proved == run.proved => last.to = run.to,
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spans: &Spans) -> Vec<(u64, u64, bool)> {
        let runs = spans.runs().iter();
        runs.map(|run| (run.from, run.to, run.proved)).collect()
    }

    #[test]
    fn runs_are_joined_split_and_never_overlap() {
        let mut spans = Spans::default();
        for seq in 1..=9 {
            spans.add(seq, seq != 4);
        }
        assert_eq!(shown(&spans), [(1, 3, true), (4, 4, false), (5, 9, true)]);
        assert_eq!(spans.set(4, 4, true), 1);
        assert_eq!(shown(&spans), [(1, 9, true)]);
        assert_eq!(spans.set(3, 5, false), 3);
        assert_eq!(shown(&spans), [(1, 2, true), (3, 5, false), (6, 9, true)]);
        // What is missing is in no run, and a second entry at a place proves nothing.
        spans.add(12, true);
        spans.add(12, false);
        assert_eq!(shown(&spans)[3..], [(12, 12, false)]);
    }

    #[test]
    fn what_does_not_fit_is_not_proved() {
        let mut spans = Spans::default();
        for seq in 0..10_000 {
            spans.add(seq, seq % 2 == 0);
        }
        assert_eq!(spans.runs().len(), MOST);
        assert_eq!(shown(&spans)[MOST - 1], (999, 9_999, false));
    }
}
