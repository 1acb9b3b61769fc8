//! What runs between hosts and the control plane: streams, and what is under way on them.

use vpnpanel_link::agent::Event;
use vpnpanel_link::collector::session;
use vpnpanel_link::{Down, wire};

use super::World;
use crate::host::{Answer, Errand, Rules};
use crate::mutation::Mutation;

impl World {
    pub(super) fn run_errands(&mut self, index: usize, errands: Vec<Errand>) {
        for errand in errands {
            let host = &mut self.hosts[index];
            match errand {
                Errand::Dial => {
                    let away = host.away_until_ms.max(self.cut_off_ms[index]) > self.now_ms;
                    let answer = if away || self.random.chance(self.misfortune.stream_cuts) {
                        Answer::Refused
                    } else {
                        host.stream = Some(self.plane.accept(host.node, self.now_ms));
                        Answer::Connected
                    };
                    host.answers.push_back((self.now_ms + 50, answer));
                }
                Errand::HangUp => self.hang_up(index),
                Errand::Run(id) => {
                    let told_ms = host.told_ms(self.now_ms);
                    self.plane.commands.begun(host.node, id, told_ms);
                }
                Errand::Send(up) => {
                    let stream = host.stream.and_then(|id| self.plane.streams.get_mut(&id));
                    if let Some(stream) = stream
                        && stream.session.is_some()
                    {
                        let due = self.now_ms + self.random.below(200) as i64;
                        let due = stream.up.back().map_or(due, |(last, _)| due.max(*last));
                        stream.up.push_back((due, up));
                    }
                }
            }
        }
    }

    /// The agent's end is gone; what is under way may still arrive.
    pub(super) fn hang_up(&mut self, index: usize) {
        if let Some(id) = self.hosts[index].stream.take()
            && let Some(stream) = self.plane.streams.get_mut(&id)
        {
            stream.agent = false;
            stream.down.clear();
            let arrives = self.random.below(stream.up.len() as u64 + 1) as usize;
            stream.up.truncate(arrives);
            for (due, _) in &mut stream.up {
                // Late enough, now and then, to meet the next stream.
                *due += self.random.below(4_000) as i64;
            }
        }
    }

    pub(super) fn deliver(&mut self, rules: &Rules) -> Result<(), String> {
        let ids: Vec<_> = self.plane.streams.keys().copied().collect();
        for id in ids {
            while let Some(stream) = self.plane.streams.get_mut(&id) {
                let due = stream
                    .up
                    .front()
                    .is_some_and(|(due, _)| *due <= self.now_ms);
                if !due {
                    break;
                }
                let Some((_, up)) = stream.up.pop_front() else {
                    break;
                };
                let up = wire::up_from_wire(wire::up_to_wire(up))
                    .map_err(|error| format!("the agent sent what cannot be read: {error}"))?;
                if let Some(mut up) = up {
                    if self.mutation == Some(Mutation::LeaseInRawUnits) {
                        let node = stream.node;
                        raw_units::reported(&mut up, self.plane.database.multipliers[&node]);
                    }
                    self.plane.feed(id, session::Event::Frame(up), self.now_ms);
                }
            }
            self.deliver_down(id, rules)?;
        }
        Ok(())
    }

    pub(super) fn deliver_down(&mut self, id: u64, rules: &Rules) -> Result<(), String> {
        let owner = self.hosts.iter().position(|host| host.stream == Some(id));
        loop {
            let Some(stream) = self.plane.streams.get_mut(&id) else {
                return Ok(());
            };
            let due = stream
                .down
                .front()
                .is_some_and(|(due, _)| *due <= self.now_ms);
            if !due {
                break;
            }
            let Some((_, down)) = stream.down.pop_front() else {
                break;
            };
            let down: Option<Down> = wire::down_from_wire(wire::down_to_wire(down))
                .map_err(|error| format!("the collector sent what cannot be read: {error}"))?;
            if let (Some(mut down), Some(index)) = (down, owner) {
                if self.mutation == Some(Mutation::LeaseInRawUnits) {
                    let node = self.hosts[index].node;
                    raw_units::granted(&mut down, self.plane.database.multipliers[&node]);
                }
                if let Down::Welcome(welcome) = &down {
                    self.hosts[index].told = Some((welcome.server_time_ms, self.now_ms));
                }
                self.feed(index, Event::Message(down), rules)?;
            }
        }
        let stream = self.plane.streams.get_mut(&id);
        let ended = stream.is_some_and(|stream| stream.session.is_none() && stream.agent);
        if let (true, Some(index)) = (ended, owner)
            && self.hosts[index].stream == Some(id)
        {
            self.hang_up(index);
            self.hosts[index]
                .answers
                .push_back((self.now_ms, Answer::Disconnected));
        }
        Ok(())
    }
}

/// Amounts of leases as they are on a node that takes them for raw bytes, and back.
mod raw_units {
    use vpnpanel_domain::{MicroBytes, Multiplier};
    use vpnpanel_link::{Down, Up};

    const ONE: u128 = 1_000_000;

    pub(super) fn granted(down: &mut Down, multiplier: Multiplier) {
        if let Down::UsageAck(ack) = down {
            for grant in &mut ack.grants {
                let billable = grant.allowance.get() * u128::from(multiplier.ppm()) / ONE;
                grant.allowance = MicroBytes::new(billable);
            }
        }
    }

    pub(super) fn reported(up: &mut Up, multiplier: Multiplier) {
        let leases = match up {
            Up::LeaseReport(leases) => leases,
            Up::Hello(hello) => &mut hello.leases,
            _ => return,
        };
        let raw = |amount: MicroBytes| {
            MicroBytes::new(amount.get() * ONE / u128::from(multiplier.ppm().max(1)))
        };
        for lease in leases {
            lease.allowance = raw(lease.allowance);
            lease.consumed = raw(lease.consumed);
        }
    }
}
