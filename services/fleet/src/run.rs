//! Books under traffic and faults: what was counted, what was billed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::books::{Books, Counted};
use crate::error::Error;
use crate::faults::Faults;
use crate::figures::{Bytes, Times};
use crate::installation::ControlPlane;
use crate::nodes::{Doors, Folder, Nodes, seed};
use crate::open_files;
use crate::progress::{report, tell};
use crate::settings::{Fault, Run};

const LOOK: Duration = Duration::from_millis(500);
/// How long nodes may take to connect and to get their users.
const START: Duration = Duration::from_secs(600);
/// How long one change may take to arrive everywhere.
const ARRIVES: Duration = Duration::from_secs(10);

pub(crate) async fn run(settings: Run) -> Result<(), Error> {
    check(&settings)?;
    let relays = settings
        .faults
        .iter()
        .any(|fault| matches!(fault, Fault::Cut | Fault::HalfOpen));
    open_files::allow(&settings.fleet, relays)?;
    let seed = seed(&settings.fleet);
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = Folder::of(&settings.fleet)?;
    let mut control_plane = match settings.control_api {
        Some(_) => None,
        None => Some(ControlPlane::start(folder.path(), &settings.fleet).await?),
    };
    let api = sign_in(&settings, control_plane.as_ref(), seed).await?;
    let doors = Doors {
        enrolment: match &control_plane {
            Some(control_plane) => control_plane.enrolment()?,
            None => settings.enrollment_url.clone(),
        },
        control_plane: control_plane.as_ref(),
        relays,
    };
    let limit = settings.limit.0;
    let nodes = Nodes::make(&settings.fleet, limit, &api, &doors, &folder, &mut chance).await?;
    let nodes = Arc::new(nodes);
    nodes.start().await?;
    nodes.wait_connected(START).await?;
    let users = settings.fleet.users_per_node as usize;
    let has_all = |node: &crate::agent::Node| node.engine.peers() == users;
    nodes
        .wait("nodes with all their users", START, has_all)
        .await?;

    tell(format_args!("traffic flows for {}", settings.length));
    let stop = CancellationToken::new();
    let traffic = tokio::spawn(flow(
        Arc::clone(&nodes),
        settings.rate.0,
        StdRng::seed_from_u64(chance.random()),
        stop.clone(),
    ));
    let changes = change(
        &nodes,
        &api,
        changes_every(&settings),
        StdRng::seed_from_u64(chance.random()),
        &stop,
    );
    let mut faults = Faults::default();
    let breaks = async {
        let end = Instant::now() + settings.length.0;
        let broken = faults
            .run(&settings, control_plane.as_mut(), &nodes, &mut chance, end)
            .await;
        stop.cancel();
        broken
    };
    let (broken, changed) = tokio::join!(Box::pin(breaks), Box::pin(changes));
    let ended = |error| Error::io("the traffic")(std::io::Error::other(error));
    traffic.await.map_err(ended)?;
    let ((), changed) = (broken?, changed?);

    tell("waiting until everything is back and the books agree");
    let began = Instant::now();
    let back = tokio::time::timeout(settings.settle.0, faults.mend()).await;
    match back {
        Ok(done) => done?,
        Err(_late) => tell("not everything that broke came back"),
    }
    let books = settle(&nodes, &api, settings.settle.0).await?;

    report("seed", seed);
    report(
        "nodes, users, users per node",
        format_args!("{}, {}, {users}", nodes.nodes.len(), nodes.users.len()),
    );
    report("counted", Bytes(books.counted));
    report("billed", Bytes(books.billed));
    report("lost", Bytes(books.lost));
    report("doubled", Bytes(books.doubled));
    report("users whose sums differ", books.users_differ);
    report("nodes whose sums differ", books.nodes_differ);
    report(
        "books agreed after",
        format_args!("{:.1} s", began.elapsed().as_secs_f64()),
    );
    if limit > 0 {
        report("most over a limit", Bytes(books.most.saturating_sub(limit)));
    }
    report("change until applied", &changed.took);
    if changed.missed > 0 {
        report("not applied within 10 s", changed.missed);
    }
    for (fault, count) in &faults.count {
        report(&format!("{fault}, times"), count);
    }
    report("reconnected after a fault", &faults.reconnected);
    nodes.stop().await;
    if let Some(control_plane) = &mut control_plane {
        control_plane.stop().await?;
    }
    if books.agree() {
        Ok(())
    } else {
        Err(Error::BooksDiffer)
    }
}

fn check(settings: &Run) -> Result<(), Error> {
    let ours = settings.faults.contains(&Fault::KillControlPlane);
    if ours && settings.control_api.is_some() {
        return Err(Error::Settings(
            "--faults kill-control-plane needs a control plane of its own: leave --control-api out"
                .to_owned(),
        ));
    }
    if settings.control_api.is_some() && settings.api_token.is_none() {
        return Err(Error::Settings(
            "--control-api needs an API token of a platform owner: set --api-token or \
             VPNPANEL_FLEET_API_TOKEN"
                .to_owned(),
        ));
    }
    if settings.fleet.users_per_node == 0 {
        return Err(Error::Settings(
            "--users-per-node: without users there is nothing to count".to_owned(),
        ));
    }
    Ok(())
}

async fn sign_in(
    settings: &Run,
    control_plane: Option<&ControlPlane>,
    seed: u64,
) -> Result<Api, Error> {
    match (control_plane, &settings.control_api, &settings.api_token) {
        (Some(own), ..) => Api::first(&own.api(), own.password(), seed).await,
        (None, Some(address), Some(token)) => {
            // The tenant of each run is new, also when a seed is repeated.
            let address = address.to_string();
            Api::with_token(address.trim_end_matches('/'), token, rand::random()).await
        }
        _ => Err(Error::Settings("--control-api needs a token".to_owned())),
    }
}

/// A user at its limit is there or not for other reasons than a switch.
fn changes_every(settings: &Run) -> Option<Duration> {
    let every = settings.change_every.0;
    (settings.limit.0 == 0 && !every.is_zero()).then_some(every)
}

/// Lets traffic flow until `stop`.
async fn flow(nodes: Arc<Nodes>, rate: u64, mut chance: StdRng, stop: CancellationToken) {
    let peers = nodes.nodes.len() * nodes.users.len();
    let tick = Duration::from_millis(if peers > 10_000 { 500 } else { 100 });
    let average = rate * u64::try_from(tick.as_millis()).unwrap_or(1) / 1000;
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for node in &nodes.nodes {
            node.engine.pass(&mut chance, average);
        }
    }
}

/// How fast changes arrived.
#[derive(Debug, Default)]
struct Changed {
    took: Times,
    missed: usize,
}

/// Switches users off and on again until `stop`; all are on in the end.
async fn change(
    nodes: &Nodes,
    api: &Api,
    every: Option<Duration>,
    mut chance: StdRng,
    stop: &CancellationToken,
) -> Result<Changed, Error> {
    let mut changed = Changed::default();
    let Some(every) = every else {
        return Ok(changed);
    };
    loop {
        let (user, pool) = nodes.users[chance.random_range(0..nodes.users.len())];
        let concerned = nodes.nodes.iter().filter(|node| node.pool == pool).count();
        for on in [false, true] {
            if !on
                && stop
                    .run_until_cancelled(tokio::time::sleep(every))
                    .await
                    .is_none()
            {
                return Ok(changed);
            }
            nodes.applied.watch(user, on);
            let since = Instant::now();
            api.switch(user, on).await?;
            while nodes.applied.count() < concerned && since.elapsed() < ARRIVES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let seen = nodes.applied.end();
            changed.missed += concerned.saturating_sub(seen.len());
            changed.took.extend(seen);
        }
    }
}

/// Waits until the books agree; gives them as they are in the end.
async fn settle(nodes: &Nodes, api: &Api, limit: Duration) -> Result<Books, Error> {
    let (began, mut told) = (Instant::now(), Instant::now());
    loop {
        let books = Books::of(
            &Counted::of(nodes),
            &api.billed().await?,
            &api.billed_by_node().await?,
        );
        if books.agree() || began.elapsed() > limit {
            return Ok(books);
        }
        if told.elapsed() > Duration::from_secs(5) {
            let still = books.counted.abs_diff(books.billed);
            tell(format_args!("still to be billed: {}", Bytes(still)));
            told = Instant::now();
        }
        tokio::time::sleep(LOOK).await;
    }
}
