//! What breaks while traffic flows, one fault after the other, several at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::task::{JoinError, JoinSet};

use crate::agent::Node;
use crate::error::Error;
use crate::figures::Times;
use crate::installation::ControlPlane;
use crate::nodes::Nodes;
use crate::relay::Line;
use crate::settings::{Fault, Run};

const LOOK: Duration = Duration::from_millis(20);
/// One fault concerns at most this share of the nodes.
const SHARE: usize = 10;

/// What broke, and how long nodes took to come back once it was mended.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) count: BTreeMap<Fault, usize>,
    pub(crate) reconnected: Times,
    under_way: JoinSet<Result<Mended, Error>>,
    busy: BTreeSet<usize>,
}

/// A fault that is over.
#[derive(Debug)]
struct Mended {
    nodes: Vec<usize>,
    took: Vec<Duration>,
}

impl Faults {
    /// Breaks things until `end`.
    pub(crate) async fn run(
        &mut self,
        settings: &Run,
        mut control_plane: Option<&mut ControlPlane>,
        nodes: &Arc<Nodes>,
        chance: &mut StdRng,
        end: Instant,
    ) -> Result<(), Error> {
        loop {
            let pause = settings
                .fault_every
                .0
                .mul_f64(chance.random_range(0.5..1.5));
            let left = end.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(left)).await;
            if settings.faults.is_empty() || Instant::now() >= end {
                tokio::time::sleep_until(end.into()).await;
                return Ok(());
            }
            while let Some(done) = self.under_way.try_join_next() {
                self.take(done)?;
            }
            let fault = settings.faults[chance.random_range(0..settings.faults.len())];
            if fault == Fault::KillControlPlane {
                if let Some(control_plane) = control_plane.as_deref_mut() {
                    control_plane.kill9().await?;
                    tokio::time::sleep(Duration::from_millis(chance.random_range(0..1000))).await;
                    control_plane.start_again().await?;
                    let all = (0..nodes.nodes.len()).filter(|n| !self.busy.contains(n));
                    let all: Vec<usize> = all.collect();
                    self.count_one(fault, &all);
                    self.under_way.spawn(come_back(Arc::clone(nodes), all));
                }
                continue;
            }
            let hit = self.victims(nodes.nodes.len(), chance);
            if hit.is_empty() {
                continue;
            }
            self.count_one(fault, &hit);
            let away = Duration::from_millis(chance.random_range(200..3000));
            self.under_way
                .spawn(Box::pin(break_nodes(Arc::clone(nodes), fault, hit, away)));
        }
    }

    /// Waits until everything that broke is back.
    pub(crate) async fn mend(&mut self) -> Result<(), Error> {
        while let Some(done) = self.under_way.join_next().await {
            self.take(done)?;
        }
        Ok(())
    }

    fn count_one(&mut self, fault: Fault, hit: &[usize]) {
        *self.count.entry(fault).or_default() += 1;
        self.busy.extend(hit);
    }

    fn take(&mut self, done: Result<Result<Mended, Error>, JoinError>) -> Result<(), Error> {
        let done = done.map_err(|error| Error::io("a fault")(std::io::Error::other(error)))??;
        self.reconnected.extend(done.took);
        for node in done.nodes {
            self.busy.remove(&node);
        }
        Ok(())
    }

    /// Nodes that nothing has hit which is not over yet.
    fn victims(&self, nodes: usize, chance: &mut StdRng) -> Vec<usize> {
        let most = (nodes / SHARE).max(1);
        let mut hit = BTreeSet::new();
        for _ in 0..chance.random_range(1..=most) {
            let node = chance.random_range(0..nodes);
            if !self.busy.contains(&node) {
                hit.insert(node);
            }
        }
        hit.into_iter().collect()
    }
}

async fn break_nodes(
    nodes: Arc<Nodes>,
    fault: Fault,
    hit: Vec<usize>,
    away: Duration,
) -> Result<Mended, Error> {
    let victims: Vec<&Arc<Node>> = hit.iter().map(|n| &nodes.nodes[*n]).collect();
    match fault {
        Fault::KillAgents => victims.iter().for_each(|node| node.kill()),
        Fault::Cut => victims.iter().for_each(|node| node.set_line(Line::Cut)),
        Fault::HalfOpen => victims
            .iter()
            .for_each(|node| node.set_line(Line::HalfOpen)),
        Fault::KillControlPlane => {}
    }
    tokio::time::sleep(away).await;
    for node in victims {
        match fault {
            Fault::KillAgents => node.start().await?,
            _ => node.set_line(Line::Whole),
        }
    }
    come_back(nodes, hit).await
}

/// Waits until those of the nodes that are not connected are.
async fn come_back(nodes: Arc<Nodes>, hit: Vec<usize>) -> Result<Mended, Error> {
    let since = Instant::now();
    let mut away = hit.clone();
    away.retain(|n| !nodes.nodes[*n].is_connected());
    let mut took = Vec::with_capacity(away.len());
    while !away.is_empty() {
        tokio::time::sleep(LOOK).await;
        away.retain(|n| {
            let back = nodes.nodes[*n].is_connected();
            if back {
                took.push(since.elapsed());
            }
            !back
        });
    }
    Ok(Mended { nodes: hit, took })
}
