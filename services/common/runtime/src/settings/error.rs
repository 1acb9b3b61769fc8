//! What is wrong with a setting, in words that name the variable, and the exit that follows.

use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write as _;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Environment;

/// Why the process cannot start with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value of a wrong kind.
    #[error("{name}: {shown} is not valid: {expected}")]
    Invalid {
        /// The variable, or the flag when the value came from the command line.
        name: String,
        /// The value in quotes; secrets are not shown.
        shown: String,
        /// What was expected.
        expected: String,
    },
    /// A required value is absent.
    #[error("{variable} is not set: {help}")]
    Missing {
        /// The variable.
        variable: String,
        /// What the setting is.
        help: String,
    },
    /// A secret given twice.
    #[error("{variable} and {variable}_FILE are both set: expected only one of them")]
    Ambiguous {
        /// The variable without `_FILE`.
        variable: String,
    },
    /// The file of a secret cannot be read.
    #[error("{variable}: cannot read {path}: {source}")]
    SecretFile {
        /// The variable, with `_FILE`.
        variable: String,
        /// The file it names.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Bytes that are no text.
    #[error("{variable}: expected UTF-8 text")]
    NotUnicode {
        /// The variable.
        variable: String,
    },
    /// `.env` cannot be read.
    #[error("{path}: {source}")]
    EnvironmentFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// `.env` has a malformed line.
    #[error(".env: line {line}: expected NAME=value")]
    EnvironmentLine {
        /// Its number, from 1.
        line: usize,
    },
    /// A wrong use of the command line, `--help` or `--version`.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
}

impl SettingsError {
    /// Says it on stderr and ends the process: 2, or 0 for `--help` and `--version`.
    pub fn exit(self) -> ! {
        if let Self::CommandLine(error) = &self {
            error.exit();
        }
        // Nothing is left to tell it to when stderr is closed.
        let _unheard = writeln!(std::io::stderr(), "error: {self}");
        std::process::exit(2)
    }

    /// Turns clap's words about a flag into words about the variable that the value came from.
    pub(super) fn from_clap(
        error: clap::Error,
        mut command: Command,
        environment: &dyn Environment,
        arguments: &[OsString],
    ) -> Self {
        // Arguments are shown as clap shows them only once the command is built.
        command.build();
        match error.kind() {
            ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
                Self::invalid(&error, &command, environment, arguments)
            }
            ErrorKind::MissingRequiredArgument => Self::missing(&error, &command),
            // The help of the command as declared names each variable.
            ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let named = name_variables(command);
                named
                    .try_get_matches_from(arguments)
                    .err()
                    .map(Self::CommandLine)
            }
            _ => None,
        }
        .unwrap_or(Self::CommandLine(error))
    }

    fn invalid(
        error: &clap::Error,
        command: &Command,
        environment: &dyn Environment,
        arguments: &[OsString],
    ) -> Option<Self> {
        let flag = string(error.get(ContextKind::InvalidArg)?)?;
        let arg = find(command, &flag)?;
        let value = error
            .get(ContextKind::InvalidValue)
            .and_then(string)
            .unwrap_or_default();
        let expected = match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                format!("expected one of {}", valid.join(", "))
            }
            _ => error
                .source()
                .map_or_else(|| "malformed".to_owned(), ToString::to_string),
        };
        let variable = arg.get_env().and_then(|name| name.to_str());
        let long = arg.get_long().map(|long| format!("--{long}"));
        let on_command_line = long.as_deref().is_some_and(|long| {
            arguments
                .iter()
                .filter_map(|argument| argument.to_str())
                .any(|argument| {
                    argument
                        .strip_prefix(long)
                        .is_some_and(|r| r.is_empty() || r.starts_with('='))
                })
        });
        let name = match (variable, long) {
            (Some(variable), _) if !on_command_line => match environment.get(variable) {
                Ok(None) if arg.is_hide_env_values_set() => format!("{variable}_FILE"),
                _ => variable.to_owned(),
            },
            (_, Some(long)) => long,
            (Some(variable), None) => variable.to_owned(),
            (None, None) => flag,
        };
        let shown = if arg.is_hide_env_values_set() {
            "the value (not shown)".to_owned()
        } else {
            format!("'{value}'")
        };
        Some(Self::Invalid {
            name,
            shown,
            expected,
        })
    }

    fn missing(error: &clap::Error, command: &Command) -> Option<Self> {
        let ContextValue::Strings(flags) = error.get(ContextKind::InvalidArg)? else {
            return None;
        };
        let arg = flags.iter().find_map(|flag| find(command, flag))?;
        Some(Self::Missing {
            variable: arg.get_env()?.to_str()?.to_owned(),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        })
    }
}

fn string(value: &ContextValue) -> Option<String> {
    match value {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// The command as it was declared; its help names variables, and never shows their values.
fn name_variables(command: Command) -> Command {
    command
        .mut_args(|arg| arg.hide_env_values(true))
        .mut_subcommands(name_variables)
}

/// The argument that clap shows as `flag` (`--listen <LISTEN>`), wherever it is declared.
fn find(command: &Command, flag: &str) -> Option<clap::Arg> {
    command
        .get_arguments()
        .find(|arg| arg.to_string() == flag)
        .cloned()
        .or_else(|| {
            command
                .get_subcommands()
                .find_map(|subcommand| find(subcommand, flag))
        })
}
