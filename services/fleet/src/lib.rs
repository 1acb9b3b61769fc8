//! A fleet of simulated nodes against a real control plane. The nodes run the agent's own code,
//! driver, stream, spool and machine, over mutual TLS; only the data plane is made up: it counts
//! bytes that nobody sent, and remembers every one of them. What was billed is then compared with
//! what was counted.
//!
//! `vpnpanel fleet run` compares books and measures how fast changes arrive, `idle` measures what
//! a stream costs, `storm` how fast all of them come back.

mod agent;
mod api;
mod applied;
mod bare;
mod books;
mod disk;
mod engine;
mod error;
mod faults;
mod figures;
mod idle;
mod installation;
mod nodes;
mod open_files;
mod process;
mod progress;
mod relay;
mod run;
mod settings;
mod storm;

pub use error::Error;
pub use settings::{BareServer, Command, Idle, Run, Storm};

/// Does what was asked for. Figures go to stdout, progress to stderr.
///
/// # Errors
/// What could not be started or reached; books that differ.
pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Run(settings) => Box::pin(run::run(*settings)).await,
        Command::Idle(settings) => Box::pin(idle::run(settings)).await,
        Command::Storm(settings) => Box::pin(storm::run(settings)).await,
        Command::BareServer(settings) => bare::serve(settings).await,
    }
}
