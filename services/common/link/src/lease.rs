//! Leases as they travel. A lease is one node's share of one user's period: the node lets
//! traffic through up to the allowance and stops there by itself, whether or not the control
//! plane can be reached. All amounts are billable micro-bytes and totals since the lease began,
//! so that repeating a message changes nothing.

use serde::{Deserialize, Serialize};
use vpnpanel_domain::{LeaseId, MicroBytes, PeriodId, UserId};

/// An allowance, from the control plane: new, grown, or (lower than before) asked back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The user.
    pub user: UserId,
    /// The period.
    pub period: PeriodId,
    /// The lease.
    pub lease: LeaseId,
    /// Grows with each change; only an answer to the newest version counts.
    pub version: u64,
    /// What the node may let through in all.
    pub allowance: MicroBytes,
}

/// What the agent holds of a lease, from the agent, after it is durable there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// The user.
    pub user: UserId,
    /// The period.
    pub period: PeriodId,
    /// The lease.
    pub lease: LeaseId,
    /// The newest version that is durable.
    pub version: u64,
    /// The allowance in force; for a shrink `max(asked, consumed)`.
    pub allowance: MicroBytes,
    /// What was let through, in all, and what was charged for counters that were lost.
    pub consumed: MicroBytes,
}

impl LeaseState {
    /// What may still be let through.
    pub const fn remaining(&self) -> MicroBytes {
        self.allowance.saturating_sub(self.consumed)
    }
}
