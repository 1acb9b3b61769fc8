//! `vpnpanel-agent`: enrols a host, and runs its node.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vpnpanel_node_agent::{Settings, build, identity};
use vpnpanel_runtime::process;
use vpnpanel_runtime::settings::{self, ProcessSettings};

/// The node agent of vpnpanel: runs on an edge host, drives its data planes, and keeps a stream to
/// the control plane.
#[derive(Debug, Parser)]
#[command(name = "vpnpanel-agent", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    process: ProcessSettings,
    #[command(subcommand)]
    command: Command,
}

const NAME: &str = "node-agent";

const AFTER_HELP: &str = "A host enrols with the command that the control plane gives for a node; \
afterwards `vpnpanel-agent run` needs no settings but its data folder. Tunnels outlive the agent: \
stop it, upgrade it, start it again.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node; enrols first when a join token is given and the host has no identity yet.
    Run(Settings),
    /// Enrol this host, and end.
    Enroll(Settings),
}

fn main() -> ExitCode {
    let cli = settings::parse_or_exit::<Cli>();
    match cli.command {
        Command::Run(settings) => process::run(NAME, cli.process, async |process| {
            let identity = identity(&settings).await?;
            process.start(build(settings, identity).await?).await?;
            Ok::<(), Box<dyn std::error::Error>>(())
        }),
        Command::Enroll(settings) => process::run_once(NAME, cli.process, async {
            identity(&settings).await.map(|_| ())
        }),
    }
}
