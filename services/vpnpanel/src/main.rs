//! The one binary: everything in one process, one service each, or an operator's task.

mod certificates;
mod commands;
mod error;
mod installation;
mod local_node;
mod settings;
mod welcome;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vpnpanel_runtime::{process, settings as environment};

use commands::{
    audit, certificates as certificate_log, collector, control_api, fleet, gateway, migrate,
    scheduler, tune_argon2, up,
};

/// A multi-tenant control plane for VPN fleets.
///
/// Every setting is an environment variable; a flag wins over its variable.
#[derive(Debug, Parser)]
#[command(name = "vpnpanel", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs everything in one process, on embedded defaults.
    Up(Box<up::Args>),
    /// Runs the management API.
    ControlApi(Box<control_api::Args>),
    /// Runs the node link.
    Collector(Box<collector::Args>),
    /// Runs the periodic jobs.
    Scheduler(Box<scheduler::Args>),
    /// Runs REST and the panel.
    Gateway(Box<gateway::Args>),
    /// Looks at the database's schema, or changes it.
    Migrate(Box<migrate::Args>),
    /// Verifies the audit log in the database, or exports it.
    Audit(Box<audit::Args>),
    /// Compares the log of certificates with the database, after a backup was restored.
    Certificates(Box<certificate_log::Args>),
    /// Finds the cost of password hashes that fits this host, and prints it as settings.
    TuneArgon2(Box<tune_argon2::Args>),
    /// Simulates a fleet of nodes against a real control plane: what was counted, billed, lost or
    /// doubled, how fast changes arrive, what streams cost.
    Fleet(Box<fleet::Args>),
}

fn main() -> ExitCode {
    match environment::parse_or_exit::<Cli>().command {
        Command::Up(args) => process::run("vpnpanel", args.process.clone(), async |p| {
            up::run(*args, p).await
        }),
        Command::ControlApi(args) => process::run("control-api", args.process.clone(), async |p| {
            control_api::run(*args, p).await
        }),
        Command::Collector(args) => process::run("collector", args.process.clone(), async |p| {
            collector::run(*args, p).await
        }),
        Command::Scheduler(args) => process::run("scheduler", args.process.clone(), async |p| {
            scheduler::run(*args, p).await
        }),
        Command::Gateway(args) => process::run("gateway", args.process.clone(), async |p| {
            gateway::run(*args, p).await
        }),
        Command::Migrate(args) => {
            process::run_once("migrate", args.process.clone(), migrate::run(*args))
        }
        Command::Audit(args) => process::run_once("audit", args.process.clone(), audit::run(*args)),
        Command::Certificates(args) => process::run_once(
            "certificates",
            args.process.clone(),
            certificate_log::run(*args),
        ),
        Command::TuneArgon2(args) => {
            process::run_once("tune-argon2", args.process.clone(), tune_argon2::run(*args))
        }
        Command::Fleet(args) => process::run_once("fleet", args.process.clone(), fleet::run(*args)),
    }
}
