//! Settings come from the environment (`VPNPANEL_…`), are typed, and are checked before anything
//! else happens: a bad value names its variable and what was expected, and ends the process with 2.
//!
//! A settings struct is a clap `Args` whose every field has `env = "VPNPANEL_…"`. Secrets have
//! `hide_env_values = true`; they may come from a file instead, named by the same variable with
//! `_FILE` appended. An empty variable counts as absent, as compose files write `${X:-}`.

mod environment;
mod error;
mod listeners;
mod process;
mod values;

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, Args, Command, Parser};

pub use environment::{Environment, EnvironmentFile, MapEnvironment, ProcessEnvironment};
pub use error::SettingsError;
pub use listeners::ListenerSettings;
pub use process::{LogFormat, LogSettings, ProcessSettings, TraceSettings};
pub use values::{ByteSize, CidrList, HttpEndpoint, HumanDuration, ListenAddr, Ratio, Secret};

/// Set to `true` on a developer's machine: `.env` is read, reflection is open.
pub const DEVELOPMENT_VARIABLE: &str = "VPNPANEL_DEVELOPMENT";

/// Parses the process's arguments and environment (and `./.env` in development); on failure says
/// why on stderr and exits with 2.
pub fn parse_or_exit<T: Parser>() -> T {
    ProcessEnvironment::with_development_file()
        .and_then(|environment| parse(std::env::args_os(), &environment))
        .unwrap_or_else(|error| error.exit())
}

/// Parses `arguments` (the first is the program's name) and `environment`.
///
/// # Errors
/// The first setting that is missing or wrong; also `--help` and `--version`, which clap treats as
/// errors.
pub fn parse<T: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &dyn Environment,
) -> Result<T, SettingsError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = bind(T::command(), environment)?;
    let matches = command
        .try_get_matches_from_mut(&arguments)
        .map_err(|error| SettingsError::from_clap(error, T::command(), environment, &arguments))?;
    T::from_arg_matches(&matches)
        .map_err(|error| SettingsError::from_clap(error, T::command(), environment, &arguments))
}

/// Parses one settings struct from `environment` alone.
///
/// # Errors
/// The first setting that is missing or wrong.
pub fn from_environment<T: Args>(environment: &dyn Environment) -> Result<T, SettingsError> {
    let command = || T::augment_args(Command::new("vpnpanel"));
    let matches = bind(command(), environment)?
        .try_get_matches_from_mut(["vpnpanel"])
        .map_err(|error| SettingsError::from_clap(error, command(), environment, &[]))?;
    T::from_arg_matches(&matches)
        .map_err(|error| SettingsError::from_clap(error, command(), environment, &[]))
}

/// Makes the environment's values the arguments' defaults: a flag on the command line still wins.
/// clap would read the process environment itself, which no test can share safely.
fn bind(command: Command, environment: &dyn Environment) -> Result<Command, SettingsError> {
    let mut failure = None;
    let command = bind_all(command, environment, &mut failure);
    failure.map_or(Ok(command), Err)
}

fn bind_all(
    command: Command,
    environment: &dyn Environment,
    failure: &mut Option<SettingsError>,
) -> Command {
    command
        .mut_args(|arg| match value_of(&arg, environment) {
            Ok(value) => {
                let arg = arg.env(Resettable::<clap::builder::OsStr>::Reset);
                match value {
                    Some(value) => arg.required(false).default_value(value),
                    None => arg,
                }
            }
            Err(error) => {
                failure.get_or_insert(error);
                arg
            }
        })
        .mut_subcommands(|subcommand| bind_all(subcommand, environment, failure))
}

fn value_of(arg: &Arg, environment: &dyn Environment) -> Result<Option<String>, SettingsError> {
    let Some(name) = arg.get_env().and_then(|name| name.to_str()) else {
        return Ok(None);
    };
    let direct = environment.get(name)?;
    if !arg.is_hide_env_values_set() {
        return Ok(direct);
    }
    let file_variable = format!("{name}_FILE");
    match (direct, environment.get(&file_variable)?) {
        (Some(_), Some(_)) => Err(SettingsError::Ambiguous {
            variable: name.to_owned(),
        }),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(source) => Err(SettingsError::SecretFile {
                variable: file_variable,
                path,
                source,
            }),
        },
        (direct, None) => Ok(direct),
    }
}

#[cfg(test)]
mod tests;
