//! Ingest transactions, and what they may not do.

use std::collections::{BTreeMap, HashMap};

use vpnpanel_domain::{LeaseId, MicroBytes, NodeId, PeriodId};
use vpnpanel_link::Down;
use vpnpanel_link::collector::ingest::{self, OrphanReason, Submission};
use vpnpanel_link::collector::session::Event;
use vpnpanel_link::collector::{LeaseFacts, Loaded, lease};

use super::Plane;
use crate::coverage::{saw, saw_if};
use crate::host::Disk;
use crate::mutation::Mutation;
use crate::random::Random;

impl Plane {
    /// One transaction for all that waits.
    pub(super) fn transact(&mut self, now_ms: i64, random: &mut Random) -> Result<(), String> {
        let mut waiting = std::mem::take(&mut self.submissions);
        if random.chance(self.failures) {
            saw("fault: transaction failed");
            for (id, _) in waiting {
                self.feed(id, Event::IngestFailed, now_ms);
            }
            return Ok(());
        }
        let true_generations: Vec<_> = waiting.iter().map(|(_, one)| one.generation).collect();
        self.mutate(&mut waiting);
        let (ids, submissions): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let mut loaded = self.database.load(&ingest::needs(&submissions));
        loaded.standing.held &= !self.database.grants_early;
        if self.mutation == Some(Mutation::ForkNotFound) {
            for cursor in loaded.cursors.values_mut() {
                cursor.successor = None;
            }
        }
        let clock_ms = self.clock(now_ms);
        note_reports(&loaded, &submissions);
        let before = loaded.leases.clone();
        let effects = ingest::decide(loaded, submissions, &self.policy, clock_ms, random);
        let lost = self.mutation == Some(Mutation::AckBeforeCommit) && random.chance(100);
        if !lost {
            self.database.write(&effects, &before)?;
        }
        self.check_reserves(&effects, &before)?;
        note(&effects);
        for (reply, generation) in effects.replies.iter().zip(&true_generations) {
            let node = self.database.rows.nodes.get(&reply.node);
            if !reply.superseded && node.is_some_and(|node| node.generation != *generation) {
                return Err(format!("a superseded stream of {} has written", reply.node));
            }
            let newest = self.newest.get(&reply.node);
            if !reply.committed.is_empty() && newest.is_some_and(|newest| !ids.contains(newest)) {
                return Err(format!("a stream of {}'s past has written", reply.node));
            }
            for batch in &reply.committed {
                let cursor = self.database.rows.cursors.get(&(reply.node, batch.epoch));
                if cursor.is_none_or(|cursor| cursor.seq < batch.seq) {
                    return Err(format!("{batch:?} is acknowledged, not committed"));
                }
            }
        }
        for (id, reply) in ids.into_iter().zip(effects.replies) {
            self.feed(id, Event::Ingested(reply), now_ms);
        }
        for period in effects.starved {
            let grants = self.database.rebalance(period, &self.policy, clock_ms);
            self.send_grants(grants, now_ms);
        }
        Ok(())
    }

    pub(super) fn mutate(&self, waiting: &mut [(u64, Submission)]) {
        for (_, submission) in waiting {
            let node = submission.node;
            match self.mutation {
                Some(Mutation::UnversionedGiveBack) => {
                    for state in &mut submission.leases {
                        let current = self.database.rows.leases.get(&(node, state.period));
                        let same = current.filter(|lease| lease.lease == state.lease);
                        state.version = same.map_or(state.version, |lease| lease.version);
                    }
                }
                Some(Mutation::LostReportsOverlooked) => submission.leases_before = 0,
                Some(Mutation::FenceSkipped) => {
                    if let Some(facts) = self.database.rows.nodes.get(&node) {
                        submission.generation = facts.generation;
                    }
                }
                Some(Mutation::ForkNotFound) => {
                    let payloads = submission.batches.iter_mut();
                    for payload in payloads.flat_map(|batch| &mut batch.payload) {
                        payload.predecessor = None;
                    }
                }
                Some(Mutation::MultiplierAtCommit) => {
                    let now = self
                        .database
                        .multipliers
                        .get(&node)
                        .copied()
                        .unwrap_or_default();
                    for batch in &mut submission.batches {
                        if let Ok(payload) = &mut batch.payload {
                            for row in &mut payload.rows {
                                row.attribution.multiplier = now;
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn free_by_time(&mut self, now_ms: i64) {
        let epoch = self.database.rows.standing.epoch;
        for ((_, period), lease) in &mut self.database.rows.leases {
            let silent = now_ms - lease.moved_at_ms > 20_000;
            if let (true, Some(facts)) = (silent, self.database.rows.periods.get_mut(period)) {
                lease::write_off(facts, lease, epoch);
            }
        }
    }

    /// What a node may still let through of each period, whatever the database says of it from now on:
    /// what it was granted, and what is under way to it.
    pub(crate) fn held_by<'a>(
        &self,
        node: NodeId,
        disks: impl Iterator<Item = &'a Disk>,
    ) -> BTreeMap<PeriodId, MicroBytes> {
        let mut most: BTreeMap<(PeriodId, LeaseId), MicroBytes> = BTreeMap::new();
        let mut holds = |period, lease, allowance| {
            let known = most.entry((period, lease)).or_default();
            *known = (*known).max(allowance);
        };
        let leases = &self.database.rows.leases;
        for ((_, period), lease) in leases.iter().filter(|((of, _), _)| *of == node) {
            holds(*period, lease.lease, lease.allowance);
        }
        for lease in disks.flat_map(|disk| disk.durable.leases.values()) {
            holds(lease.period, lease.lease, lease.allowance);
        }
        for stream in self.streams.values().filter(|stream| stream.node == node) {
            for (_, down) in &stream.down {
                if let Down::UsageAck(ack) = down {
                    for grant in &ack.grants {
                        holds(grant.period, grant.lease, grant.allowance);
                    }
                }
            }
        }
        let mut held: BTreeMap<PeriodId, MicroBytes> = BTreeMap::new();
        for ((period, id), allowance) in most {
            let known = leases.get(&(node, period));
            let known = known.filter(|lease| lease.lease == id);
            let billed = known.map(|lease| lease.billed).unwrap_or_default();
            *held.entry(period).or_default() += allowance.saturating_sub(billed);
        }
        held
    }

    /// The inequality holds wherever something was granted, and `reserved` is the true sum.
    pub(super) fn check_reserves(
        &self,
        effects: &ingest::Effects,
        before: &HashMap<(NodeId, PeriodId), LeaseFacts>,
    ) -> Result<(), String> {
        for reply in &effects.replies {
            for grant in &reply.grants {
                let before = before.get(&(reply.node, grant.period));
                let had = before.map(|lease| lease.allowance).unwrap_or_default();
                if grant.allowance > had {
                    self.check_inequality(grant.period)?;
                }
            }
        }
        for credit in &effects.periods {
            self.check_sum(credit.period)?;
        }
        Ok(())
    }

    pub(super) fn check_inequality(&self, period: PeriodId) -> Result<(), String> {
        let Some(facts) = self.database.rows.periods.get(&period) else {
            return Ok(());
        };
        match facts.limit.micro() {
            Some(limit) if facts.used + facts.reserved > limit => {
                Err(format!("{period}: granted beyond the limit: {facts:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// Notes what comes into a transaction.
fn note_reports(loaded: &Loaded, submissions: &[Submission]) {
    for submission in submissions {
        let node = submission.node;
        let again = submission.batches.iter().any(|one| {
            let cursor = loaded.cursors.get(&(node, one.batch.epoch));
            cursor.is_some_and(|cursor| one.batch.seq <= cursor.seq)
        });
        saw_if(again, "state: a batch came again");
        let epoch = loaded.standing.epoch;
        let lost = loaded.nodes.get(&node).is_some_and(|facts| {
            facts.generation == submission.generation
                && !facts.holds_reports(epoch, submission.leases_before)
        });
        saw_if(lost, "state: lease reports were lost before they counted");
        let gives_back = submission.leases.iter().any(|state| {
            let lease = loaded.leases.get(&(node, state.period));
            lease.is_some_and(|lease| {
                lease.version == state.version && state.allowance < lease.allowance
            })
        });
        saw_if(gives_back, "state: a node gives back what it holds");
    }
}

/// Notes what a transaction met.
fn note(effects: &ingest::Effects) {
    let replies = &effects.replies;
    let orphaned = |reason| effects.orphans.iter().any(|orphan| orphan.reason == reason);
    for (met, what) in [
        (
            !effects.quarantined.is_empty(),
            "state: fork found by a batch",
        ),
        (!effects.limited.is_empty(), "state: a limit was reached"),
        (
            !effects.starved.is_empty(),
            "state: users run dry while others hold more",
        ),
        (
            !effects.replaced.is_empty(),
            "state: lease taken up that was not on record",
        ),
        (
            !effects.former.is_empty(),
            "state: a lease that is not current was named",
        ),
        (
            !effects.skipped.is_empty(),
            "state: cursors moved over batches that nobody has",
        ),
        (
            orphaned(OrphanReason::UnknownPeriod),
            "state: usage of an unknown period",
        ),
        (
            orphaned(OrphanReason::SegmentsLost),
            "state: usage that nobody knows the user of",
        ),
        (
            replies.iter().any(|reply| reply.resend_from.is_some()),
            "state: a batch came too early",
        ),
        (
            replies.iter().any(|reply| reply.superseded),
            "state: a superseded stream wrote",
        ),
        (
            replies
                .iter()
                .any(|reply| !reply.missing_segments.is_empty()),
            "state: segments asked for",
        ),
    ] {
        saw_if(met, what);
    }
}
