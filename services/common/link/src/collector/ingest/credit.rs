//! What a row is worth: of its range, what lies beyond the counter's mark. Crediting a row
//! twice, or an older one after a newer, adds nothing.

use vpnpanel_domain::{MicroBytes, NodeId};

use super::{BucketCredit, Crossing, HeldUsage, Ledger, Orphan, OrphanReason, PeriodCredit, Reply};
use crate::collector::{Mark, PeriodFacts};
use crate::{Bucket, CounterMark, Payload, Range, Row, Segments, Totals};

/// Usage older than this is booked at this age: retention has closed what lies before.
const OLDEST_BUCKET_MS: i64 = 92 * 24 * 3_600_000;

/// What a node may have counted before its first batch.
const FIRST_INTERVAL_MS: i64 = 24 * 3_600_000;

/// What a transaction adds to a period.
#[derive(Default)]
pub(super) struct Credit {
    up: u64,
    down: u64,
    billed: MicroBytes,
    used_before: MicroBytes,
    seen_at_ms: i64,
}

/// Where rows come from.
struct Source {
    /// Raw bytes that are still plausible.
    budget: u64,
    /// When their traffic was seen at the latest.
    seen_at_ms: i64,
}

impl Credit {
    fn of(facts: &PeriodFacts) -> Self {
        Self {
            used_before: facts.used,
            ..Self::default()
        }
    }
}

impl Ledger<'_> {
    pub(super) fn take_payload(&mut self, node: NodeId, payload: &Payload, reply: &mut Reply) {
        let written = payload.written_at_ms.min(self.now_ms);
        let mut source = Source {
            budget: self.plausible(node, written),
            seen_at_ms: written,
        };
        for row in &payload.rows {
            self.take_row(row, &mut source, reply);
        }
        if let Some(facts) = self.loaded.nodes.get_mut(&node) {
            facts.last_written_at_ms = facts.last_written_at_ms.max(Some(written));
        }
        self.effects.written.push((node, written));
    }

    /// Segments are rows without a batch: what they cover beyond the mark is credited, in the
    /// order of the counter.
    pub(super) fn take_segments(&mut self, node: NodeId, segments: Segments, reply: &mut Reply) {
        let mut source = Source {
            budget: u64::MAX,
            seen_at_ms: self.now_ms,
        };
        for row in &segments.rows {
            self.take_row(row, &mut source, reply);
        }
        for counter in segments.unknown {
            let Some(mark) = self.loaded.marks.get_mut(&(node, counter)) else {
                continue;
            };
            let Some(awaited) = mark.awaited.take() else {
                continue;
            };
            let row = Row {
                counter,
                attribution: mark.attribution,
                bucket: Bucket::at(self.now_ms),
                up: Range {
                    from: mark.totals.up,
                    to: awaited.up.max(mark.totals.up),
                },
                down: Range {
                    from: mark.totals.down,
                    to: awaited.down.max(mark.totals.down),
                },
            };
            mark.totals = mark.totals.max(awaited);
            self.marked.push((node, counter));
            let reason = OrphanReason::SegmentsLost;
            self.effects.orphans.push(Orphan { node, row, reason });
        }
    }

    fn take_row(&mut self, row: &Row, source: &mut Source, reply: &mut Reply) {
        let node = reply.node;
        let mark = self
            .loaded
            .marks
            .entry((node, row.counter))
            .or_insert(Mark {
                totals: Totals::default(),
                awaited: None,
                attribution: row.attribution,
            });
        if !mark.totals.covers(row.from()) {
            mark.awaited = Some(
                mark.awaited
                    .map_or(row.to(), |awaited| awaited.max(row.to())),
            );
            self.marked.push((node, row.counter));
            let asked = CounterMark {
                counter: row.counter,
                totals: mark.totals,
                attribution: Some(mark.attribution),
            };
            reply.missing_segments.push(asked);
            return;
        }
        let fresh = Row {
            up: Range {
                from: row.up.to - row.up.beyond(mark.totals.up),
                to: row.up.to,
            },
            down: Range {
                from: row.down.to - row.down.beyond(mark.totals.down),
                to: row.down.to,
            },
            ..*row
        };
        if fresh.raw() == 0 {
            return;
        }
        mark.totals = mark.totals.max(row.to());
        mark.attribution = row.attribution;
        if mark
            .awaited
            .is_some_and(|awaited| mark.totals.covers(awaited))
        {
            mark.awaited = None;
        }
        self.marked.push((node, row.counter));
        self.bill(node, fresh, source);
    }

    /// Books fresh usage: to its period, or where that cannot be, to be seen by a person.
    fn bill(&mut self, node: NodeId, row: Row, source: &mut Source) {
        let owner = self.loaded.nodes.get(&node).and_then(|facts| facts.tenant);
        let period = row.attribution.period;
        let Some(facts) = self.loaded.periods.get_mut(&period) else {
            let reason = if period.into_bytes() == [0; 16] {
                OrphanReason::SegmentsLost
            } else {
                OrphanReason::UnknownPeriod
            };
            return self.orphan(node, row, reason);
        };
        if facts.user != row.attribution.user {
            return self.orphan(node, row, OrphanReason::OtherUser);
        }
        if owner.is_some_and(|owner| owner != facts.tenant) {
            return self.orphan(node, row, OrphanReason::OtherTenant);
        }
        let Some(rest) = source.budget.checked_sub(row.raw()) else {
            // A smaller row may still fit.
            self.effects.held.push(HeldUsage {
                node,
                tenant: facts.tenant,
                row,
            });
            return;
        };
        source.budget = rest;
        let billed = row.billable();
        let bucket = row.bucket.clamp(
            Bucket::at(self.now_ms - OLDEST_BUCKET_MS),
            Bucket::at(self.now_ms),
        );
        let credit = self
            .credits
            .entry(period)
            .or_insert_with(|| Credit::of(facts));
        credit.up = credit.up.saturating_add(row.up.len());
        credit.down = credit.down.saturating_add(row.down.len());
        credit.billed += billed;
        credit.seen_at_ms = credit
            .seen_at_ms
            .max(source.seen_at_ms.min(bucket.ends_ms() - 1));
        facts.used += billed;
        let leased = if row.attribution.leased {
            billed
        } else {
            MicroBytes::ZERO
        };
        *self.flows.entry((node, period)).or_default() += leased;
        self.effects.buckets.push(BucketCredit {
            tenant: facts.tenant,
            user: facts.user,
            period,
            node,
            bucket,
            up: row.up.len(),
            down: row.down.len(),
            billed,
        });
    }

    fn orphan(&mut self, node: NodeId, row: Row, reason: OrphanReason) {
        self.effects.orphans.push(Orphan { node, row, reason });
    }

    /// Raw bytes that the node's line can have carried since its batch before.
    fn plausible(&self, node: NodeId, written_at_ms: i64) -> u64 {
        let last = self
            .loaded
            .nodes
            .get(&node)
            .and_then(|facts| facts.last_written_at_ms);
        let interval = last.map_or(FIRST_INTERVAL_MS, |last| {
            written_at_ms.saturating_sub(last).max(0)
        });
        let ms = u128::from(interval.unsigned_abs()) + u128::from(self.policy.line_burst_ms);
        u64::try_from(u128::from(self.policy.line_rate) * ms / 1_000).unwrap_or(u64::MAX)
    }

    /// A period whose row is written though nothing was billed to it.
    pub(super) fn touch_period(&mut self, period: vpnpanel_domain::PeriodId) {
        if let Some(facts) = self.loaded.periods.get(&period) {
            self.credits
                .entry(period)
                .or_insert_with(|| Credit::of(facts));
        }
    }

    pub(super) fn finish_credits(&mut self) {
        self.finish_marks();
        merge_buckets(&mut self.effects.buckets);
        for (period, credit) in std::mem::take(&mut self.credits) {
            let Some(facts) = self.loaded.periods.get(&period) else {
                continue;
            };
            let (tenant, user) = (facts.tenant, facts.user);
            self.effects.periods.push(PeriodCredit {
                tenant,
                user,
                period,
                up: credit.up,
                down: credit.down,
                billed: credit.billed,
                reserved: facts.reserved,
                seen_at_ms: credit.seen_at_ms,
            });
            if !facts.limit.is_reached(credit.used_before) && facts.limit.is_reached(facts.used) {
                self.effects.limited.push(Crossing {
                    tenant,
                    user,
                    period,
                });
            }
        }
        self.effects
            .periods
            .sort_unstable_by_key(|credit| credit.period);
        self.effects.limited.sort_unstable();
    }

    fn finish_marks(&mut self) {
        let mut marked = std::mem::take(&mut self.marked);
        marked.sort_unstable();
        marked.dedup();
        let marks = &self.loaded.marks;
        self.effects.marks = marked
            .into_iter()
            .filter_map(|key| Some((key, *marks.get(&key)?)))
            .collect();
    }
}

/// One credit for each user, period, node and bucket.
fn merge_buckets(buckets: &mut Vec<BucketCredit>) {
    let key = |credit: &BucketCredit| {
        (
            credit.tenant,
            credit.user,
            credit.period,
            credit.node,
            credit.bucket,
        )
    };
    buckets.sort_unstable_by_key(key);
    buckets.dedup_by(|later, kept| {
        let same = key(later) == key(kept);
        if same {
            kept.up = kept.up.saturating_add(later.up);
            kept.down = kept.down.saturating_add(later.down);
            kept.billed += later.billed;
        }
        same
    });
}
