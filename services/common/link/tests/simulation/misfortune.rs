//! How hard a run is.

use crate::random::Random;

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
    /// Engines whose counters cannot be read for a while.
    pub(crate) deaf_engines: u64,
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
    /// Nodes are given up: many times as often while they are awaited after a restore.
    pub(crate) write_offs: u64,
    /// Wall clocks are set, of hosts and of the control plane.
    pub(crate) clock_jumps: u64,
    /// Disks are copied, and set back to a copy. What a database that is older as well makes of such
    /// a node cannot be told apart from the truth here: such runs have neither restores nor losses.
    pub(crate) forks: u64,
    /// Agents forget what was acknowledged, and sleep long enough to do so.
    pub(crate) forgets: bool,
}

impl Misfortune {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let forks = if random.chance(200) {
            1 + random.below(25)
        } else {
            0
        };
        let mut some = |most: u64| {
            if random.chance(500) {
                random.below(most)
            } else {
                0
            }
        };
        let drawn_losses = some(15);
        let drawn_restores = some(25);
        let is_alone = forks == 0;
        let disk_losses = if is_alone { drawn_losses } else { 0 };
        Self {
            agent_kills: some(30),
            stream_cuts: some(60),
            collector_crashes: some(30),
            engine_deaths: some(15),
            deaf_engines: some(30),
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
            restores: if is_alone { drawn_restores } else { 0 },
            write_offs: some(8),
            clock_jumps: some(30),
            forks,
            forgets: some(3) == 2 && is_alone,
            hosts: 1 + random.below(3),
            steps: 100 + random.below(200),
        }
    }
}

impl Misfortune {
    /// The same world in calm.
    pub(crate) fn none(&self) -> Self {
        Self {
            agent_kills: 0,
            stream_cuts: 0,
            collector_crashes: 0,
            engine_deaths: 0,
            deaf_engines: 0,
            disk_losses: 0,
            long_sleeps: 0,
            partitions: 0,
            scheduler_absences: 0,
            multiplier_changes: 0,
            transaction_failures: 0,
            absences: 0,
            backups: 0,
            restores: 0,
            write_offs: 0,
            clock_jumps: 0,
            forks: 0,
            ..self.clone()
        }
    }
}
