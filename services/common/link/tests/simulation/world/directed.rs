//! Runs of their own, where chance does not meet what they are about often enough.

use std::collections::BTreeSet;

use vpnpanel_domain::{MicroBytes, PeerId};
use vpnpanel_link::Totals;

use super::World;
use crate::host::Answer;
use crate::misfortune::Misfortune;
use crate::mutation::Mutation;
use crate::random::Random;

impl World {
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
        world.go_on_until(now_ms + length - 8_000)?;
        // It comes by chance in other runs.
        let at_ms = world.now_ms;
        world.plane.lease_ahead(at_ms, &mut world.random);
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

    /// Engines that cannot be read every now and then.
    pub(crate) fn of_deaf_engines(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let misfortune = Misfortune {
            deaf_engines: 150,
            ..Misfortune::draw(&mut random)
        };
        Self::with(random, misfortune, mutation)
    }

    /// One host and one user with a small limit, who sends through both engines at once.
    pub(crate) fn through_both_engines(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let misfortune = Misfortune {
            hosts: 1,
            steps: 300,
            operators: false,
            ..Misfortune::draw(&mut random).none()
        };
        let mut world = Self::with(random, misfortune, mutation);
        // The one engine stops at the byte, and what the other may pass unread is counted.
        world.slack = MicroBytes::from_bytes(300_000);
        world.plane.database.users.clear();
        let nodes = world.hosts.iter().map(|host| host.node).collect();
        let database = &mut world.plane.database;
        let id = database.create_user(nodes, 20_000_000, None, world.now_ms, &mut world.random);
        if let Some(user) = database.users.get_mut(&id) {
            user.peers = [2, 3].map(|n| PeerId::from_bytes([n; 16])).into();
        }
        world
    }

    pub(super) fn go_on_until(&mut self, at_ms: i64) -> Result<(), String> {
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
            forks: 0,
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

    /// An older backup is put back, and declared, while a node is away that has been granted, and has
    /// used, most of what its users have.
    pub(crate) fn restored_while_a_node_is_away(
        seed: u64,
        mutation: Option<Mutation>,
    ) -> Result<(), String> {
        let mut world = Self::calm_pair(seed, mutation);
        world.use_nodes(40, &[0])?;
        let backup = world.plane.database.clone();
        world.use_nodes(60, &[0])?;
        world.go_away(0, 150_000);
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

    /// An older backup was put back, and declared. Then the database fails over to a replica that knows
    /// of a node's stream and of nothing that came on it, at the moment in which all that the node
    /// holds is committed and nothing has followed from it yet. The node is away from then on.
    pub(crate) fn failed_over_before_a_report_counts(
        seed: u64,
        mutation: Option<Mutation>,
    ) -> Result<(), String> {
        let mut world = Self::calm_pair(seed, mutation);
        let node = world.hosts[0].node;
        world.use_nodes(40, &[0])?;
        let backup = world.plane.database.clone();
        world.use_nodes(60, &[0])?;
        world.plane.lags_behind = Some(node);
        world
            .plane
            .restore(&backup, true, world.now_ms, &mut world.random);
        world.billed.clear();
        for _ in 0..400 {
            if world.plane.is_about_to_report(node) {
                break;
            }
            world.use_nodes(1, &[])?;
        }
        if !world.plane.is_about_to_report(node) {
            return Err("the node does not report".to_owned());
        }
        world.plane.fail_over()?;
        world.billed.clear();
        world.go_away(0, 150_000);
        world.use_nodes(150, &[0, 1])?;
        if !world.plane.database.rows.standing.held {
            return Err("the barrier is down though what a node holds was lost".to_owned());
        }
        world.come_to_rest()
    }

    /// Two hosts on which nothing happens, and users with a limit on both.
    fn calm_pair(seed: u64, mutation: Option<Mutation>) -> Self {
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
        world
    }

    /// A host breaks off, and reaches nobody for so long.
    fn go_away(&mut self, index: usize, for_ms: i64) {
        self.hang_up(index);
        let host = &mut self.hosts[index];
        host.away_until_ms = self.now_ms + for_ms;
        host.answers.push_back((self.now_ms, Answer::Disconnected));
    }

    /// Traffic on some hosts alone.
    pub(super) fn use_nodes(&mut self, steps: u64, hosts: &[usize]) -> Result<(), String> {
        for _ in 0..steps {
            for index in hosts {
                let host = &mut self.hosts[*index];
                let peers: Vec<_> = host.engines.peers().collect();
                for peer in peers {
                    let (up, down) = (self.random.below(30_000), self.random.below(300_000));
                    host.engines.pass(peer, Totals { up, down }, self.now_ms)?;
                }
                let disk = host.disk.as_ref().map(|disk| &disk.durable);
                self.truth.traffic(*index, &host.engines, disk);
            }
            self.pass_time()?;
            self.check()?;
        }
        Ok(())
    }
}
