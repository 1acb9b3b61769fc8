//! A run: hosts, a control plane, operators, subscribers and misfortune, all drawn from a seed.
//! After every step the invariants are checked; at the end everything must come to rest.

mod checks;
mod directed;
mod faults;
mod forks;
mod network;
mod operators;

use std::collections::BTreeMap;

use vpnpanel_domain::{MicroBytes, NodeId, PeriodId};
use vpnpanel_link::CommandAnswer;
use vpnpanel_link::agent::Event;

use crate::database::Database;
use crate::host::{Answer, Host, Rules};
use crate::misfortune::Misfortune;
use crate::mutation::Mutation;
use crate::plane::Plane;
use crate::random::Random;
use crate::truth::Truth;
use forks::{Fork, Image};

pub(crate) struct World {
    pub(crate) now_ms: i64,
    pub(crate) random: Random,
    pub(crate) hosts: Vec<Host>,
    pub(crate) plane: Plane,
    pub(crate) truth: Truth,
    misfortune: Misfortune,
    mutation: Option<Mutation>,
    /// Until when a host cannot reach anybody.
    cut_off_ms: Vec<i64>,
    /// The most that was ever billed to each period.
    billed: BTreeMap<PeriodId, MicroBytes>,
    /// Traffic of a host may pass that one poll has not seen: what the cap may be exceeded by.
    slack: MicroBytes,
    backups: Vec<Database>,
    /// Images of disks.
    images: Vec<Image>,
    forks: Vec<Fork>,
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let misfortune = Misfortune::draw(&mut random);
        Self::with(random, misfortune, mutation)
    }

    pub(crate) fn with(
        mut random: Random,
        misfortune: Misfortune,
        mutation: Option<Mutation>,
    ) -> Self {
        let now_ms = 1_795_000_000_000;
        let mut plane = Plane::new(mutation);
        plane.failures = misfortune.transaction_failures;
        let mut hosts = Vec::new();
        for _ in 0..misfortune.hosts {
            let node = NodeId::from_bytes(random.array());
            plane.database.add_node(node);
            let hides_removed = misfortune.hides_removed;
            hosts.push(Host::new(
                node,
                now_ms,
                hides_removed,
                mutation,
                &mut random,
            ));
        }
        let slack = MicroBytes::from_bytes(2_000_000);
        let truth = Truth::default();
        let mut world = Self {
            now_ms,
            random,
            cut_off_ms: vec![0; hosts.len()],
            billed: BTreeMap::new(),
            hosts,
            plane,
            truth,
            misfortune,
            mutation,
            slack,
            backups: Vec::new(),
            images: Vec::new(),
            forks: Vec::new(),
        };
        for _ in 0..1 + world.random.below(4) {
            world.create_user();
        }
        world
    }

    pub(crate) fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.misfortune.steps {
            self.strike()?;
            if self.misfortune.operators {
                self.operate();
            }
            self.traffic()?;
            self.pass_time()?;
            self.check()?;
        }
        self.come_to_rest()
    }

    /// Time goes on by a step, and what is due happens.
    pub(crate) fn pass_time(&mut self) -> Result<(), String> {
        self.now_ms += self.random.below(700) as i64;
        let rules = self.rules();
        for index in 0..self.hosts.len() {
            self.run_host(index, &rules)?;
        }
        self.deliver(&rules)?;
        self.plane.turn(self.now_ms, &mut self.random)
    }

    fn rules(&self) -> Rules {
        Rules {
            mutation: self.mutation,
            kills: self.misfortune.agent_kills,
            forgets: self.misfortune.forgets,
        }
    }

    fn run_host(&mut self, index: usize, rules: &Rules) -> Result<(), String> {
        let host = &mut self.hosts[index];
        if host.agent.is_none() {
            if self.random.chance(300) {
                let errands = host.start(self.now_ms, rules, &mut self.truth, &mut self.random)?;
                self.run_errands(index, errands);
            }
            return Ok(());
        }
        let mut due = Vec::new();
        host.answers.retain_mut(|(at, answer)| {
            let now = *at <= self.now_ms;
            if now {
                due.push(std::mem::replace(answer, Answer::Refused));
            }
            !now
        });
        for answer in due {
            let host = &self.hosts[index];
            let event = match answer {
                Answer::Inspected(kind) => host.inspect(kind, self.now_ms),
                Answer::Applied(ticket) => Event::Applied {
                    ticket,
                    errors: Vec::new(),
                },
                Answer::Connected => Event::Connected,
                Answer::Done(id) => Event::CommandDone {
                    id,
                    answer: CommandAnswer::done(String::new()),
                },
                Answer::Refused | Answer::Disconnected => Event::Disconnected,
            };
            self.feed(index, event, rules)?;
        }
        let host = &mut self.hosts[index];
        if let Some(event) = host.advance_read(self.now_ms, rules, &mut self.random) {
            self.feed(index, event, rules)?;
        }
        let host = &self.hosts[index];
        let now = host.now(self.now_ms).boottime_ms;
        if host
            .agent
            .as_ref()
            .is_some_and(|agent| agent.deadline() <= now)
        {
            self.feed(index, Event::Tick, rules)?;
        }
        Ok(())
    }

    fn feed(&mut self, index: usize, event: Event, rules: &Rules) -> Result<(), String> {
        let host = &mut self.hosts[index];
        let errands = host.feed(event, self.now_ms, rules, &mut self.truth, &mut self.random)?;
        self.run_errands(index, errands);
        Ok(())
    }
}
