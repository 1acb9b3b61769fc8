//! Making the fleet: nodes, their certificates, their users, all by the product's own ways.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tempfile::TempDir;
use vpnpanel_domain::UserId;
use vpnpanel_node_agent::enrollment::{EnrollmentSettings, enroll};
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::settings::{HttpEndpoint, Secret};

use crate::agent::Node;
use crate::api::Api;
use crate::applied::Applied;
use crate::disk::{Disk, Memory};
use crate::engine::SyntheticEngine;
use crate::error::Error;
use crate::installation::ControlPlane;
use crate::progress::tell;
use crate::relay::Relay;
use crate::settings::Fleet;

/// Nodes, and users, that are made at the same time.
const AT_ONCE: usize = 16;
/// Agents that are started at the same time.
const STARTS: usize = 64;
const LOOK: Duration = Duration::from_millis(20);

/// The fleet.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Users and the pools they are of.
    pub(crate) users: Vec<(UserId, u32)>,
    pub(crate) applied: Arc<Applied>,
}

/// Where everything is kept.
#[derive(Debug)]
pub(crate) enum Folder {
    Kept(PathBuf),
    Temporary(TempDir),
}

/// Where nodes become nodes, and where they then connect.
#[derive(Debug)]
pub(crate) struct Doors<'a> {
    pub(crate) enrolment: HttpEndpoint,
    /// `None` for a control plane that says so itself.
    pub(crate) control_plane: Option<&'a ControlPlane>,
    /// Nodes connect through relays that can break.
    pub(crate) relays: bool,
}

impl Folder {
    pub(crate) fn of(fleet: &Fleet) -> Result<Self, Error> {
        let Some(path) = &fleet.folder else {
            return Ok(Self::Temporary(
                tempfile::tempdir().map_err(Error::io("a temporary folder"))?,
            ));
        };
        let say = || path.display().to_string();
        std::fs::create_dir_all(path).map_err(Error::io(say()))?;
        let mut inside = std::fs::read_dir(path).map_err(Error::io(say()))?;
        if inside.next().is_some() {
            return Err(Error::Settings(format!("{} is not empty", say())));
        }
        // The control plane runs in a folder of its own.
        let path = path.canonicalize().map_err(Error::io(say()))?;
        Ok(Self::Kept(path))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// The seed of this run, told at once so that a run that fails can be repeated.
pub(crate) fn seed(fleet: &Fleet) -> u64 {
    let seed = fleet.seed.unwrap_or_else(rand::random);
    tell(format_args!("seed {seed}"));
    seed
}

impl Nodes {
    /// Makes it; no agent runs yet.
    pub(crate) async fn make(
        fleet: &Fleet,
        limit: u64,
        api: &Api,
        doors: &Doors<'_>,
        folder: &Folder,
        chance: &mut StdRng,
    ) -> Result<Self, Error> {
        let pools = fleet.pools.min(fleet.nodes);
        let began = Instant::now();
        let applied = Arc::new(Applied::default());
        let engines: Vec<_> = (0..fleet.nodes)
            .map(|_| Arc::new(SyntheticEngine::new(chance.random(), Arc::clone(&applied))))
            .collect();
        let made = stream::iter((0..fleet.nodes).zip(engines))
            .map(|(index, engine)| node(fleet, api, doors, folder, index, index % pools, engine));
        let mut made = std::pin::pin!(made.buffered(AT_ONCE));
        let mut nodes = Vec::with_capacity(fleet.nodes as usize);
        while let Some(node) = made.try_next().await? {
            nodes.push(Arc::new(node));
            if nodes.len().is_multiple_of(1_000) {
                tell(format_args!("{} nodes enrolled", nodes.len()));
            }
        }
        // Once for all nodes: beside inbounds, making each node looks at all others.
        let mut groups = Vec::new();
        if fleet.users_per_node > 0 {
            for pool in 0..pools {
                groups.push(api.create_pool(pool).await?);
            }
        }
        let names = (0..pools).flat_map(|pool| (0..fleet.users_per_node).map(move |n| (pool, n)));
        let users: Vec<(UserId, u32)> = stream::iter(names)
            .map(|(pool, n)| {
                let group = &groups[pool as usize];
                async move { Ok::<_, Error>((api.create_user(n, pool, group, limit).await?, pool)) }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        tell(format_args!(
            "{} nodes and {} users made in {:.1} s",
            nodes.len(),
            users.len(),
            began.elapsed().as_secs_f64()
        ));
        Ok(Self {
            nodes,
            users,
            applied,
        })
    }

    /// Starts all agents.
    pub(crate) async fn start(&self) -> Result<(), Error> {
        stream::iter(&self.nodes)
            .map(Ok)
            .try_for_each_concurrent(STARTS, |node| node.start())
            .await
    }

    /// Kills all agents.
    pub(crate) fn kill(&self) {
        self.nodes.iter().for_each(|node| node.kill());
    }

    /// Lets all agents say goodbye.
    pub(crate) async fn stop(&self) {
        stream::iter(&self.nodes)
            .for_each_concurrent(None, |node| node.stop())
            .await;
    }

    /// Waits until every node satisfies something.
    pub(crate) async fn wait(
        &self,
        what: &'static str,
        limit: Duration,
        is_so: impl Fn(&Node) -> bool,
    ) -> Result<(), Error> {
        let (began, mut told) = (Instant::now(), Instant::now());
        let of = self.nodes.len();
        loop {
            let done = self.nodes.iter().filter(|node| is_so(node)).count();
            if done == of {
                return Ok(());
            }
            if began.elapsed() > limit {
                return Err(Error::Deadline {
                    what,
                    done,
                    of,
                    limit,
                });
            }
            if told.elapsed() > Duration::from_secs(5) {
                tell(format_args!("{what}: {done} of {of}"));
                told = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every node is connected.
    pub(crate) async fn wait_connected(&self, limit: Duration) -> Result<(), Error> {
        self.wait("nodes connected", limit, Node::is_connected)
            .await
    }
}

/// Makes one node and enrols its host.
async fn node(
    fleet: &Fleet,
    api: &Api,
    doors: &Doors<'_>,
    folder: &Folder,
    index: u32,
    pool: u32,
    engine: Arc<SyntheticEngine>,
) -> Result<Node, Error> {
    let data = folder.path().join("nodes").join(index.to_string());
    let made = api.create_node(index, pool).await?;
    let pin = hex::decode(&made.ca_pin).ok();
    let pin = pin.and_then(|pin| pin.try_into().ok());
    let settings = EnrollmentSettings {
        url: Some(doors.enrolment.clone()),
        token: Some(Secret::new(made.token)),
        ca_pin: Some(pin.ok_or(Error::Answer("making a join token"))?),
    };
    let identity = Box::pin(enroll(&data, &settings, &TrustDomain::default())).await?;
    let link = match doors.control_plane {
        Some(control_plane) => control_plane.link(index),
        None => identity
            .link_endpoint
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .to_owned(),
    };
    let relay = match doors.relays {
        true => Some(Relay::open(link.clone()).await?),
        false => None,
    };
    let disk = match fleet.spools_are_files() {
        true => Disk::File(data.join("spool.redb")),
        false => Disk::Memory(Memory::default()),
    };
    let id = identity.node;
    Ok(Node::new(id, pool, engine, disk, data, link, relay))
}
