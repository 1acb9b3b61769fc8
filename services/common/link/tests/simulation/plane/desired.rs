//! What nodes should have, as it is read for them.

use vpnpanel_domain::NodeId;
use vpnpanel_link::collector::DesiredRead;
use vpnpanel_link::collector::session::{Event, Session};
use vpnpanel_link::{DesiredDelta, Digest, RemovalBound, Revision, wire};

use super::Plane;
use crate::coverage::saw;
use crate::mutation::Mutation;
use crate::random::Random;

impl Plane {
    pub(super) fn record_answers(&mut self) {
        for (node, generation, state, settled) in std::mem::take(&mut self.answers) {
            if self.is_newest(node, generation) {
                self.database.applied.remove(&node);
                if settled {
                    self.database.applied.insert(node, state);
                    let epoch = self.database.rows.standing.epoch;
                    self.database.settled.insert(node, epoch);
                    self.kept.remove(&node);
                }
            }
        }
    }

    pub(super) fn load_state(
        &mut self,
        id: u64,
        since: Option<Revision>,
        now_ms: i64,
        random: &mut Random,
    ) {
        let Some(node) = self.streams.get(&id).map(|stream| stream.node) else {
            return;
        };
        if random.chance(50) {
            saw("fault: desired state could not be loaded");
            return self.feed(id, Event::LoadFailed, now_ms);
        }
        let stream = self.streams.get(&id);
        let session = stream.and_then(|stream| stream.session.as_ref());
        let generation = session.map(Session::generation).unwrap_or_default();
        if !self.is_newest(node, generation) {
            return self.feed(id, Event::Superseded, now_ms);
        }
        let clock_ms = self.clock(now_ms);
        let grants = self
            .database
            .open_leases(node, &self.policy, clock_ms, random);
        let read = self.read_desired(node, since, random);
        // Nobody but a person can say whether it is meant.
        let epoch = self.database.rows.standing.epoch;
        let settled = self.database.settled.get(&node) == Some(&epoch);
        let bounded = !settled || id.is_multiple_of(2);
        let removals = (!self.confirmed && bounded).then_some(RemovalBound {
            users: 0,
            percent: if settled { 25 } else { 0 },
        });
        self.feed(id, Event::Desired { read, removals }, now_ms);
        if !grants.is_empty() {
            self.feed(id, Event::Grants(grants), now_ms);
        }
    }

    pub(super) fn read_desired(
        &self,
        node: NodeId,
        since: Option<Revision>,
        random: &mut Random,
    ) -> DesiredRead {
        let revision = Revision(self.database.revision);
        // A transaction that began earlier and commits later lies behind what was read.
        let overtaken = self.mutation == Some(Mutation::LogOvertaken) && random.chance(100);
        let until = Revision(revision.get() - u64::from(overtaken));
        let delta = since.and_then(|since| {
            let delta = self.database.desired_since(node, since, until)?;
            Some((since, delta))
        });
        match delta {
            Some((since, delta)) => DesiredRead::Changes {
                since,
                revision,
                data: (delta != DesiredDelta::default()).then(|| wire::encode_delta(&delta)),
            },
            None => {
                let data = wire::encode_state(&self.database.desired(node));
                let digest = wire::state_digest(&data).unwrap_or(Digest([0; 32]));
                DesiredRead::Whole {
                    revision,
                    digest,
                    data,
                }
            }
        }
    }
}
