//! Leases on the node: who may pass, and how far. The node stops a user at the allowance by
//! itself, in the kernel where it can; whatever the control plane asks or grants is durable here
//! before it is answered.

use std::collections::BTreeSet;

use vpnpanel_domain::{MicroBytes, PeerId, PeriodId, UserId};

use super::{Agent, CounterRecord, Effect, Gate, Now, Ticket, Write};
use crate::{CounterKey, DesiredUser, Grant, Incarnation, LeaseState, Up};

/// Leases in one message.
const REPORT_LEASES: usize = 4_096;

/// Leases that fit into Hello.
const HELLO_LEASES: usize = 16_384;

/// A gate as it was last set: a quota by where it cuts, which does not move while traffic flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Open,
    CutAt(u64),
    Blocked,
}

impl Agent {
    /// Takes a grant: makes it durable, changes the gate, then answers. A smaller allowance than
    /// before takes effect at once, but is answered only after the counters were read, because
    /// the answer says what was consumed.
    pub(super) fn take_grant(&mut self, grant: Grant) {
        let of = (grant.user, grant.period);
        match self.durable.leases.get(&of).copied() {
            Some(known) if known.lease == grant.lease && grant.version <= known.version => {
                // A repetition is answered again; an older one is not.
                if grant.version == known.version {
                    self.allowances.reports.insert(of);
                }
            }
            Some(known) if known.lease == grant.lease && grant.allowance < known.allowance => {
                let ticket = self.read_counters();
                self.allowances.shrinks.insert(of, (grant, ticket));
            }
            Some(known) if known.lease == grant.lease => {
                self.allowances.shrinks.remove(&of);
                let Grant {
                    version, allowance, ..
                } = grant;
                self.write(Write::Lease(LeaseState {
                    version,
                    allowance,
                    ..known
                }));
                self.allowances.reports.insert(of);
            }
            _ => {
                self.allowances.shrinks.remove(&of);
                self.write(Write::Lease(LeaseState {
                    user: grant.user,
                    period: grant.period,
                    lease: grant.lease,
                    version: grant.version,
                    allowance: grant.allowance,
                    consumed: MicroBytes::ZERO,
                }));
                self.allowances.reports.insert(of);
                self.charge_from_now(grant.user, grant.period);
            }
        }
        self.allowances.departed = true;
    }

    /// What the user's counters show from their baselines on is charged to the lease that just
    /// came: the gate opens by it before the next reading.
    fn charge_from_now(&mut self, user: UserId, period: PeriodId) {
        let Some(incarnation) = self.engine.incarnation else {
            return;
        };
        let peers = self.desired.as_ref().and_then(|d| d.users.get(&user));
        let keys: Vec<_> = peers
            .into_iter()
            .flat_map(|user| &user.peers)
            .map(|peer| CounterKey {
                incarnation,
                peer: peer.id,
            })
            .collect();
        for key in keys {
            let Some(record) = self.durable.counters.get(&key) else {
                continue;
            };
            let (_, attribution) = record.baseline();
            if (attribution.user, attribution.period) == (user, period) && !attribution.leased {
                let record = record.charged_from_here();
                self.write(Write::Counter(key, record));
            }
        }
    }

    /// Answers shrinks whose counters have been read.
    pub(super) fn settle_shrinks(&mut self, ticket: Ticket) {
        let ready: Vec<_> = self
            .allowances
            .shrinks
            .iter()
            .filter(|(_, (_, needs))| *needs <= ticket)
            .map(|(of, (grant, _))| (*of, *grant))
            .collect();
        for (of, grant) in ready {
            self.allowances.shrinks.remove(&of);
            if let Some(known) = self.durable.leases.get(&of).copied() {
                let allowance = grant.allowance.max(known.consumed).min(known.allowance);
                let version = grant.version;
                self.write(Write::Lease(LeaseState {
                    version,
                    allowance,
                    ..known
                }));
                self.allowances.reports.insert(of);
            }
        }
    }

    /// Gives back what users and periods that left this node have not consumed, once nothing is
    /// counted for them any more.
    pub(super) fn settle_departed(&mut self) {
        if !std::mem::take(&mut self.allowances.departed) {
            return;
        }
        let Some(desired) = &self.desired else { return };
        let mut counting = BTreeSet::new();
        for peer in self.engine.installed.keys() {
            let Some(incarnation) = self.engine.incarnation else {
                break;
            };
            if let Some(record) = self.durable.counters.get(&CounterKey {
                incarnation,
                peer: *peer,
            }) {
                let attribution = record.baseline().1;
                counting.insert((attribution.user, attribution.period));
            }
        }
        let given_back: Vec<_> = self
            .durable
            .leases
            .values()
            .filter(|lease| !desired.expects(lease.user, lease.period))
            .filter(|lease| !lease.remaining().is_zero())
            .copied()
            .collect();
        for lease in given_back {
            if counting.contains(&(lease.user, lease.period)) {
                // Still on the books of an installed peer: looked at again after the next read.
                self.allowances.departed = true;
                continue;
            }
            self.write(Write::Lease(LeaseState {
                allowance: lease.consumed,
                ..lease
            }));
            self.allowances.reports.insert((lease.user, lease.period));
        }
    }

    /// Charges what may have passed unread when counters were lost: at line rate since they
    /// were last read, and never given back.
    pub(super) fn charge_lost(&mut self, lost: Incarnation, since_ms: i64) {
        let ms = u128::from(since_ms.max(0).unsigned_abs());
        let raw = u128::from(self.settings.line_rate) * ms / 1_000;
        let raw = u64::try_from(raw).unwrap_or(u64::MAX);
        let counted: BTreeSet<_> = self
            .durable
            .counters
            .iter()
            .filter(|(key, _)| key.incarnation == lost)
            .map(|(_, record)| record.baseline().1)
            .map(|attribution| (attribution.user, attribution.period))
            .collect();
        let charges: Vec<_> = self
            .durable
            .leases
            .values()
            .filter(|lease| !lease.remaining().is_zero())
            .filter(|lease| counted.contains(&(lease.user, lease.period)))
            .map(|lease| {
                let multiplier = self.desired.as_ref().map(|desired| desired.multiplier);
                let most = multiplier.unwrap_or_default().bill(raw);
                let consumed = lease.consumed + lease.remaining().min(most);
                LeaseState { consumed, ..*lease }
            })
            .collect();
        for lease in charges {
            self.allowances.reports.insert((lease.user, lease.period));
            self.write(Write::Lease(lease));
        }
    }

    /// Sets the gates of these users that differ from what was set last; `None` is everybody.
    pub(super) fn set_gates(&mut self, users: Option<&[UserId]>, now: Now) {
        let Some(desired) = &self.desired else { return };
        let server_ms = self.server_ms(now);
        let mut changes = Vec::new();
        let mut held = Vec::new();
        let mut behind = false;
        let all = users.is_none().then(|| desired.users.values());
        let some = users.map(|users| users.iter().filter_map(|id| desired.users.get(id)));
        for user in all.into_iter().flatten().chain(some.into_iter().flatten()) {
            let period = self.charged_period(user, server_ms);
            let gate = self.gate(user, period, server_ms);
            behind |= period != user.period_at(server_ms);
            let key = match gate {
                Gate::Open => Held::Open,
                Gate::Quota { remaining, counted } => {
                    Held::CutAt(counted.saturating_add(remaining))
                }
                Gate::Blocked => Held::Blocked,
            };
            if self.allowances.gates.get(&user.id) != Some(&key) {
                held.push((user.id, key));
                changes.push((user.id, gate));
            }
        }
        self.allowances.gates.extend(held);
        if behind {
            // The books are taken to the period in force now, and the gates with them.
            self.next_poll_ms = self.next_poll_ms.min(now.boottime_ms);
        }
        if !changes.is_empty() {
            self.commit();
            self.out.push(Effect::Gates(changes));
        }
    }

    /// How far a user passes whose traffic is charged to a period.
    fn gate(&self, user: &DesiredUser, period: PeriodId, server_ms: i64) -> Gate {
        let ended = user.not_after_ms.is_some_and(|end| end <= server_ms);
        if user.blocked || ended || user.is_spent(period) {
            return Gate::Blocked;
        }
        if !user.limited {
            return Gate::Open;
        }
        let Some(lease) = self.durable.leases.get(&(user.id, period)) else {
            return Gate::Blocked;
        };
        let asked = self.allowances.shrinks.get(&(lease.user, lease.period));
        let allowance = asked.map_or(lease.allowance, |(grant, _)| grant.allowance);
        let remaining = allowance.saturating_sub(lease.consumed);
        if remaining.is_zero() {
            return Gate::Blocked;
        }
        let multiplier = self.desired.as_ref().map(|desired| desired.multiplier);
        Gate::Quota {
            remaining: multiplier.unwrap_or_default().raw_within(remaining),
            counted: self.counted(user),
        }
    }

    /// The period that what passes now is charged to. That is the one of the books, which moves on
    /// with the reading after a boundary or a reset: a gate that opened by the clock would let the
    /// new period's bytes through for the old one's account.
    fn charged_period(&self, user: &DesiredUser, server_ms: i64) -> PeriodId {
        let in_force = user.period_at(server_ms);
        let mut on_books = user
            .peers
            .iter()
            .filter_map(|peer| self.books(peer.id))
            .map(|record| record.baseline().1)
            .filter(|attribution| attribution.user == user.id)
            .map(|attribution| attribution.period)
            .peekable();
        let other = on_books.peek().copied();
        // A counter that is never read stays behind alone; then there is nothing to let through.
        match other {
            Some(other) if !on_books.any(|period| period == in_force) => other,
            _ => in_force,
        }
    }

    fn books(&self, peer: PeerId) -> Option<&CounterRecord> {
        let incarnation = self.engine.incarnation?;
        self.durable.counters.get(&CounterKey { incarnation, peer })
    }

    fn lease_in_force(&self, user: &DesiredUser, server_ms: i64) -> Option<&LeaseState> {
        self.durable
            .leases
            .get(&(user.id, self.charged_period(user, server_ms)))
    }

    /// What the counters of a user's peers stood at, in sum, as of the books.
    fn counted(&self, user: &DesiredUser) -> u64 {
        user.peers
            .iter()
            .filter_map(|peer| self.books(peer.id))
            .map(|record| record.baseline().0.sum())
            .fold(0, u64::saturating_add)
    }

    /// Whether one of these users is about to run out: usage is reported at once then.
    pub(super) fn runs_low(&self, users: &[UserId], server_ms: i64) -> bool {
        let Some(desired) = &self.desired else {
            return false;
        };
        users
            .iter()
            .filter_map(|id| desired.users.get(id))
            .any(|user| {
                user.limited
                    && !user.blocked
                    && self
                        .lease_in_force(user, server_ms)
                        .is_none_or(|lease| lease.remaining().get() < lease.allowance.get() / 4)
            })
    }

    /// Names leases that have run out, so that the control plane can grow them when there is
    /// something to give.
    pub(super) fn report_exhausted(&mut self, server_ms: i64) {
        let Some(desired) = &self.desired else { return };
        let exhausted: Vec<_> = desired
            .users
            .values()
            .filter(|user| user.limited && !user.blocked)
            .filter_map(|user| self.lease_in_force(user, server_ms))
            .filter(|lease| lease.remaining().is_zero())
            .map(|lease| (lease.user, lease.period))
            .take(REPORT_LEASES)
            .collect();
        self.allowances.reports.extend(exhausted);
    }

    /// Sends what there is to say of leases, after it is durable.
    pub(super) fn send_lease_reports(&mut self) {
        if self.stream.window().is_none() || self.allowances.reports.is_empty() {
            return;
        }
        let leases: Vec<_> = std::mem::take(&mut self.allowances.reports)
            .into_iter()
            .filter_map(|of| self.durable.leases.get(&of).copied())
            .collect();
        self.commit();
        for part in leases.chunks(REPORT_LEASES) {
            self.out.push(Effect::Send(Up::LeaseReport(part.to_vec())));
        }
    }

    /// Leases as Hello names them; where they do not fit, those that were opened last, which an
    /// older database is least likely to know.
    pub(super) fn held_leases(&self) -> Vec<LeaseState> {
        let mut leases: Vec<_> = self.durable.leases.values().copied().collect();
        if leases.len() > HELLO_LEASES {
            leases.sort_unstable_by_key(|lease| std::cmp::Reverse(lease.lease));
            leases.truncate(HELLO_LEASES);
        }
        leases
    }

    /// Forgets leases that were given back and whose usage no segment remembers.
    pub(super) fn sweep_leases(&mut self) {
        let Some(desired) = &self.desired else { return };
        let remembered: BTreeSet<(UserId, PeriodId)> = self
            .durable
            .counters
            .values()
            .flat_map(|record| &record.segments)
            .map(|segment| (segment.attribution.user, segment.attribution.period))
            .collect();
        let over: Vec<_> = self
            .durable
            .leases
            .values()
            .filter(|lease| lease.remaining().is_zero())
            .map(|lease| (lease.user, lease.period))
            .filter(|of| !remembered.contains(of) && !desired.expects(of.0, of.1))
            .collect();
        for (user, period) in over {
            self.write(Write::DropLease(user, period));
        }
    }
}
