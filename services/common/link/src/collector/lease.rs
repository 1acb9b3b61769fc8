//! How much a node may let through by itself. One inequality holds after every function here,
//! for every period with a limit:
//!
//! ```text
//! used + Σ over its leases of max(0, allowance − billed)  ≤  limit
//! ```
//!
//! unless the limit itself was lowered or usage came that no lease covered; then nothing is
//! granted until it holds again. `PeriodFacts::reserved` is the sum, kept up to date by each
//! function, so that none has to load the leases of other nodes. What is reserved is freed by
//! being billed or by the agent's answer, never by time.

use vpnpanel_domain::{LeaseId, MicroBytes, NodeId, PeriodId};

use super::restore::Standing;
use super::{LeaseFacts, PeriodFacts};
use crate::{Generation, Grant, LeaseState, StateEpoch};

const MIB: u64 = 1024 * 1024;

/// How leases are sized. All amounts in billable bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Least that a node is given ahead of a user's traffic, where the limit allows.
    pub ahead_min: u64,
    /// Most that a node is given ahead of a user's traffic.
    pub ahead_max: u64,
    /// A user's share to begin with is limit / `initial_share`, within the two above.
    pub initial_share: u64,
    /// Traffic of how many milliseconds, at the present rate, a node is given ahead.
    pub horizon_ms: u64,
    /// Grants are not cut into smaller pieces than this when the limit is near.
    pub step_min: u64,
    /// Raw bytes per second that a node's line can carry: more is held for a person to see.
    pub line_rate: u64,
    /// Time for which a batch may carry line rate even when it says it was written at once.
    pub line_burst_ms: u64,
}

/// Under which terms something is granted.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How leases are sized.
    pub policy: &'a Policy,
    /// Versions are drawn under the installation's epoch; while it is held nothing is granted.
    pub standing: Standing,
}

/// What became of a wish for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// The lease has enough ahead, or its period grants nothing.
    Enough,
    /// The allowance was raised: send [`grant`].
    Grown,
    /// There is nothing to give, but the period has idle reserves on other nodes.
    Starved,
}

/// Opens a lease with what a user gets to begin with; possibly nothing, then it grows when
/// something is free.
pub fn open(
    period: &mut PeriodFacts,
    lease: LeaseId,
    terms: &Terms<'_>,
    now_ms: i64,
) -> LeaseFacts {
    let mut facts = LeaseFacts {
        lease,
        user: period.user,
        version: 0,
        answered: 0,
        allowance: MicroBytes::ZERO,
        asked: None,
        billed: MicroBytes::ZERO,
        consumed: MicroBytes::ZERO,
        moved_at_ms: now_ms,
        named: Generation(0),
    };
    grow(period, &mut facts, terms, 0);
    // A version also where nothing was free, so that the agent learns the lease's id.
    facts.version = terms.standing.epoch.after(0);
    facts
}

/// Raises an allowance where less than half of what should lie ahead is left. `rate` is the
/// user's present rate on the node, billable bytes per second.
pub fn grow(
    period: &mut PeriodFacts,
    lease: &mut LeaseFacts,
    terms: &Terms<'_>,
    rate: u64,
) -> Growth {
    let policy = terms.policy;
    let (Some(limit), Some(available)) = (period.limit.micro(), period.available()) else {
        return Growth::Enough;
    };
    if !period.open || terms.standing.held {
        return Growth::Enough;
    }
    let ahead = ahead(limit, policy, rate);
    let remaining = lease.remaining();
    if remaining.get() >= ahead.get() / 2 && !ahead.is_zero() {
        return Growth::Enough;
    }
    // Half of what is free, so that other nodes find some too, but not in crumbs.
    let step = MicroBytes::new(available.get() / 2)
        .max(MicroBytes::from_bytes(policy.step_min))
        .min(available);
    let more = ahead.saturating_sub(remaining).min(step);
    if more.is_zero() {
        let elsewhere = period.reserved > lease.reserved();
        return if elsewhere {
            Growth::Starved
        } else {
            Growth::Enough
        };
    }
    change(period, lease, |lease| {
        lease.allowance += more;
        lease.asked = None;
        lease.version = terms.standing.epoch.after(lease.version);
    });
    Growth::Grown
}

/// Takes a report of the agent. Only an answer to the newest version frees anything, and that
/// only where something may be freed at all (`frees`); a larger allowance than is on record (the
/// database is older than the agent) is reserved at once. Returns whether the lease changed.
pub fn answer(
    period: &mut PeriodFacts,
    lease: &mut LeaseFacts,
    state: &LeaseState,
    frees: bool,
    now_ms: i64,
) -> bool {
    if state.lease != lease.lease {
        return false;
    }
    let before = *lease;
    change(period, lease, |lease| {
        lease.consumed = lease.consumed.max(state.consumed);
        lease.moved_at_ms = lease.moved_at_ms.max(now_ms);
        if state.version > lease.version {
            lease.version = state.version;
            lease.allowance = lease.allowance.max(state.allowance);
            lease.asked = None;
        }
        if !frees {
            // What could be freed is not answered for yet: the grant goes out again later.
            let settled = lease.asked.is_none() && state.allowance >= lease.allowance;
            lease.allowance = lease.allowance.max(state.allowance);
            if !settled {
                return;
            }
        } else if state.version == lease.version {
            lease.allowance = if lease.asked.is_some() || state.allowance <= lease.allowance {
                state.allowance.max(lease.billed).min(lease.allowance)
            } else {
                state.allowance
            };
            lease.asked = None;
        }
        lease.answered = lease.answered.max(state.version);
    });
    LeaseFacts {
        moved_at_ms: before.moved_at_ms,
        ..*lease
    } != before
}

/// Counts usage of the period from the lease's node, which is no longer reserved then.
pub fn bill(period: &mut PeriodFacts, lease: &mut LeaseFacts, billed: MicroBytes, now_ms: i64) {
    change(period, lease, |lease| {
        lease.billed += billed;
        lease.moved_at_ms = lease.moved_at_ms.max(now_ms);
    });
}

/// Spreads what is free among a period's leases after a change of its limit: first to those that
/// have run dry. For those that stay so, it asks back from leases that lie idle, and from those
/// that hold more than twice a fair share of what is left. `leases` are current ones of nodes that
/// are trusted; returns the nodes whose lease changed.
pub fn rebalance(
    period: &mut PeriodFacts,
    leases: &mut [(NodeId, LeaseFacts)],
    terms: &Terms<'_>,
    now_ms: i64,
) -> Vec<NodeId> {
    let mut changed = Vec::new();
    if terms.standing.held {
        return changed;
    }
    let policy = terms.policy;
    let mut dry = false;
    for first in [true, false] {
        for (node, lease) in leases.iter_mut() {
            if lease.remaining().is_zero() != first {
                continue;
            }
            match grow(period, lease, terms, 0) {
                Growth::Grown => changed.push(*node),
                Growth::Starved if lease.remaining().is_zero() => dry = true,
                Growth::Starved | Growth::Enough => {}
            }
        }
    }
    if dry {
        let fair = fair_share(period, leases);
        for (node, lease) in leases.iter_mut() {
            if lease.asked.is_some() {
                continue;
            }
            if let Some(keep) = keep(lease, fair, policy, now_ms) {
                lease.asked = Some(lease.billed.max(lease.consumed) + keep);
                lease.version = terms.standing.epoch.after(lease.version);
                changed.push(*node);
            }
        }
    }
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// What each lease would have left if all had the same.
fn fair_share(period: &PeriodFacts, leases: &[(NodeId, LeaseFacts)]) -> MicroBytes {
    let free = period.available().unwrap_or(MicroBytes::ZERO);
    let left = leases
        .iter()
        .fold(free, |left, (_, lease)| left + lease.remaining());
    MicroBytes::new(left.get() / leases.len().max(1) as u128)
}

/// What a lease may keep of what it has left while others have run dry; `None` is all of it.
fn keep(lease: &LeaseFacts, fair: MicroBytes, policy: &Policy, now_ms: i64) -> Option<MicroBytes> {
    let remaining = lease.remaining();
    let step_min = MicroBytes::from_bytes(policy.step_min);
    // Not all at once: it may wake up, or need it, before the answer comes.
    let half = MicroBytes::new(remaining.get() / 2);
    let idle = now_ms.saturating_sub(lease.moved_at_ms) >= policy.horizon_ms as i64;
    if idle {
        let crumb = half < step_min;
        (!remaining.is_zero()).then_some(if crumb { MicroBytes::ZERO } else { half })
    } else {
        let rich = half > fair && half >= step_min;
        rich.then_some(half)
    }
}

/// Asks back all that a lease holds and has not consumed; says whether that is anything. It is free
/// once the node has answered.
pub fn ask_back(lease: &mut LeaseFacts, terms: &Terms<'_>) -> bool {
    if terms.standing.held || lease.asked.is_some() || lease.remaining().is_zero() {
        return false;
    }
    lease.asked = Some(lease.billed.max(lease.consumed));
    lease.version = terms.standing.epoch.after(lease.version);
    true
}

/// Frees what a lease still holds: an operator's decision about a lost node, whose later reports
/// show as overrun, or that the node has said it does not hold it.
pub fn write_off(period: &mut PeriodFacts, lease: &mut LeaseFacts, epoch: StateEpoch) {
    change(period, lease, |lease| {
        lease.allowance = lease.billed;
        lease.asked = None;
        lease.version = epoch.after(lease.version);
    });
}

/// The lease as the agent is told of it: the smaller allowance where one is asked for.
pub fn grant(period: PeriodId, lease: &LeaseFacts) -> Grant {
    Grant {
        user: lease.user,
        period,
        lease: lease.lease,
        version: lease.version,
        allowance: lease.asked.unwrap_or(lease.allowance),
    }
}

/// What should lie ahead of a user's traffic on a node.
fn ahead(limit: MicroBytes, policy: &Policy, rate: u64) -> MicroBytes {
    let initial = limit
        .floor_bytes()
        .checked_div(policy.initial_share)
        .unwrap_or(0);
    let flowing = u128::from(rate) * u128::from(policy.horizon_ms) / 1_000;
    let flowing = u64::try_from(flowing).unwrap_or(u64::MAX);
    let bytes = initial
        .max(flowing)
        .clamp(policy.ahead_min, policy.ahead_max);
    MicroBytes::from_bytes(bytes)
}

/// Changes a lease and keeps the period's sum of reserves true.
fn change(period: &mut PeriodFacts, lease: &mut LeaseFacts, how: impl FnOnce(&mut LeaseFacts)) {
    let before = lease.reserved();
    how(lease);
    period.reserved = (period.reserved + lease.reserved()).saturating_sub(before);
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ahead_min: 16 * MIB,
            ahead_max: 4096 * MIB,
            initial_share: 64,
            horizon_ms: 20_000,
            step_min: MIB,
            line_rate: 5_000_000_000,
            line_burst_ms: 60_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use vpnpanel_domain::{Limit, TenantId, UserId};

    use super::*;
    use crate::collector::Standing;
    use crate::{Generation, StateEpoch};

    fn mib(amount: u64) -> MicroBytes {
        MicroBytes::from_bytes(amount * MIB)
    }

    /// A period of which leases hold so many MiB and nothing else is free.
    fn leased(held: &[u64]) -> (PeriodFacts, Vec<(NodeId, LeaseFacts)>) {
        let user = UserId::from_parts(1, [0; 10]);
        let all = held.iter().sum::<u64>();
        let period = PeriodFacts {
            user,
            tenant: TenantId::from_parts(1, [0; 10]),
            limit: Limit::from_wire(all * MIB),
            used: MicroBytes::ZERO,
            reserved: mib(all),
            open: true,
            over: false,
        };
        let leases = held.iter().zip(1..).map(|(held, n)| {
            let lease = LeaseFacts {
                lease: LeaseId::from_parts(n, [0; 10]),
                user,
                version: 1,
                answered: 1,
                allowance: mib(*held),
                asked: None,
                billed: MicroBytes::ZERO,
                consumed: MicroBytes::ZERO,
                moved_at_ms: 0,
                named: Generation(0),
            };
            (NodeId::from_parts(n, [0; 10]), lease)
        });
        (period, leases.collect())
    }

    /// Nothing is held back.
    fn calm(policy: &Policy) -> Terms<'_> {
        Terms {
            policy,
            standing: Standing {
                epoch: StateEpoch(1),
                held: false,
            },
        }
    }

    #[test]
    fn a_dry_node_gets_its_share_of_what_others_hold_and_use() {
        let (mut period, mut leases) = leased(&[16, 8, 0, 0]);
        let policy = Policy::default();
        let terms = calm(&policy);
        let limit = period.limit.micro().unwrap();
        for round in 0..20 {
            rebalance(&mut period, &mut leases, &terms, 1_000);
            for (_, lease) in &mut leases {
                let state = LeaseState {
                    user: lease.user,
                    period: PeriodId::from_parts(1, [0; 10]),
                    lease: lease.lease,
                    version: lease.version,
                    allowance: lease.asked.unwrap_or(lease.allowance),
                    consumed: lease.consumed,
                };
                answer(&mut period, lease, &state, true, 1_000);
            }
            assert!(period.reserved <= limit, "round {round}");
        }
        rebalance(&mut period, &mut leases, &terms, 1_000);
        for (_, lease) in &leases {
            assert!(lease.remaining() >= mib(1), "{leases:#?}");
            assert!(lease.remaining() <= mib(12), "{leases:#?}");
        }
    }

    #[test]
    fn nothing_is_asked_back_while_nobody_is_dry() {
        let (mut period, mut leases) = leased(&[16, 1]);
        let policy = Policy::default();
        let asked = rebalance(&mut period, &mut leases, &calm(&policy), 60_000_000);
        assert!(asked.is_empty());
    }
}
