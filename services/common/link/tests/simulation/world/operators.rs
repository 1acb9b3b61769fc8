//! People: who is made, changed and told what, and who uses it.

use std::collections::BTreeSet;

use vpnpanel_domain::{Multiplier, UserId};
use vpnpanel_link::Totals;

use super::World;
use crate::coverage::saw;
use crate::database::Changed;

impl World {
    pub(super) fn create_user(&mut self) {
        let mut nodes: BTreeSet<_> = self
            .hosts
            .iter()
            .map(|host| host.node)
            .filter(|_| self.random.chance(700))
            .collect();
        nodes.insert(self.hosts[0].node);
        let limit = if self.random.chance(600) {
            5_000_000 + self.random.below(30_000_000)
        } else {
            0
        };
        let length_ms = self
            .random
            .chance(700)
            .then(|| 8_000 + self.random.below(40_000) as i64);
        let now_ms = self.plane.clock(self.now_ms);
        self.plane
            .database
            .create_user(nodes, limit, length_ms, now_ms, &mut self.random);
    }

    pub(super) fn operate(&mut self) {
        let users: Vec<_> = self.plane.database.users.keys().copied().collect();
        let user = self.random.pick(&users);
        match (self.random.below(400), user) {
            (0..4, _) => self.create_user(),
            (4..6, Some(user)) => {
                saw("operator: user deleted");
                self.plane.database.delete_user(user);
            }
            (6..12, Some(user)) => self.change_user(user),
            (12..16, Some(user)) => {
                saw("operator: usage reset");
                let now_ms = self.plane.clock(self.now_ms);
                self.plane
                    .database
                    .reset_usage(user, now_ms, &mut self.random);
            }
            (16..22, Some(user)) => {
                let limit = if self.random.chance(100) {
                    0
                } else {
                    5_000_000 + self.random.below(60_000_000)
                };
                saw("operator: limit changed");
                let policy = self.plane.policy;
                let at_ms = self.plane.clock(self.now_ms);
                let grants = self.plane.database.set_limit(user, limit, &policy, at_ms);
                self.plane.send_grants(grants, self.now_ms);
            }
            _ => {}
        }
        if self.random.chance(20) {
            let index = self.random.below(self.hosts.len() as u64) as usize;
            let node = self.hosts[index].node;
            self.plane.give_command(node, self.now_ms, &mut self.random);
        }
        if self.random.chance(4) {
            saw("operator: node drained or undrained");
            let index = self.random.below(self.hosts.len() as u64) as usize;
            let node = self.hosts[index].node;
            if let Some(facts) = self.plane.database.rows.nodes.get_mut(&node) {
                facts.draining = !facts.draining;
            }
            self.plane.database.change(Changed::Node(node));
        }
        if self.random.chance(self.misfortune.multiplier_changes) {
            let index = self.random.below(self.hosts.len() as u64) as usize;
            let ppm = 250_000 + self.random.below(1_750_000) as u32;
            let multiplier = Multiplier::from_ppm(ppm).unwrap_or_default();
            let node = self.hosts[index].node;
            saw("operator: multiplier changed");
            self.plane.database.multipliers.insert(node, multiplier);
            self.plane.database.change(Changed::Node(node));
        }
    }

    /// Disabled, enabled, or moved between nodes.
    pub(super) fn change_user(&mut self, id: UserId) {
        let nodes: Vec<_> = self.hosts.iter().map(|host| host.node).collect();
        let node = self.random.pick(&nodes);
        let Some(user) = self.plane.database.users.get_mut(&id) else {
            return;
        };
        match (self.random.chance(400), node) {
            (true, _) => {
                saw("operator: user disabled or enabled");
                user.disabled = !user.disabled;
            }
            (false, Some(node)) => {
                saw("operator: user moved");
                if !user.nodes.remove(&node) {
                    user.nodes.insert(node);
                }
            }
            (false, None) => {}
        }
        self.plane.database.change(Changed::User(id));
    }

    pub(super) fn traffic(&mut self) -> Result<(), String> {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let peers: Vec<_> = host.engines.peers().collect();
            for _ in 0..self.random.below(3) {
                let Some(peer) = self.random.pick(&peers) else {
                    continue;
                };
                let up = self.random.below(30_000);
                let down = self.random.below(300_000);
                host.engines.pass(peer, Totals { up, down }, self.now_ms)?;
            }
            let disk = host.disk.as_ref().map(|disk| &disk.durable);
            self.truth.traffic(index, &host.engines, disk);
        }
        Ok(())
    }
}
