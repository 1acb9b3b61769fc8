//! Leases on the node: who may pass, and how far. The node stops a user at the allowance by
//! itself, in the kernel where it can; whatever the control plane asks or grants is durable here
//! before it is answered.

use std::collections::BTreeSet;

use vpnpanel_domain::{MicroBytes, PeriodId, UserId};

use super::{Agent, Effect, Gate, Now, Ticket, Write};
use crate::{CounterKey, DesiredPeer, DesiredUser, EngineKind, Grant, Incarnation, LeaseState, Up};

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
        let peers = self.desired.as_ref().and_then(|d| d.users.get(&user));
        let keys: Vec<_> = peers
            .into_iter()
            .flat_map(|user| &user.peers)
            .filter_map(|peer| self.counter_of(peer))
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

    /// Answers shrinks whose counters have been read, on every engine that counts for them.
    pub(super) fn settle_shrinks(&mut self, ticket: Ticket, read: &[EngineKind]) {
        if self.allowances.shrinks.is_empty() {
            return;
        }
        let unread = self.unread_usage(read);
        let ready: Vec<_> = self
            .allowances
            .shrinks
            .iter()
            .filter(|(of, (_, needs))| *needs <= ticket && !unread.contains(of))
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
    /// counted for them any more: not by a peer that is still there, and not by an engine that does
    /// not run, until it is known what it had counted.
    pub(super) fn settle_departed(&mut self) {
        if !std::mem::take(&mut self.allowances.departed) {
            return;
        }
        let Some(desired) = &self.desired else { return };
        let live: Vec<_> = self.engines.live().map(|(kind, _)| kind).collect();
        let mut counting = self.unread_usage(&live);
        for (kind, incarnation) in self.engines.live() {
            for peer in self.engines.of(kind).installed.keys() {
                if let Some(record) = self.durable.counters.get(&CounterKey {
                    incarnation,
                    peer: *peer,
                }) {
                    let attribution = record.baseline().1;
                    counting.insert((attribution.user, attribution.period));
                }
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

    /// Charges what may have passed unread when an engine's counters were lost: at line rate since
    /// they were last read, to whoever they counted, and never given back.
    pub(super) fn charge_lost(&mut self, lost: Incarnation, since_ms: i64) {
        let ms = u128::from(since_ms.max(0).unsigned_abs());
        let raw = u128::from(self.settings.line_rate) * ms / 1_000;
        let raw = u64::try_from(raw).unwrap_or(u64::MAX);
        let counted: BTreeSet<_> = self
            .books_of_life(lost)
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

    /// Sets the gates of these users that differ from what was set last; `None` is everybody. Each
    /// engine has its own: what passes the one lowers what the other may let through.
    pub(super) fn set_gates(&mut self, users: Option<&[UserId]>, now: Now) {
        let live: Vec<_> = self.engines.live().map(|(kind, _)| kind).collect();
        for kind in live {
            self.set_gates_of(kind, users, now);
        }
    }

    fn set_gates_of(&mut self, kind: EngineKind, users: Option<&[UserId]>, now: Now) {
        let Some(desired) = &self.desired else { return };
        let server_ms = self.server_ms(now);
        let mut changes = Vec::new();
        let mut held = Vec::new();
        let mut behind = false;
        let all = users.is_none().then(|| desired.users.values());
        let some = users.map(|users| users.iter().filter_map(|id| desired.users.get(id)));
        let users = all.into_iter().flatten().chain(some.into_iter().flatten());
        for user in users.filter(|user| is_on(kind, user)) {
            let period = self.charged_period(kind, user, server_ms);
            let gate = self.gate(kind, user, period, server_ms);
            behind |= period != user.period_at(server_ms);
            let key = match gate {
                Gate::Open => Held::Open,
                Gate::Quota { remaining, counted } => {
                    Held::CutAt(counted.saturating_add(remaining))
                }
                Gate::Blocked => Held::Blocked,
            };
            if self.allowances.gates.get(&(kind, user.id)) != Some(&key) {
                held.push(((kind, user.id), key));
                changes.push((user.id, gate));
            }
        }
        self.allowances.gates.extend(held);
        if behind && !self.engines.of(kind).failing {
            // The books are taken to the period in force now, and the gates with them.
            self.next_poll_ms = self.next_poll_ms.min(now.boottime_ms);
        }
        if !changes.is_empty() {
            self.commit();
            self.out.push(Effect::Gates(kind, changes));
        }
    }

    /// How far a user passes an engine whose traffic there is charged to a period.
    fn gate(&self, kind: EngineKind, user: &DesiredUser, period: PeriodId, server_ms: i64) -> Gate {
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
        let raw = multiplier.unwrap_or_default().raw_within(remaining);
        match raw.saturating_sub(self.outstanding(kind, user, period, server_ms)) {
            0 if raw > 0 => Gate::Blocked,
            remaining => Gate::Quota {
                remaining,
                counted: self.counted(kind, user),
            },
        }
    }

    /// What another engine, whose counters cannot be read, may have let through of a period: it goes
    /// on within the gate that it has. One that keeps no limit by itself goes on beyond any gate, and
    /// nothing is won by holding back for it.
    fn outstanding(
        &self,
        kind: EngineKind,
        user: &DesiredUser,
        period: PeriodId,
        server_ms: i64,
    ) -> u64 {
        let others = EngineKind::ALL.into_iter().filter(|other| *other != kind);
        others
            .filter(|other| other.keeps_limits() && self.engines.of(*other).failing)
            .filter(|other| self.charged_period(*other, user, server_ms) == period)
            .filter_map(|other| match self.allowances.gates.get(&(other, user.id)) {
                Some(Held::CutAt(cut)) => Some(cut.saturating_sub(self.counted(other, user))),
                _ => None,
            })
            .fold(0, u64::saturating_add)
    }

    /// The period that what passes an engine now is charged to. That is the one of the books, which
    /// moves on with the reading after a boundary or a reset: a gate that opened by the clock would
    /// let the new period's bytes through for the old one's account.
    fn charged_period(&self, kind: EngineKind, user: &DesiredUser, server_ms: i64) -> PeriodId {
        let in_force = user.period_at(server_ms);
        let mut on_books = on(kind, user)
            .filter_map(|peer| self.books(peer))
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

    /// The leases that a user's traffic is charged to, one for each period; `None` is a missing one.
    fn leases_in_force(
        &self,
        user: &DesiredUser,
        server_ms: i64,
    ) -> impl Iterator<Item = Option<&LeaseState>> {
        let mut periods: BTreeSet<_> = EngineKind::ALL
            .into_iter()
            .filter(|kind| is_on(*kind, user))
            .map(|kind| self.charged_period(kind, user, server_ms))
            .collect();
        if periods.is_empty() {
            periods.insert(user.period_at(server_ms));
        }
        let user = user.id;
        periods
            .into_iter()
            .map(move |period| self.durable.leases.get(&(user, period)))
    }

    /// What the counters of a user's peers on an engine stood at, in sum, as of the books.
    fn counted(&self, kind: EngineKind, user: &DesiredUser) -> u64 {
        on(kind, user)
            .filter_map(|peer| self.books(peer))
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
                    && self.leases_in_force(user, server_ms).any(|lease| {
                        lease
                            .is_none_or(|lease| lease.remaining().get() < lease.allowance.get() / 4)
                    })
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
            .flat_map(|user| self.leases_in_force(user, server_ms).flatten())
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

/// The peers of a user on an engine.
fn on(kind: EngineKind, user: &DesiredUser) -> impl Iterator<Item = &DesiredPeer> {
    let peers = user.peers.iter();
    peers.filter(move |peer| peer.access.kind() == kind)
}

fn is_on(kind: EngineKind, user: &DesiredUser) -> bool {
    on(kind, user).next().is_some()
}
