//! Everybody comes back at once.

use std::time::{Duration, Instant};

use crate::bare::Bare;
use crate::error::Error;
use crate::figures::{Bytes, Times};
use crate::idle::make;
use crate::progress::{report, tell};
use crate::settings::Storm;

const OPEN: Duration = Duration::from_secs(600);
/// After so long a stream was a good one: agents that lose it come back as if for the first time.
const HEALTHY: Duration = Duration::from_secs(61);
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(settings: Storm) -> Result<(), Error> {
    let fleet = &settings.fleet;
    let mut made = make(fleet).await?;

    tell("opening bare streams");
    let bare = Bare::start(made.folder.path()).await?;
    let (open, raw) = bare.open(fleet.nodes).await?;
    drop(open);
    bare.process.kill9().await?;

    made.nodes.start().await?;
    made.nodes.wait_connected(OPEN).await?;
    let (mut ready, mut back) = (Times::default(), Vec::new());
    let (mut resident, mut peak) = (0, 0);
    for round in 1..=settings.times {
        tokio::time::sleep(HEALTHY).await;
        made.control_plane.kill9().await?;
        let killed = Instant::now();
        tell(format_args!("round {round}: killed"));
        made.nodes
            .wait("nodes know", settings.within.0, |node| !node.is_connected())
            .await?;
        made.control_plane.start_again().await?;
        let started = killed.elapsed();
        made.nodes.wait_connected(settings.within.0).await?;
        let connected = killed.elapsed();
        // Liveness is written in batches: nobody is missing there either.
        while made.api.nodes_online().await? < made.nodes.nodes.len() {
            if killed.elapsed() > settings.within.0 {
                return Err(Error::Deadline {
                    what: "nodes online in the API",
                    done: made.api.nodes_online().await?,
                    of: made.nodes.nodes.len(),
                    limit: settings.within.0,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
        ready.add(started);
        back.push((connected, connected.saturating_sub(started)));
        let memory = made.control_plane.process()?.memory()?;
        (resident, peak) = (memory.resident, peak.max(memory.peak));
    }
    made.nodes.kill();
    made.control_plane.stop().await?;

    let streams = f64::from(fleet.nodes);
    report("nodes", fleet.nodes);
    report(
        "bare streams open in",
        format_args!(
            "{:.1} s ({:.0}/s)",
            raw.as_secs_f64(),
            streams / raw.as_secs_f64()
        ),
    );
    report("ready again after", &ready);
    for (connected, since_ready) in back {
        report(
            "all nodes are back after",
            format_args!(
                "{:.1} s, {:.1} s since ready ({:.0}/s), {:.2} × bare",
                connected.as_secs_f64(),
                since_ready.as_secs_f64(),
                streams / since_ready.as_secs_f64(),
                since_ready.as_secs_f64() / raw.as_secs_f64()
            ),
        );
    }
    report("memory afterwards", Bytes(resident));
    report("memory at its largest", Bytes(peak));
    Ok(())
}
