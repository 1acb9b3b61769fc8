//! An agent and its disk, for tests of what it answers to messages.

use super::{Agent, Durable, Effect, Event, Now, Settings};
use crate::{
    Command, Down, EngineKind, Entropy, Generation, PROTOCOL, Pace, SpoolId, StateEpoch, Welcome,
};

pub(super) struct Zeros;

impl Entropy for Zeros {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

pub(super) const SERVER_MS: i64 = 1_790_000_000_000;

pub(super) fn at(boottime_ms: i64) -> Now {
    Now {
        boottime_ms,
        wall_ms: SERVER_MS,
    }
}

/// An agent and its disk.
pub(super) struct Host {
    pub(super) agent: Agent,
    pub(super) disk: Durable,
    /// The clock; at 200,000 the control plane says [`SERVER_MS`].
    pub(super) boottime_ms: i64,
}

impl Host {
    pub(super) fn start(disk: Durable) -> Self {
        let (agent, effects) = Agent::start(disk.clone(), Settings::default(), at(1), &mut Zeros);
        let mut host = Self {
            agent,
            disk,
            boottime_ms: 200_000,
        };
        host.keep(&effects);
        host
    }

    /// With an empty disk, and a stream that is welcomed.
    pub(super) fn connected() -> Self {
        Self::connected_from(empty())
    }

    /// With a stream that is welcomed.
    pub(super) fn connected_from(disk: Durable) -> Self {
        let mut host = Self::start(disk);
        host.without_engines();
        host.connect();
        host
    }

    /// No engine runs.
    pub(super) fn without_engines(&mut self) {
        for kind in EngineKind::ALL {
            self.step(Event::EngineDown { kind });
        }
    }

    pub(super) fn connect(&mut self) {
        self.greet();
        self.welcome(false);
        assert!(self.agent.is_connected());
    }

    /// Opens a stream, up to its Hello.
    pub(super) fn greet(&mut self) -> Vec<Effect> {
        self.agent.step(Event::Tick, at(200_000), &mut Zeros);
        self.step(Event::Connected)
    }

    /// Answers Hello, as a database that has nothing of this node.
    pub(super) fn welcome(&mut self, report: bool) -> Vec<Effect> {
        self.hear(Down::Welcome(Box::new(Welcome {
            protocol: PROTOCOL,
            generation: Generation(1),
            state_epoch: StateEpoch(0),
            server_time_ms: SERVER_MS,
            pace: Pace::default(),
            cursors: Vec::new(),
            marks: Vec::new(),
            quarantined: None,
            report,
        })))
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.agent.step(event, at(self.boottime_ms), &mut Zeros);
        self.keep(&effects);
        effects
    }

    pub(super) fn give(&mut self, command: Command) -> Vec<Effect> {
        self.hear(Down::Command(command))
    }

    /// A message of the control plane.
    pub(super) fn hear(&mut self, message: Down) -> Vec<Effect> {
        self.step(Event::Message(message))
    }

    fn keep(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Commit(transaction) = effect {
                self.disk.apply(transaction);
            }
        }
    }
}

pub(super) fn empty() -> Durable {
    Durable::new(SpoolId([1; 16]))
}
