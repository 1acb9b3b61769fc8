//! The stream, from the agent's side: when to dial, what to say first, and what the control
//! plane's answers change. Losing it changes nothing on the node.

use std::collections::BTreeSet;

use super::{Agent, Alarm, Effect, Now, Welcomed, Write};
use crate::{
    AppliedState, CounterKey, Down, Entropy, Generation, Health, Hello, PROTOCOL, Pace, Revision,
    StateEpoch, Up, UsageAck, Welcome, entropy, wire::Assembly,
};

/// Longest wait between attempts.
const BACKOFF_MAX_MS: u64 = 120_000;
/// Wait after the first failure, before jitter.
const BACKOFF_MIN_MS: u64 = 1_000;
/// A stream that lived this long was a good one.
const HEALTHY_MS: i64 = 60_000;
/// From Hello to Welcome.
const GREETING_MS: i64 = 15_000;
/// In how many intervals of Health a node that is as it was says so once.
const HEALTH_REPEATED: u32 = 3;
/// Counters in Hello.
const HELLO_COUNTERS: usize = 16_384;

/// The stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    phase: Phase,
    /// Failures in a row.
    failures: u32,
    /// Set by Drain: when to come back.
    come_back_ms: Option<u64>,
    /// The counters whose marks Hello has asked for.
    pub(super) asked: BTreeSet<CounterKey>,
    /// The state that Hello said is applied.
    told: Option<AppliedState>,
    pub(super) assembly: Assembly,
    /// The desired state came with an update of this stream.
    pub(super) updated: bool,
    pace: Pace,
    next_health_ms: i64,
    /// What was said of the node's health last on this stream, and how often it was not repeated.
    told_health: Option<(Health, u32)>,
    quarantined: bool,
    /// What the control plane has asked for on this stream.
    pub(super) report: Option<super::report::Report>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the time to dial.
    Offline {
        until_ms: i64,
    },
    /// Waits for the engines' first words, so that Hello can ask for marks.
    Starting {
        until_ms: i64,
    },
    Dialling,
    Greeting {
        since_ms: i64,
    },
    Live {
        since_ms: i64,
    },
    Closing,
}

impl Stream {
    pub(super) fn new(now: Now) -> Self {
        Self {
            phase: Phase::Starting {
                until_ms: now.boottime_ms + 10_000,
            },
            failures: 0,
            come_back_ms: None,
            asked: BTreeSet::new(),
            told: None,
            assembly: Assembly::default(),
            updated: false,
            pace: Pace::default(),
            next_health_ms: 0,
            told_health: None,
            quarantined: false,
            report: None,
        }
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// How many batches may be in flight; `None` while nothing can be sent.
    pub(super) fn window(&self) -> Option<usize> {
        matches!(self.phase, Phase::Live { .. }).then_some(if self.quarantined {
            0
        } else {
            self.pace.window as usize
        })
    }

    pub(super) fn deadline(&self) -> i64 {
        match self.phase {
            Phase::Offline { until_ms } | Phase::Starting { until_ms } => until_ms,
            Phase::Greeting { since_ms } => since_ms + GREETING_MS,
            Phase::Live { .. } => self.next_health_ms,
            Phase::Dialling | Phase::Closing => i64::MAX,
        }
    }
}

impl Agent {
    pub(super) fn tick_stream(&mut self, now: Now) {
        match self.stream.phase {
            Phase::Offline { until_ms } | Phase::Starting { until_ms }
                if now.boottime_ms >= until_ms =>
            {
                self.stream.phase = Phase::Dialling;
                self.out.push(Effect::Connect);
            }
            Phase::Greeting { since_ms } if now.boottime_ms >= since_ms + GREETING_MS => {
                self.hang_up("no Welcome in time");
            }
            Phase::Live { .. } if now.boottime_ms >= self.stream.next_health_ms => {
                self.stream.next_health_ms = now.boottime_ms + self.stream.pace.health_ms as i64;
                self.tell_health();
            }
            _ => {}
        }
    }

    /// Says how the node is; what is as it was is repeated less often.
    fn tell_health(&mut self) {
        let (unacked_batches, unacked_bytes) = self.unacked();
        let applied = self.durable.applied.map(|state| state.revision);
        let health = Health {
            engines: self.statuses.clone(),
            unacked_batches,
            unacked_bytes,
            applied_revision: applied.unwrap_or(Revision(0)),
        };
        match &mut self.stream.told_health {
            Some((told, kept)) if *told == health && *kept + 1 < HEALTH_REPEATED => *kept += 1,
            told => {
                *told = Some((health.clone(), 0));
                self.out.push(Effect::Send(Up::Health(health)));
            }
        }
    }

    /// When every engine has said its first word, Hello can be complete.
    pub(super) fn may_dial(&mut self, now: Now) {
        if matches!(self.stream.phase, Phase::Starting { .. }) && self.engines.all_heard() {
            self.stream.phase = Phase::Starting {
                until_ms: now.boottime_ms,
            };
            self.tick_stream(now);
        }
    }

    /// Marks are asked for in Hello only: a stream that is already open begins anew.
    pub(super) fn ask_marks(&mut self) {
        if matches!(
            self.stream.phase,
            Phase::Greeting { .. } | Phase::Live { .. }
        ) {
            self.stream.come_back_ms = Some(0);
            self.hang_up("marks have to be asked for");
        }
    }

    /// Asks for the marks of counters that this stream's Hello did not name.
    pub(super) fn ask_for_new_marks(&mut self) {
        let asked = &self.stream.asked;
        if self
            .engines
            .unknown()
            .any(|counter| !asked.contains(&counter))
        {
            self.ask_marks();
        }
    }

    /// Ends the stream on somebody's wish; the next is opened when so much time has passed.
    pub(super) fn come_back_after(&mut self, wait_ms: u64) {
        self.stream.come_back_ms = Some(wait_ms);
        self.hang_up("told to come back");
    }

    fn hang_up(&mut self, reason: &'static str) {
        self.commit();
        self.stream.phase = Phase::Closing;
        self.out.push(Effect::Disconnect { reason });
    }

    pub(super) fn connected(&mut self, now: Now) {
        if self.stream.phase != Phase::Dialling {
            return;
        }
        self.stream.asked = self.engines.unknown().take(HELLO_COUNTERS).collect();
        self.stream.phase = Phase::Greeting {
            since_ms: now.boottime_ms,
        };
        self.stream.assembly = Assembly::default();
        self.stream.updated = false;
        self.stream.report = None;
        self.stream.told = self.durable.applied;
        self.commit();
        self.out.push(Effect::Send(Up::Hello(Box::new(Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            capabilities: self.settings.capabilities.clone(),
            agent_version: self.settings.agent_version.clone(),
            boot: self.boot,
            spool: self.durable.spool,
            applied: self.durable.applied,
            epochs: self.epoch_summaries(),
            engines: self.statuses.clone(),
            unknown_baselines: self.stream.asked.iter().copied().collect(),
            leases: self.held_leases(),
            generation: self
                .durable
                .welcomed
                .map_or(Generation(0), |stream| stream.generation),
            state_epoch: self
                .durable
                .welcomed
                .map_or(StateEpoch(0), |stream| stream.state_epoch),
        }))));
    }

    /// Attempts with the certificate before tell nothing about the next one, which is made soon.
    pub(super) fn renewed(&mut self, now: Now, entropy: &mut dyn Entropy) {
        self.stream.failures = 0;
        if let Phase::Offline { until_ms } = &mut self.stream.phase {
            let wait = 100 + entropy::below(entropy, BACKOFF_MIN_MS);
            let soon = now.boottime_ms.saturating_add_unsigned(wait);
            *until_ms = soon.min(*until_ms);
        }
    }

    pub(super) fn disconnected(&mut self, now: Now, entropy: &mut dyn Entropy) {
        if let Phase::Live { since_ms } = self.stream.phase
            && now.boottime_ms - since_ms >= HEALTHY_MS
        {
            self.stream.failures = 0;
        }
        let wait = self.stream.come_back_ms.take().unwrap_or_else(|| {
            let doubled = BACKOFF_MIN_MS << self.stream.failures.min(10);
            self.stream.failures = self.stream.failures.saturating_add(1);
            // Full jitter, but never a hot loop.
            100 + entropy::below(entropy, doubled.min(BACKOFF_MAX_MS))
        });
        let wait = i64::try_from(wait).unwrap_or(i64::MAX);
        self.stream.phase = Phase::Offline {
            until_ms: now.boottime_ms.saturating_add(wait),
        };
    }

    pub(super) fn take_message(&mut self, message: Down, now: Now, entropy: &mut dyn Entropy) {
        match (self.stream.phase, message) {
            (Phase::Greeting { .. }, Down::Welcome(welcome)) => self.welcomed(*welcome, now),
            (Phase::Live { .. }, Down::ConfigUpdate(piece)) => self.take_config(piece, now),
            (Phase::Live { .. }, Down::UsageAck(ack)) => self.take_ack(ack, now),
            (Phase::Greeting { .. } | Phase::Live { .. }, Down::Drain { spread_ms }) => {
                self.stream.come_back_ms = Some(entropy::below(entropy, spread_ms));
                self.hang_up("the collector drains");
            }
            (Phase::Live { .. }, Down::Command(command)) => self.commanded(command, now, entropy),
            (_, Down::RenewalAnswer(_)) => {}
            (Phase::Greeting { .. } | Phase::Live { .. }, _) => {
                self.hang_up("a message out of place");
            }
            // The stream is gone already.
            _ => {}
        }
    }

    fn welcomed(&mut self, welcome: Welcome, now: Now) {
        self.stream.phase = Phase::Live {
            since_ms: now.boottime_ms,
        };
        self.stream.pace = welcome.pace;
        self.stream.next_health_ms = now.boottime_ms;
        self.stream.told_health = None;
        self.stream.quarantined = welcome.quarantined.is_some();
        if let Some(reason) = welcome.quarantined {
            self.out.push(Effect::Alarm(Alarm::Quarantined { reason }));
        }
        // On disk before anything else is said on this stream: an older database shows by it.
        self.write(Write::Welcomed(Welcomed {
            generation: welcome.generation,
            state_epoch: welcome.state_epoch,
        }));
        self.anchor(welcome.server_time_ms, now);
        self.resume(&welcome.cursors, welcome.server_time_ms);
        if !self.stream.quarantined {
            self.declare_lost();
        }
        if welcome.report {
            self.begin_report(welcome.state_epoch);
        }
        self.marks_told(&welcome.marks);
        self.adopt(now);
        self.schedule_times(now);
        self.set_gates(None, now);
        // What came to be applied since Hello would be taken for what Hello said.
        if let Some(state) = self.durable.applied
            && self.stream.told != Some(state)
        {
            self.acknowledge_state(state, Vec::new());
        }
        self.reconcile(now);
        self.release();
        self.next_report_ms = now.boottime_ms + self.stream.pace.report_ms as i64;
        self.pump();
        self.ask_for_new_marks();
    }

    fn take_ack(&mut self, ack: UsageAck, now: Now) {
        let server_ms = self.server_ms(now);
        for committed in ack.committed {
            self.acknowledge(committed, server_ms);
        }
        if let Some((epoch, seq)) = ack.resend_from {
            self.resend(epoch, seq);
        }
        if let Some(reason) = ack.quarantined {
            self.stream.quarantined = true;
            self.out.push(Effect::Alarm(Alarm::Quarantined { reason }));
        }
        self.answer_segments(&ack.missing_segments);
        let users: Vec<_> = ack.grants.iter().map(|grant| grant.user).collect();
        for grant in ack.grants {
            self.take_grant(grant);
        }
        self.set_gates(Some(&users), now);
        self.settle_departed();
        self.send_lease_reports();
        self.pump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Event;
    use crate::agent::testing::{Host, Zeros, at};

    /// Health that was sent in so many intervals from a moment on.
    fn told(host: &mut Host, from_ms: i64, intervals: i64) -> usize {
        (0..intervals)
            .flat_map(|n| {
                let now = at(from_ms + n * Pace::default().health_ms as i64);
                host.agent.step(Event::Tick, now, &mut Zeros)
            })
            .filter(|effect| matches!(effect, Effect::Send(Up::Health(_))))
            .count()
    }

    #[test]
    fn with_a_new_certificate_the_next_stream_is_opened_soon_whatever_failed_before() {
        struct Ones;
        impl Entropy for Ones {
            fn fill(&mut self, bytes: &mut [u8]) {
                bytes.fill(0xff);
            }
        }
        let mut host = Host::connected();
        let until = |host: &Host| match host.agent.stream.phase {
            Phase::Offline { until_ms } => until_ms,
            other => panic!("{other:?}"),
        };
        host.agent.stream.failures = 6;
        let step = |host: &mut Host, event, ms| {
            host.agent.step(event, at(ms), &mut Ones);
        };
        step(&mut host, Event::Disconnected, 1_000);
        assert!(until(&host) > 40_000, "{}", until(&host));
        step(&mut host, Event::CertificateRenewed, 2_000);
        assert!(until(&host) <= 3_100, "{}", until(&host));
        assert_eq!(host.agent.stream.failures, 0);
        step(&mut host, Event::CertificateRenewed, 2_500);
        assert!(until(&host) <= 3_100, "never later than it was");
    }

    #[test]
    fn what_is_as_it_was_is_said_every_third_time_and_a_change_at_once() {
        let mut host = Host::connected();
        assert_eq!(told(&mut host, 200_000, 9), 2);
        assert_eq!(told(&mut host, 245_000, 1), 1, "a third time again");
        let engine = crate::EngineStatus {
            kind: "wireguard".to_owned(),
            version: "1".to_owned(),
            healthy: false,
            problem: "it does not run".to_owned(),
            peers: 0,
            incarnation: None,
        };
        host.step(Event::EngineStatus(vec![engine]));
        assert_eq!(told(&mut host, 250_000, 1), 1);
    }
}
