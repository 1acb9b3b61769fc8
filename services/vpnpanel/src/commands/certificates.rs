//! The log of certificates, compared with the database by hand: what a start of control-api does by
//! itself, and what an operator wants to see after a restore.

use std::io::Write as _;

use clap::Subcommand;
use vpnpanel_control_api::Reconciled;
use vpnpanel_runtime::settings::ProcessSettings;

use crate::error::Error;
use crate::installation::Installation;
use crate::settings::{CertificateLogSettings, InstallationSettings};

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    installation: InstallationSettings,
    #[command(flatten)]
    certificate_log: CertificateLogSettings,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Takes in what the log knows and the database does not, because an older backup of it was
    /// restored. Names the nodes that the database does not know at all.
    Reconcile,
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let installation = Installation::open(&args.installation).await?;
    let Action::Reconcile = args.action;
    let authority = installation.authority().await?;
    let records = args.certificate_log.open(&installation.data_dir)?;
    let done = records.reconcile(&installation.store, &authority).await;
    installation.store.close().await;
    print(&done?)
}

fn print(done: &Reconciled) -> Result<(), Error> {
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "{} certificates taken in, {} revoked, {} passed over",
        done.issued, done.revoked, done.passed_over
    )?;
    if done.foreign > 0 {
        writeln!(stdout, "{} are of another authority", done.foreign)?;
    }
    if done.damaged > 0 {
        writeln!(stdout, "{} lines of the log are damaged", done.damaged)?;
    }
    for node in &done.unknown_nodes {
        writeln!(
            stdout,
            "node {node} is not in this database: its host is refused until it enrols as another"
        )?;
    }
    Ok(())
}
