//! One identity, two histories: a disk is copied to a second host while the first one lives, or is
//! set back to an older image. Each history may go on, but not both be billed, and two agents that
//! live are found.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::NodeId;
use vpnpanel_link::agent::EpochNumber;
use vpnpanel_link::{CounterKey, EngineKind, Incarnation, Seq, Totals};

use super::World;
use crate::coverage::saw;
use crate::host::{Disk, Host};

/// Hosts beyond those that a run begins with.
const MOST_TWINS: usize = 2;

/// An image of a disk.
#[derive(Clone)]
pub(crate) struct Image {
    node: NodeId,
    disk: Disk,
    /// The forks that it descends from.
    lineage: BTreeSet<usize>,
}

/// A copy of a node's disk that went on by itself.
pub(crate) struct Fork {
    pub(crate) node: NodeId,
    /// Incarnations that only the copy, and copies of it, have counted under.
    pub(crate) own: BTreeSet<Incarnation>,
    /// Counters as the copy had them on its books at first: what both histories have in common.
    common: BTreeMap<CounterKey, Totals>,
    /// The copy has written batches, one of which its next one names. A copy of a disk on which there
    /// is none begins an epoch that follows nothing, as a new disk does: it shows by starts that
    /// alternate alone.
    follows: bool,
    /// Another agent goes on where the copy was taken.
    twin: bool,
}

impl World {
    pub(super) fn is_forked(&self, node: NodeId) -> bool {
        self.forks.iter().any(|fork| fork.node == node)
    }

    /// An image of a disk is taken, put back, or started on a host of its own.
    pub(super) fn fork(&mut self, index: usize) {
        let twins = self.hosts.len() - self.misfortune.hosts as usize;
        match self.random.below(3) {
            0 => {
                let image = self.image_of(index);
                self.images.extend(image);
            }
            1 => {
                let node = self.hosts[index].node;
                let images = self.images.iter().filter(|image| image.node == node);
                let images: Vec<_> = images.cloned().collect();
                let chosen = self.random.below(images.len() as u64) as usize;
                if let Some(image) = images.into_iter().nth(chosen) {
                    saw("fault: disk set back to an older image");
                    self.set_back(index, image);
                }
            }
            _ if twins < MOST_TWINS => {
                if let Some(image) = self.image_of(index) {
                    saw("fault: disk cloned, both agents live");
                    self.clone_host(image);
                }
            }
            _ => {}
        }
    }

    fn image_of(&self, index: usize) -> Option<Image> {
        let host = &self.hosts[index];
        host.disk.clone().map(|disk| Image {
            node: host.node,
            disk,
            lineage: host.lineage.clone(),
        })
    }

    /// The host comes up again with an image of its disk.
    fn set_back(&mut self, index: usize, image: Image) {
        trace!("{} {} is set back", self.now_ms, image.node);
        self.descend(index, &image, false);
        self.restart_engines(index);
        self.reboot(index);
        self.truth.disk_lost(image.node);
        self.plane.forget_disk(image.node);
        self.hosts[index].disk = Some(image.disk);
    }

    /// A second host comes up with a copy of the disk.
    fn clone_host(&mut self, image: Image) {
        trace!("{} {} is cloned", self.now_ms, image.node);
        let hides_removed = self.misfortune.hides_removed;
        let (node, now_ms, mutation) = (image.node, self.now_ms, self.mutation);
        let twin = Host::new(node, now_ms, hides_removed, mutation, &mut self.random);
        self.hosts.push(twin);
        self.cut_off_ms.push(0);
        let index = self.hosts.len() - 1;
        self.descend(index, &image, true);
        self.restart_engines(index);
        self.hosts[index].disk = Some(image.disk);
    }

    fn restart_engines(&mut self, index: usize) {
        for kind in EngineKind::ALL {
            self.restart_engine(index, kind, false);
        }
    }

    /// A host goes on from an image.
    fn descend(&mut self, host: usize, image: &Image, twin: bool) {
        let durable = &image.disk.durable;
        let written = |epoch: &EpochNumber| durable.epochs[epoch].last > Seq(0);
        let counters = durable.counters.iter();
        let lineage = &mut self.hosts[host].lineage;
        lineage.clone_from(&image.lineage);
        lineage.insert(self.forks.len());
        self.forks.push(Fork {
            node: image.node,
            own: BTreeSet::new(),
            common: counters
                .map(|(key, record)| (*key, record.baseline().0))
                .collect(),
            follows: durable.epochs.keys().any(written),
            twin,
        });
        // Each of the two may do what the other has done.
        self.plane.commands.forget(image.node);
    }

    /// Of two histories one is billed.
    pub(super) fn check_forks(&self) -> Result<(), String> {
        let tells = |fork: &&Fork| {
            let mut of_node = self.forks.iter().filter(|other| other.node == fork.node);
            of_node.all(|other| other.follows)
        };
        for fork in self.forks.iter().filter(tells) {
            let marks = self.plane.database.rows.marks.iter();
            let marks = marks.filter(|((node, _), _)| *node == fork.node);
            let (mut copy, mut other) = (false, false);
            for ((_, key), mark) in marks {
                let common = fork.common.get(key).copied().unwrap_or_default();
                let beyond = !common.covers(mark.totals);
                if fork.own.contains(&key.incarnation) {
                    copy |= beyond;
                } else {
                    other |= beyond;
                }
            }
            if copy && other {
                return Err(format!("two histories of {} are billed", fork.node));
            }
        }
        Ok(())
    }

    /// Two agents that live with one identity, and that nobody has found.
    pub(super) fn unfound_twin(&self) -> Option<String> {
        let database = &self.plane.database;
        let twins = self.forks.iter().filter(|fork| fork.twin);
        twins
            .map(|fork| fork.node)
            .find(|node| !database.is_quarantined(*node))
            .map(|node| format!("two agents say that they are {node}"))
    }
}
