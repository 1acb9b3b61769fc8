//! What a stream costs that has nothing to do.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::api::Api;
use crate::bare::Bare;
use crate::error::Error;
use crate::figures::Bytes;
use crate::installation::ControlPlane;
use crate::nodes::{Doors, Folder, Nodes, seed};
use crate::open_files;
use crate::process::Process;
use crate::progress::{report, tell};
use crate::settings::{Fleet, Idle};

/// How long all streams may take to open.
const OPEN: Duration = Duration::from_secs(600);
/// What a process has done at its start has settled by then.
const QUIET: Duration = Duration::from_secs(5);

/// A fleet that is made, and its control plane freshly started.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) control_plane: ControlPlane,
    pub(crate) api: Api,
    pub(crate) nodes: Nodes,
    pub(crate) folder: Folder,
}

/// Makes a fleet. Its control plane is started once more afterwards: what making the fleet took is
/// not in its memory.
pub(crate) async fn make(fleet: &Fleet) -> Result<Made, Error> {
    open_files::allow(fleet, false)?;
    let seed = seed(fleet);
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = Folder::of(fleet)?;
    let mut control_plane = ControlPlane::start(folder.path(), fleet).await?;
    let api = Api::first(&control_plane.api(), control_plane.password(), seed).await?;
    let doors = Doors {
        enrolment: control_plane.enrolment()?,
        control_plane: Some(&control_plane),
        relays: false,
    };
    let nodes = Nodes::make(fleet, 0, &api, &doors, &folder, &mut chance).await?;
    control_plane.stop().await?;
    control_plane.start_again().await?;
    Ok(Made {
        control_plane,
        api,
        nodes,
        folder,
    })
}

pub(crate) async fn run(settings: Idle) -> Result<(), Error> {
    let fleet = &settings.fleet;
    let mut made = make(fleet).await?;
    let streams = u64::from(fleet.nodes);
    tokio::time::sleep(QUIET).await;
    let before = made.control_plane.process()?.memory()?.resident;
    made.nodes.start().await?;
    made.nodes.wait_connected(OPEN).await?;
    tell("all streams are open");
    tokio::time::sleep(QUIET).await;
    let busy = share_of_a_core(made.control_plane.process()?, settings.length.0).await?;
    let memory = made.control_plane.process()?.memory()?;
    made.nodes.kill();
    made.control_plane.stop().await?;

    tell("the same with bare streams");
    let bare = Bare::start(made.folder.path()).await?;
    let bare_before = bare.process.memory()?.resident;
    let (open, _) = bare.open(fleet.nodes).await?;
    tokio::time::sleep(QUIET).await;
    let bare_memory = bare.process.memory()?;
    drop(open);
    bare.process.kill9().await?;

    let each = memory.resident.saturating_sub(before) / streams;
    let bare_each = bare_memory.resident.saturating_sub(bare_before) / streams;
    report("idle streams", streams);
    report("control plane without streams", Bytes(before));
    report("control plane with streams", Bytes(memory.resident));
    report("at its largest", Bytes(memory.peak));
    report("memory of a stream", Bytes(each));
    report("memory of a bare stream", Bytes(bare_each));
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let ratio = each as f64 / bare_each.max(1) as f64;
    report("ratio", format_args!("{ratio:.2}"));
    report(
        "processor, share of a core",
        format_args!("{:.1} %", busy * 100.0),
    );
    Ok(())
}

/// How busy a process is.
async fn share_of_a_core(process: &Process, watched: Duration) -> Result<f64, Error> {
    let before = process.processor_time()?;
    tokio::time::sleep(watched).await;
    let used = process.processor_time()?.saturating_sub(before);
    Ok(used.as_secs_f64() / watched.as_secs_f64())
}
