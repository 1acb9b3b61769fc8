//! `vpnctl`: daily work with a control plane from a shell. Friendly verbs come from the tables in
//! `nouns`, and `call` reaches every method of the contract by its descriptor.

mod cli;
mod commands;
mod config;
mod connection;
mod dynamic;
mod failure;
mod input;
mod nouns;
mod output;
mod run;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(&matches)),
        Err(error) => Err(failure::Failure::Local(error.to_string())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&format!("vpnctl: {}", failure.told()));
            failure.exit_code()
        }
    }
}
