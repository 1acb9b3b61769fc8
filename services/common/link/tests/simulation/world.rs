//! A run: hosts, a control plane, operators, subscribers and misfortune, all drawn from a seed.
//! After every step the invariants are checked; at the end everything must come to rest.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{MicroBytes, Multiplier, NodeId, PeriodId, UserId};
use vpnpanel_link::agent::{Alarm, Event};
use vpnpanel_link::collector::{NodeFacts, session};
use vpnpanel_link::{CommandAnswer, Down, Totals, wire};

use crate::database::{Changed, Database};
use crate::host::{Answer, Errand, Host, Rules};
use crate::mutation::Mutation;
use crate::plane::Plane;
use crate::random::Random;
use crate::truth::Truth;

/// How hard a run is.
#[derive(Debug, Clone)]
pub(crate) struct Misfortune {
    pub(crate) hosts: u64,
    pub(crate) steps: u64,
    /// Of 1,000 effects of an agent, how many are followed by a kill.
    pub(crate) agent_kills: u64,
    /// Of 1,000 steps: how often each strikes.
    pub(crate) stream_cuts: u64,
    pub(crate) collector_crashes: u64,
    pub(crate) engine_deaths: u64,
    pub(crate) disk_losses: u64,
    pub(crate) long_sleeps: u64,
    /// Nodes that cannot reach anybody for a while.
    pub(crate) partitions: u64,
    /// Nobody rolls periods over for a while.
    pub(crate) scheduler_absences: u64,
    pub(crate) multiplier_changes: u64,
    pub(crate) transaction_failures: u64,
    pub(crate) hides_removed: bool,
    /// Users and nodes are changed meanwhile.
    pub(crate) operators: bool,
    pub(crate) absences: u64,
    pub(crate) backups: u64,
    pub(crate) restores: u64,
    /// Agents forget what was acknowledged, and sleep long enough to do so.
    pub(crate) forgets: bool,
}

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
    /// Traffic may pass that one poll has not seen: what the cap may be exceeded by.
    slack: MicroBytes,
    backups: Vec<Database>,
}

impl Misfortune {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut some = |most: u64| {
            if random.chance(500) {
                random.below(most)
            } else {
                0
            }
        };
        let disk_losses = some(15);
        Self {
            agent_kills: some(30),
            stream_cuts: some(60),
            collector_crashes: some(30),
            engine_deaths: some(15),
            disk_losses,
            long_sleeps: some(30),
            partitions: some(20),
            scheduler_absences: some(15),
            multiplier_changes: some(30),
            transaction_failures: some(150),
            hides_removed: disk_losses == 0 && some(2) == 1,
            operators: true,
            absences: some(20),
            backups: 40,
            restores: some(25),
            forgets: some(3) == 2,
            hosts: 1 + random.below(3),
            steps: 100 + random.below(200),
        }
    }
}

impl Misfortune {
    /// The same world in calm.
    fn none(&self) -> Self {
        Self {
            agent_kills: 0,
            stream_cuts: 0,
            collector_crashes: 0,
            engine_deaths: 0,
            disk_losses: 0,
            long_sleeps: 0,
            partitions: 0,
            scheduler_absences: 0,
            multiplier_changes: 0,
            transaction_failures: 0,
            absences: 0,
            backups: 0,
            restores: 0,
            ..self.clone()
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let misfortune = Misfortune::draw(&mut random);
        Self::with(random, misfortune, mutation)
    }

    /// One host and one user, who goes on while nobody can be reached over more than one boundary.
    pub(crate) fn cut_off_over_boundaries(seed: u64) -> Result<(), String> {
        let mut random = Random::new(seed);
        let drawn = Misfortune::draw(&mut random);
        let mut world = Self::with(
            random,
            Misfortune {
                hosts: 1,
                ..drawn.none()
            },
            None,
        );
        world.plane.database.users.clear();
        let node = world.hosts[0].node;
        let (length, now_ms) = (20_000, world.now_ms);
        let database = &mut world.plane.database;
        let user = database.create_user(
            [node].into(),
            30_000_000,
            Some(length),
            now_ms,
            &mut world.random,
        );
        world.go_on_until(now_ms + length - 4_000)?;
        let announced = |world: &Self| {
            let user = &world.plane.database.users[&user];
            (user.period, user.next)
        };
        let (old, next) = announced(&world);
        let next = next.ok_or("nothing is announced")?;
        world.cut_off_ms[0] = i64::MAX;
        world.hang_up(0);
        world.hosts[0]
            .answers
            .push_back((world.now_ms, Answer::Disconnected));
        world.go_on_until(now_ms + 2 * length + 10_000)?;
        if announced(&world).0 == next {
            return Err("nobody rolled over twice".to_owned());
        }
        world.come_to_rest()?;
        let raw = &world.plane.database.raw;
        let used = raw.iter().filter(|(_, (up, down))| up + down > 0);
        let billed: BTreeSet<_> = used.map(|(period, _)| *period).collect();
        if billed == [old, next].into() {
            Ok(())
        } else {
            Err(format!(
                "billed to {billed:?}, announced were {old} and {next}"
            ))
        }
    }

    fn go_on_until(&mut self, at_ms: i64) -> Result<(), String> {
        while self.now_ms < at_ms {
            self.traffic()?;
            self.pass_time()?;
            self.check()?;
        }
        Ok(())
    }

    /// One host whose engine dies every few seconds, and one user with a small limit.
    pub(crate) fn of_dying_engines(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let misfortune = Misfortune {
            hosts: 1,
            steps: 600,
            engine_deaths: 80,
            disk_losses: 0,
            restores: 0,
            operators: false,
            ..Misfortune::draw(&mut random)
        };
        let mut world = Self::with(random, misfortune, mutation);
        world.plane.database.users.clear();
        let nodes = world.hosts.iter().map(|host| host.node).collect();
        let database = &mut world.plane.database;
        database.create_user(nodes, 5_000_000, None, world.now_ms, &mut world.random);
        world
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
            let mut host = Host::new(node, now_ms, &mut random);
            host.engine.hides_removed = misfortune.hides_removed;
            hosts.push(host);
        }
        let slack = MicroBytes::from_bytes(2_000_000 * misfortune.hosts);
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

    /// An older backup is put back, and declared, while a node is away that has been granted, and has
    /// used, most of what its users have.
    pub(crate) fn restored_while_a_node_is_away(
        seed: u64,
        mutation: Option<Mutation>,
    ) -> Result<(), String> {
        let mut random = Random::new(seed);
        let calm = Misfortune {
            hosts: 2,
            hides_removed: false,
            forgets: false,
            operators: false,
            ..Misfortune::draw(&mut random).none()
        };
        let mut world = Self::with(random, calm, mutation);
        let nodes: BTreeSet<_> = world.hosts.iter().map(|host| host.node).collect();
        for _ in 0..3 {
            let database = &mut world.plane.database;
            let now_ms = world.now_ms;
            database.create_user(nodes.clone(), 30_000_000, None, now_ms, &mut world.random);
        }
        world.use_nodes(40, &[0])?;
        let backup = world.plane.database.clone();
        world.use_nodes(60, &[0])?;
        world.hang_up(0);
        let host = &mut world.hosts[0];
        host.away_until_ms = world.now_ms + 150_000;
        host.answers.push_back((world.now_ms, Answer::Disconnected));
        world
            .plane
            .restore(&backup, true, world.now_ms, &mut world.random);
        // An older database knows less of what was billed.
        world.billed.clear();
        world.use_nodes(150, &[0, 1])?;
        if !world.plane.database.rows.standing.held {
            return Err("the barrier is down though a node is awaited".to_owned());
        }
        world.come_to_rest()
    }

    /// Traffic on some hosts alone.
    fn use_nodes(&mut self, steps: u64, hosts: &[usize]) -> Result<(), String> {
        for _ in 0..steps {
            for index in hosts {
                let engine = &mut self.hosts[*index].engine;
                let peers: Vec<_> = engine.peers.keys().copied().collect();
                for peer in peers {
                    let (up, down) = (self.random.below(30_000), self.random.below(300_000));
                    engine.pass(peer, Totals { up, down })?;
                }
            }
            self.pass_time()?;
            self.check()?;
        }
        Ok(())
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
                Answer::Inspected => Event::EngineUp {
                    incarnation: host.engine.incarnation,
                    peers: host.engine.peers.keys().copied().collect(),
                },
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

    fn run_errands(&mut self, index: usize, errands: Vec<Errand>) {
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
                Errand::Run(id) => self.plane.commands.begun(host.node, id, self.now_ms),
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
    fn hang_up(&mut self, index: usize) {
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

    fn deliver(&mut self, rules: &Rules) -> Result<(), String> {
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

    fn deliver_down(&mut self, id: u64, rules: &Rules) -> Result<(), String> {
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

    fn strike(&mut self) -> Result<(), String> {
        let misfortune = self.misfortune.clone();
        let index = self.random.below(self.hosts.len() as u64) as usize;
        if self.random.chance(misfortune.stream_cuts) && self.hosts[index].stream.is_some() {
            self.hang_up(index);
            self.hosts[index]
                .answers
                .push_back((self.now_ms + 100, Answer::Disconnected));
        }
        if self.random.chance(misfortune.partitions) {
            self.cut_off_ms[index] = self.now_ms + self.random.below(90_000) as i64;
            self.hang_up(index);
            self.hosts[index]
                .answers
                .push_back((self.now_ms + 100, Answer::Disconnected));
        }
        if self.random.chance(misfortune.scheduler_absences) {
            self.plane.rolls_from_ms = self.now_ms + self.random.below(120_000) as i64;
        }
        if self.random.chance(misfortune.absences) {
            self.hang_up(index);
            let host = &mut self.hosts[index];
            host.away_until_ms = self.now_ms + self.random.below(60_000) as i64;
            host.answers
                .push_back((self.now_ms + 100, Answer::Disconnected));
        }
        if self.random.chance(misfortune.agent_kills) {
            self.hosts[index].kill();
            self.hang_up(index);
        }
        if self.random.chance(misfortune.collector_crashes) {
            self.plane.crash();
        }
        if self.random.chance(misfortune.engine_deaths) {
            self.kill_engine(index);
        }
        if self.random.chance(misfortune.disk_losses) {
            self.hang_up(index);
            let host = &mut self.hosts[index];
            host.kill();
            host.disk = None;
            self.truth.disk_lost(host.node);
            self.plane.kept.remove(&host.node);
        }
        if self.random.chance(misfortune.long_sleeps) {
            let longest = if misfortune.forgets { 900_000 } else { 90_000 };
            self.now_ms += self.random.below(longest) as i64;
        }
        if self.random.chance(misfortune.backups) {
            if self.backups.len() > 3 {
                let dropped = self.random.below(self.backups.len() as u64) as usize;
                self.backups.remove(dropped);
            }
            self.backups.push(self.plane.database.clone());
        }
        if self.random.chance(misfortune.restores) {
            self.restore();
        }
        Ok(())
    }

    /// An older backup is put back, and somebody says so, or nobody does.
    fn restore(&mut self) {
        if self.backups.is_empty() {
            return;
        }
        let index = self.random.below(self.backups.len() as u64) as usize;
        let declared = self.random.chance(500);
        trace!("{} an older database, declared: {declared}", self.now_ms);
        if self.misfortune.disk_losses > 0 {
            // Books that a new disk has opened at an older mark are the truth from then on.
            self.backups.truncate(index + 1);
        }
        let backup = &self.backups[index];
        self.plane
            .restore(backup, declared, self.now_ms, &mut self.random);
        // An older database knows less of what was billed.
        self.billed.clear();
    }

    /// Whom the nodes have by what is on their disks.
    fn look_at_nodes(&mut self) -> Result<(), String> {
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

    /// The engine dies; the kernel may have been rebooted with it. A running agent notices at
    /// its next read.
    fn kill_engine(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let disk = host.disk.as_ref().map(|disk| &disk.durable);
        self.truth.engine_died(host.node, &host.engine, disk);
        let with_peers = self.random.chance(500);
        host.engine
            .restart(crate::truth::fresh(&mut self.random), with_peers);
        if self.random.chance(300) {
            host.kill();
            host.host_boot = self.random.array();
            host.booted_ms = self.now_ms;
            self.hang_up(index);
        }
    }

    fn create_user(&mut self) {
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
        let now_ms = self.now_ms;
        self.plane
            .database
            .create_user(nodes, limit, length_ms, now_ms, &mut self.random);
    }

    fn operate(&mut self) {
        let users: Vec<_> = self.plane.database.users.keys().copied().collect();
        let user = self.random.pick(&users);
        match (self.random.below(400), user) {
            (0..4, _) => self.create_user(),
            (4..6, Some(user)) => self.plane.database.delete_user(user),
            (6..12, Some(user)) => self.change_user(user),
            (12..16, Some(user)) => {
                let now_ms = self.now_ms;
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
                let policy = self.plane.policy;
                let grants = self
                    .plane
                    .database
                    .set_limit(user, limit, &policy, self.now_ms);
                self.plane.send_grants(grants, self.now_ms);
            }
            _ => {}
        }
        if self.random.chance(20) {
            let index = self.random.below(self.hosts.len() as u64) as usize;
            let node = self.hosts[index].node;
            self.plane.give_command(node, self.now_ms, &mut self.random);
        }
        if self.random.chance(self.misfortune.multiplier_changes) {
            let index = self.random.below(self.hosts.len() as u64) as usize;
            let ppm = 250_000 + self.random.below(1_750_000) as u32;
            let multiplier = Multiplier::from_ppm(ppm).unwrap_or_default();
            let node = self.hosts[index].node;
            self.plane.database.multipliers.insert(node, multiplier);
            self.plane.database.change(Changed::Node(node));
        }
    }

    /// Disabled, enabled, or moved between nodes.
    fn change_user(&mut self, id: UserId) {
        let nodes: Vec<_> = self.hosts.iter().map(|host| host.node).collect();
        let node = self.random.pick(&nodes);
        let Some(user) = self.plane.database.users.get_mut(&id) else {
            return;
        };
        match (self.random.chance(400), node) {
            (true, _) => user.disabled = !user.disabled,
            (false, Some(node)) => {
                if !user.nodes.remove(&node) {
                    user.nodes.insert(node);
                }
            }
            (false, None) => {}
        }
        self.plane.database.change(Changed::User(id));
    }

    fn traffic(&mut self) -> Result<(), String> {
        for host in &mut self.hosts {
            let peers: Vec<_> = host.engine.peers.keys().copied().collect();
            for _ in 0..self.random.below(3) {
                let Some(peer) = self.random.pick(&peers) else {
                    continue;
                };
                let up = self.random.below(30_000);
                let down = self.random.below(300_000);
                host.engine.pass(peer, Totals { up, down })?;
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        self.look_at_nodes()?;
        if let Some(wrong) = self.plane.commands.wrong.take() {
            return Err(wrong);
        }
        let engines: BTreeMap<_, _> = self
            .hosts
            .iter()
            .map(|host| (host.node, &host.engine))
            .collect();
        self.truth.never_more(&self.plane.database, &engines)?;
        for (period, facts) in &self.plane.database.rows.periods {
            let billed = self.billed.entry(*period).or_default();
            if facts.used < *billed {
                return Err(format!("{} of {billed} are left in {period}", facts.used));
            }
            *billed = facts.used;
        }
        for host in &self.hosts {
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
            .find(|(_, facts)| facts.quarantined.is_some())
        {
            return Err(format!("{node} is quarantined: {:?}", facts.quarantined));
        }
        let hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|host| {
                (
                    host.node,
                    &host.engine,
                    host.disk.as_ref().map(|disk| &disk.durable),
                )
            })
            .collect();
        for (period, passed) in self.truth.passed(&self.plane.database, &hosts) {
            let ceiling = self.plane.database.ceilings.get(&period).copied().flatten();
            // What was granted while nobody knew that the database is an older one.
            let granted = self.plane.database.window.granted.get(&period);
            let adopted = self.truth.adopted.get(&period).copied().unwrap_or_default();
            let over = granted.copied().unwrap_or_default() + adopted + self.slack;
            if let Some(limit) = ceiling
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
    fn come_to_rest(&mut self) -> Result<(), String> {
        self.misfortune = self.misfortune.none();
        self.plane.failures = 0;
        for host in &mut self.hosts {
            host.away_until_ms = self.now_ms;
        }
        self.plane.confirmed = true;
        self.plane.rolls_from_ms = 0;
        self.cut_off_ms.fill(0);
        let mut unrest = String::new();
        for step in 0..1_500 {
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

    fn unrest(&self) -> Option<String> {
        let rows = &self.plane.database.rows;
        let epoch = rows.standing.epoch;
        let awaited = |facts: &NodeFacts| facts.must_report(epoch);
        if rows.standing.held || rows.nodes.values().any(awaited) {
            return Some("nodes have not reported".to_owned());
        }
        let engines: BTreeMap<_, _> = self
            .hosts
            .iter()
            .map(|host| (host.node, &host.engine))
            .collect();
        if let Err(what) = self.truth.all_billed(&self.plane.database, &engines) {
            return Some(what);
        }
        if let Some(what) = self.plane.commands.unrest(self.now_ms) {
            return Some(what);
        }
        for host in &self.hosts {
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
            let installed: BTreeSet<_> = host.engine.peers.keys().copied().collect();
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

    fn final_checks(&mut self) -> Result<(), String> {
        self.truth.sums(&self.plane.database)?;
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
