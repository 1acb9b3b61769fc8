//! Ingest transactions, and what they may not do.

use std::collections::HashMap;

use vpnpanel_domain::{NodeId, PeriodId};
use vpnpanel_link::collector::ingest::{self, Submission};
use vpnpanel_link::collector::session::Event;
use vpnpanel_link::collector::{LeaseFacts, lease};

use super::Plane;
use crate::mutation::Mutation;
use crate::random::Random;

impl Plane {
    /// One transaction for all that waits.
    pub(super) fn transact(&mut self, now_ms: i64, random: &mut Random) -> Result<(), String> {
        let mut waiting = std::mem::take(&mut self.submissions);
        if random.chance(self.failures) {
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
        let before = loaded.leases.clone();
        let effects = ingest::decide(loaded, submissions, &self.policy, now_ms, random);
        let lost = self.mutation == Some(Mutation::AckBeforeCommit) && random.chance(100);
        if !lost {
            self.database.write(&effects, &before)?;
        }
        self.check_reserves(&effects, &before)?;
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
            let grants = self.database.rebalance(period, &self.policy, now_ms);
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
                Some(Mutation::FenceSkipped) => {
                    if let Some(facts) = self.database.rows.nodes.get(&node) {
                        submission.generation = facts.generation;
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
