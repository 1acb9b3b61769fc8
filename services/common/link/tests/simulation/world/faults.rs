//! Misfortune: what strikes, and how.

use vpnpanel_link::EngineKind;

use super::World;
use crate::coverage::{saw, saw_if};
use crate::host::Answer;

impl World {
    pub(super) fn strike(&mut self) -> Result<(), String> {
        let misfortune = self.misfortune.clone();
        let index = self.random.below(self.hosts.len() as u64) as usize;
        if self.random.chance(misfortune.stream_cuts) && self.hosts[index].stream.is_some() {
            saw("fault: stream cut");
            self.cut_stream(index);
        }
        if self.random.chance(misfortune.partitions) {
            saw("fault: partition");
            self.cut_off_ms[index] = self.now_ms + self.random.below(90_000) as i64;
            self.cut_stream(index);
        }
        if self.random.chance(misfortune.scheduler_absences) {
            saw("fault: scheduler away");
            self.plane.rolls_from_ms = self.now_ms + self.random.below(120_000) as i64;
        }
        if self.random.chance(misfortune.absences) {
            saw("fault: away for a while");
            self.hosts[index].away_until_ms = self.now_ms + self.random.below(60_000) as i64;
            self.cut_stream(index);
        }
        if self.random.chance(misfortune.agent_kills) {
            saw("fault: agent killed");
            self.hosts[index].kill();
            self.hang_up(index);
        }
        if self.random.chance(misfortune.collector_crashes) {
            saw("fault: collector crashed");
            self.plane.crash();
        }
        if self.random.chance(misfortune.engine_deaths) {
            self.kill_engine(index);
        }
        if self.random.chance(misfortune.deaf_engines) {
            self.deafen_engine(index);
        }
        if self.random.chance(misfortune.disk_losses) {
            saw("fault: disk lost");
            self.hang_up(index);
            let host = &mut self.hosts[index];
            host.kill();
            host.disk = None;
            self.truth.disk_lost(host.node);
            self.plane.forget_disk(host.node);
        }
        if self.random.chance(misfortune.forks) {
            self.fork(index);
        }
        if self.random.chance(misfortune.long_sleeps) {
            saw("fault: time passed at once");
            let longest = if misfortune.forgets { 900_000 } else { 90_000 };
            self.now_ms += self.random.below(longest) as i64;
        }
        if self.random.chance(misfortune.clock_jumps) {
            self.set_clock(index);
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
        let held = self.plane.database.rows.standing.held;
        if self
            .random
            .chance(misfortune.write_offs * if held { 8 } else { 1 })
        {
            self.write_off(index);
        }
        Ok(())
    }

    /// The stream breaks, and the agent notices a little later.
    pub(super) fn cut_stream(&mut self, index: usize) {
        self.hang_up(index);
        self.hosts[index]
            .answers
            .push_back((self.now_ms + 100, Answer::Disconnected));
    }

    /// A wall clock is set: that of a host, or the control plane's.
    fn set_clock(&mut self, index: usize) {
        let furthest = [10_000, 120_000, 3_600_000][self.random.below(3) as usize];
        let by = self.random.below(furthest) as i64;
        let back = self.random.chance(500);
        let by = if back { -by } else { by };
        if self.random.chance(500) {
            saw_if(back, "fault: node's wall clock set back");
            saw_if(!back, "fault: node's wall clock set forward");
            self.hosts[index].wall_skew_ms += by;
        } else {
            saw_if(back, "fault: control plane's clock set back");
            saw_if(!back, "fault: control plane's clock set forward");
            trace!("{} the control plane's clock moves by {by}", self.now_ms);
            self.plane.skew_ms += by;
        }
    }

    /// An older backup is put back, and somebody says so, or nobody does.
    fn restore(&mut self) {
        if self.backups.is_empty() {
            return;
        }
        let index = self.random.below(self.backups.len() as u64) as usize;
        let declared = self.random.chance(500);
        trace!("{} an older database, declared: {declared}", self.now_ms);
        saw_if(declared, "fault: older database, declared");
        saw_if(!declared, "fault: older database, not declared");
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

    /// A person gives a node up, which may come back.
    pub(super) fn write_off(&mut self, index: usize) {
        let node = self.hosts[index].node;
        let standing = self.plane.database.rows.standing;
        saw_if(standing.held, "fault: written off under the barrier");
        let restored = self.plane.was_restored;
        saw_if(!restored, "fault: written off before any restore");
        let disks = self.hosts.iter().filter(|host| host.node == node);
        let disks = disks.filter_map(|host| host.disk.as_ref());
        for (period, held) in self.plane.held_by(node, disks) {
            *self.truth.written_off.entry(period).or_default() += held;
        }
        trace!("{} {node} is written off", self.now_ms);
        self.plane.database.write_off(node, self.mutation);
    }

    /// An engine dies, and may not come back at once; or the host is rebooted, with both. A running
    /// agent notices at its next read.
    pub(super) fn kill_engine(&mut self, index: usize) {
        if self.random.chance(300) {
            saw("fault: host rebooted");
            for kind in EngineKind::ALL {
                let with_peers = self.random.chance(500);
                self.restart_engine(index, kind, with_peers);
            }
            return self.reboot(index);
        }
        let Some(kind) = self.random.pick(&EngineKind::ALL) else {
            return;
        };
        let with_peers = self.random.chance(500);
        saw_if(
            with_peers,
            "fault: engine died and came back with its peers",
        );
        saw_if(!with_peers, "fault: engine died and came back empty");
        self.restart_engine(index, kind, with_peers);
        if self.random.chance(300) {
            saw("fault: engine died and did not come back at once");
            let until_ms = self.now_ms + self.random.below(20_000) as i64;
            self.hosts[index].engines.of_mut(kind).down_until_ms = until_ms;
        }
    }

    /// The counters of an engine cannot be read for a while; it goes on.
    fn deafen_engine(&mut self, index: usize) {
        if let Some(kind) = self.random.pick(&EngineKind::ALL) {
            let until_ms = self.now_ms + self.random.below(5_000) as i64;
            self.hosts[index].engines.of_mut(kind).deaf_until_ms = until_ms;
        }
    }

    pub(super) fn restart_engine(&mut self, index: usize, kind: EngineKind, with_peers: bool) {
        let host = &mut self.hosts[index];
        let disk = host.disk.as_ref().map(|disk| &disk.durable);
        self.truth
            .engine_died(host.node, host.engines.of(kind), disk);
        let incarnation = crate::truth::fresh(&mut self.random);
        host.engines.of_mut(kind).restart(incarnation, with_peers);
        for fork in &host.lineage {
            self.forks[*fork].own.insert(incarnation);
        }
    }

    pub(super) fn reboot(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.kill();
        host.host_boot = self.random.array();
        host.booted_ms = self.now_ms;
        self.hang_up(index);
    }
}
