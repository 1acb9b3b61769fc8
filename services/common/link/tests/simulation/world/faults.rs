//! Misfortune: what strikes, and how.

use vpnpanel_link::EngineKind;

use super::World;
use crate::host::Answer;

impl World {
    pub(super) fn strike(&mut self) -> Result<(), String> {
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
        if self.random.chance(misfortune.deaf_engines) {
            self.deafen_engine(index);
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
    pub(super) fn restore(&mut self) {
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

    /// An engine dies, and may not come back at once; or the host is rebooted, with both. A running
    /// agent notices at its next read.
    pub(super) fn kill_engine(&mut self, index: usize) {
        let reboots = self.random.chance(300);
        let kinds = if reboots {
            EngineKind::ALL.to_vec()
        } else {
            self.random.pick(&EngineKind::ALL).into_iter().collect()
        };
        for kind in kinds {
            let with_peers = self.random.chance(500);
            let fresh = crate::truth::fresh(&mut self.random);
            let absence = self.random.below(20_000) as i64;
            let comes_back = self.random.chance(700);
            let host = &mut self.hosts[index];
            let disk = host.disk.as_ref().map(|disk| &disk.durable);
            self.truth
                .engine_died(host.node, host.engines.of(kind), disk);
            let engine = host.engines.of_mut(kind);
            engine.restart(fresh, with_peers);
            if !comes_back {
                engine.down_until_ms = self.now_ms + absence;
            }
        }
        if reboots {
            let host = &mut self.hosts[index];
            host.kill();
            host.host_boot = self.random.array();
            host.booted_ms = self.now_ms;
            self.hang_up(index);
        }
    }

    /// The counters of an engine cannot be read for a while; it goes on.
    fn deafen_engine(&mut self, index: usize) {
        if let Some(kind) = self.random.pick(&EngineKind::ALL) {
            let until_ms = self.now_ms + self.random.below(5_000) as i64;
            self.hosts[index].engines.of_mut(kind).deaf_until_ms = until_ms;
        }
    }
}
