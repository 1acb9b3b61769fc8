//! What a schedule has met: how often each fault struck and each state that is worth meeting came
//! to be, in how many runs. A fault that never strikes tests nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// What every schedule of a thousand runs meets.
pub(crate) const EXPECTED: &[&str] = &[
    "fault: agent killed",
    "fault: agent killed between two effects",
    "fault: away for a while",
    "fault: collector crashed",
    "fault: control plane's clock set back",
    "fault: control plane's clock set forward",
    "fault: counters could not be read",
    "fault: desired state could not be loaded",
    "fault: disk cloned, both agents live",
    "fault: disk lost",
    "fault: disk set back to an older image",
    "fault: engine died and came back empty",
    "fault: engine died and did not come back at once",
    "fault: one engine could not be read",
    "state: an engine does not run",
    "fault: engine died and came back with its peers",
    "fault: host rebooted",
    "fault: node's wall clock set back",
    "fault: node's wall clock set forward",
    "fault: older database, declared",
    "fault: older database, not declared",
    "fault: partition",
    "fault: scheduler away",
    "fault: stream cut",
    "fault: time passed at once",
    "fault: transaction failed",
    "fault: written off before any restore",
    "fault: written off under the barrier",
    "operator: limit changed",
    "operator: multiplier changed",
    "operator: node drained or undrained",
    "operator: usage reset",
    "operator: user deleted",
    "operator: user disabled or enabled",
    "operator: user moved",
    "state: a batch came again",
    "state: a limit was reached",
    "state: a node gives back what it holds",
    "state: a node was written off and reports later",
    "state: a period rolled over",
    "state: a period was missed altogether",
    "state: a superseded stream wrote",
    "state: batches past retention declared lost",
    "state: counters of a new disk adopted",
    "state: fork found by a batch",
    "state: fork found by starts that alternate",
    "state: idle leases of a draining node asked back",
    "state: lease of a lost disk stranded",
    "state: lease taken up that was not on record",
    "state: more was used than the limit",
    "state: removals held for a person",
    "state: restore barrier down because a node was written off",
    "state: restore barrier down by reports",
    "state: restore found by a Hello",
    "state: segments asked for",
    "state: usage of an unknown period",
    "state: users run dry while others hold more",
];

thread_local! {
    static SEEN: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Something happened in the run of this thread.
pub(crate) fn saw(what: &'static str) {
    SEEN.with_borrow_mut(|seen| *seen.entry(what).or_default() += 1);
}

pub(crate) fn saw_if(happened: bool, what: &'static str) {
    if happened {
        saw(what);
    }
}

/// What happened since this was last asked on this thread.
fn take() -> BTreeMap<&'static str, u64> {
    SEEN.take()
}

/// Of many runs.
#[derive(Default)]
pub(crate) struct Coverage {
    runs: u64,
    seen: BTreeMap<&'static str, (u64, u64)>,
}

impl Coverage {
    /// Counts the run that has just ended on this thread.
    pub(crate) fn count_run(&mut self) {
        self.runs += 1;
        for (what, times) in take() {
            let (all, runs) = self.seen.entry(what).or_default();
            *all += times;
            *runs += 1;
        }
    }

    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let expected = EXPECTED.iter().copied();
        expected
            .filter(|what| !self.seen.contains_key(what))
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>10} {:>10}  of {} runs",
            "times", "in runs", self.runs
        )?;
        for (what, (times, runs)) in &self.seen {
            writeln!(f, "{times:>10} {runs:>10}  {what}")?;
        }
        Ok(())
    }
}
