//! What must hold after every step, and what once everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{MicroBytes, NodeId};
use vpnpanel_link::agent::Alarm;
use vpnpanel_link::collector::NodeFacts;
use vpnpanel_link::{EngineKind, wire};

use super::World;
use crate::coverage::saw_if;
use crate::engine::Engines;

impl World {
    /// Whom the nodes have by what is on their disks.
    pub(super) fn look_at_nodes(&mut self) -> Result<(), String> {
        let mut on_nodes = BTreeMap::new();
        for host in &self.hosts {
            if let Some(disk) = &host.disk {
                let users = disk.durable.target_users.keys().copied().collect();
                on_nodes.insert(host.node, users);
            } else {
                // What a lost disk had is told anew.
                self.plane.kept.remove(&host.node);
            }
        }
        self.plane.on_nodes = on_nodes;
        let confirmed = self.plane.confirmed;
        for (node, kept) in self.plane.kept.iter().filter(|_| !confirmed) {
            let has = self.plane.on_nodes.get(node);
            let gone = kept
                .iter()
                .find(|user| !has.is_some_and(|has| has.contains(*user)));
            if let Some(gone) = gone {
                return Err(format!("{gone} was taken from {node} after a restore"));
            }
        }
        Ok(())
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        self.look_at_nodes()?;
        let wrong = self.plane.commands.wrong.take();
        if let Some(wrong) = wrong.or_else(|| self.plane.wrong.take()) {
            return Err(wrong);
        }
        self.check_forks()?;
        let engines = self.engines();
        self.truth.never_more(&self.plane.database, &engines)?;
        for (period, facts) in &self.plane.database.rows.periods {
            let billed = self.billed.entry(*period).or_default();
            if facts.used < *billed {
                return Err(format!("{} of {billed} are left in {period}", facts.used));
            }
            *billed = facts.used;
        }
        // What one of two agents gives back the other may still hold.
        let single = self.hosts.iter().filter(|host| !self.is_forked(host.node));
        for host in single {
            if let Some(disk) = &host.disk {
                self.plane.check_leases(host.node, &disk.durable)?;
            }
            if let Some(alarm) = host.alarms.iter().find(|alarm| is_wrong(alarm)) {
                return Err(format!("{} raised {alarm:?}", host.node));
            }
        }
        if let Some((node, facts)) = self
            .plane
            .database
            .rows
            .nodes
            .iter()
            .find(|(node, facts)| facts.quarantined.is_some() && !self.is_forked(**node))
        {
            return Err(format!("{node} is quarantined: {:?}", facts.quarantined));
        }
        let hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|host| {
                (
                    host.node,
                    &host.engines,
                    host.disk.as_ref().map(|disk| &disk.durable),
                )
            })
            .collect();
        for (period, passed) in
            self.truth
                .passed(&self.plane.database, self.plane.was_restored, &hosts)
        {
            let ceiling = self.plane.database.ceilings.get(&period).copied().flatten();
            // What was granted while nobody knew that the database is an older one.
            let granted = self.plane.database.window.granted.get(&period);
            let adopted = self.truth.adopted.get(&period).copied().unwrap_or_default();
            let written_off = self.truth.written_off.get(&period);
            let written_off = written_off.copied().unwrap_or_default();
            let slack: MicroBytes = self.hosts.iter().map(|_| self.slack).sum();
            let unread = slack + self.truth.unread(period);
            let over = granted.copied().unwrap_or_default() + adopted + written_off + unread;
            // Each copy of a disk may let through once more what there is.
            let copies = self.forks.len() as u64;
            let limit = ceiling.map(|limit| limit.saturating_mul(1 + copies));
            if let Some(limit) = limit
                && passed > MicroBytes::from_bytes(limit) + over
            {
                return Err(format!(
                    "{passed} passed of {period}, whose limit is {limit}"
                ));
            }
        }
        Ok(())
    }

    /// No more misfortune and no more traffic: within minutes everything agrees.
    pub(super) fn come_to_rest(&mut self) -> Result<(), String> {
        self.misfortune = self.misfortune.none();
        self.plane.failures = 0;
        for host in &mut self.hosts {
            host.away_until_ms = self.now_ms;
        }
        self.plane.confirmed = true;
        self.plane.rolls_from_ms = 0;
        self.cut_off_ms.fill(0);
        let mut unrest = String::new();
        // Two agents with one identity meet again and again, ever later.
        let patience = if self.forks.is_empty() { 1_500 } else { 8_000 };
        for step in 0..patience {
            if step == 200 {
                // What rolls over every few seconds does not come to rest.
                self.plane.rolls_from_ms = i64::MAX;
            }
            self.pass_time()?;
            self.check()?;
            match self.unrest() {
                None => return self.final_checks(),
                Some(what) => unrest = what,
            }
        }
        Err(format!(
            "no rest after {} ms of calm: {unrest}",
            self.now_ms
        ))
    }

    fn engines(&self) -> Vec<(NodeId, &Engines)> {
        let hosts = self.hosts.iter();
        hosts.map(|host| (host.node, &host.engines)).collect()
    }

    pub(super) fn unrest(&self) -> Option<String> {
        let rows = &self.plane.database.rows;
        let epoch = rows.standing.epoch;
        let awaited = |facts: &NodeFacts| facts.must_report(epoch);
        if rows.standing.held || rows.nodes.values().any(awaited) {
            return Some("nodes have not reported".to_owned());
        }
        let engines = self.engines();
        if let Err(what) = self.truth.all_billed(&self.plane.database, &engines) {
            return Some(what);
        }
        if let Some(what) = self.plane.commands.unrest() {
            return Some(what);
        }
        if let Some(what) = self.unfound_twin() {
            return Some(what);
        }
        let database = &self.plane.database;
        let hosts = self.hosts.iter();
        for host in hosts.filter(|host| !database.is_quarantined(host.node)) {
            let desired = wire::encode_state(&self.plane.database.desired(host.node));
            let desired = wire::state_digest(&desired).map_err(|e| e.to_string());
            let applied = host.disk.as_ref().and_then(|disk| disk.durable.applied);
            if applied.map(|state| Ok(state.digest)) != Some(desired) {
                let desired = self.plane.database.desired(host.node);
                let found = host.disk.as_ref().map(|disk| disk.target());
                return Some(format!(
                    "{} has {found:?} instead of {desired:?}",
                    host.node
                ));
            }
            let wanted: BTreeSet<_> = self
                .plane
                .database
                .users
                .values()
                .filter(|user| user.nodes.contains(&host.node))
                .flat_map(|user| user.peers.iter().copied())
                .collect();
            let installed: BTreeSet<_> = host.engines.peers().collect();
            let wanted_draining = self.plane.database.is_draining(host.node);
            let mut engines = EngineKind::ALL
                .map(|kind| host.engines.of(kind))
                .into_iter();
            if engines.any(|engine| engine.draining != wanted_draining) {
                return Some(format!(
                    "{} takes sessions, or none, unlike it should",
                    host.node
                ));
            }
            if wanted != installed {
                return Some(format!("{} does not have the peers it should", host.node));
            }
            if !host
                .agent
                .as_ref()
                .is_some_and(|agent| agent.is_connected())
            {
                return Some(format!("{} is not connected", host.node));
            }
        }
        None
    }

    pub(super) fn final_checks(&mut self) -> Result<(), String> {
        self.truth.sums(&self.plane.database)?;
        let mut periods = self.plane.database.rows.periods.values();
        let over = periods.any(|facts| facts.limit.micro().is_some_and(|most| facts.used > most));
        saw_if(over, "state: more was used than the limit");
        let periods: Vec<_> = self.plane.database.rows.periods.keys().copied().collect();
        for period in periods {
            self.plane.check_sum(period)?;
        }
        Ok(())
    }
}

/// Whether a host may not say so in a simulation: that it waits for a person may happen.
fn is_wrong(alarm: &Alarm) -> bool {
    !matches!(
        alarm,
        Alarm::RemovalsHeld { .. } | Alarm::BatchesLost { .. }
    )
}
