//! The command line: the commands that have code of their own, and those from the tables of nouns.

use clap::{Arg, ArgAction, Command, ValueHint, value_parser};
use clap_complete::Shell;

use crate::nouns::{self, Kind, Noun, Place, Verb};
use crate::output::Format;

const EXAMPLES: &str = "Examples:
  vpnctl login --server http://127.0.0.1:50051 --email admin@localhost
  vpnctl user create ada --groups everyone --data-limit 20GB --expires 30d
  vpnctl user list --status limited -o json
  vpnctl sub show ada --qr
  vpnctl call vpnpanel.auth.v1.AuthService/GetMe

Exit codes: 0 done, 1 failed here, 2 wrong usage or invalid, 3 not signed in, 4 not permitted,
5 not found, 6 exists or stale, 7 refused in this state, 8 unreachable or busy.";

pub(crate) fn command() -> Command {
    let global =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).global(true).help(help);
    let root = Command::new("vpnctl")
        .version(env!("CARGO_PKG_VERSION"))
        .about("vpnpanel on the command line")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            global("output", "How answers are written")
                .short('o')
                .value_parser(value_parser!(Format))
                .default_value("table"),
        )
        .arg(global("context", "Context instead of the current one").env("VPNCTL_CONTEXT"))
        .arg(
            global(
                "endpoint",
                "Call this address instead of the context's; for the scheduler",
            )
            .env("VPNCTL_ENDPOINT"),
        )
        .arg(global("tenant", "Tenant, by name or id").env("VPNCTL_TENANT"))
        .subcommands(session())
        .subcommand(context())
        .subcommands(contract())
        .subcommand(sub());
    nouns::NOUNS
        .iter()
        .fold(root, |root, noun| root.subcommand(of_noun(noun)))
}

fn session() -> [Command; 4] {
    [
        Command::new("login")
            .about("Sign in; the password is read from the terminal or stdin")
            .arg(
                Arg::new("server")
                    .long("server")
                    .help("http://host:50051 or https://…; kept in the context"),
            )
            .arg(
                Arg::new("ca-file")
                    .long("ca-file")
                    .value_hint(ValueHint::FilePath)
                    .value_parser(value_parser!(std::path::PathBuf))
                    .help("Authority of the server's certificate"),
            )
            .arg(Arg::new("email").long("email").required(true).help("Of the account"))
            .arg(Arg::new("totp").long("totp").help("Current code of the second factor")),
        Command::new("password")
            .about("Change the password; the current and the new one are read from the terminal or two lines of stdin"),
        Command::new("logout").about("End the session"),
        Command::new("whoami").about("Who is signed in, and where"),
    ]
}

fn context() -> Command {
    Command::new("context")
        .about("Control planes that you work with")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("List contexts"))
        .subcommand(
            Command::new("use")
                .about("Make a context the current one")
                .arg(Arg::new("name").required(true)),
        )
        .subcommand(
            Command::new("set-tenant")
                .about("Tenant of the current context, by name or id")
                .arg(Arg::new("name").required(true)),
        )
}

fn contract() -> [Command; 4] {
    [
        Command::new("call")
            .about("Call any unary or server-streaming method of the contract")
            .arg(
                Arg::new("method")
                    .required(true)
                    .help("vpnpanel.user.v1.UserService/ListUsers"),
            )
            .arg(
                Arg::new("data")
                    .short('d')
                    .long("data")
                    .default_value("{}")
                    .help("The request as protojson; - reads stdin, where secrets belong"),
            )
            .arg(flag(
                "show-secrets",
                "Write secrets, which else read [redacted]",
            ))
            .arg(flag("no-auth", "Call without a token")),
        Command::new("methods").about("List the methods of the contract"),
        Command::new("completion")
            .about("Write completion for a shell")
            .arg(
                Arg::new("shell")
                    .required(true)
                    .value_parser(value_parser!(Shell)),
            ),
        Command::new("man")
            .about("Write the manual pages into a folder")
            .arg(
                Arg::new("folder")
                    .required(true)
                    .value_parser(value_parser!(std::path::PathBuf)),
            ),
    ]
}

fn sub() -> Command {
    let user = || Arg::new("user").required(true).help("Username or id");
    Command::new("sub")
        .about("What a subscriber's devices need; all of it is secret")
        .subcommand_required(true)
        .subcommand(
            Command::new("show")
                .about("The subscription's link")
                .arg(user())
                .arg(flag("qr", "As a QR code")),
        )
        .subcommand(
            Command::new("config")
                .about("The configurations and share links, one after the other")
                .arg(user()),
        )
}

fn of_noun(noun: &Noun) -> Command {
    let command = Command::new(noun.name)
        .about(noun.about)
        .subcommand_required(true)
        .arg_required_else_help(true);
    noun.verbs
        .iter()
        .fold(command, |command, verb| command.subcommand(of_verb(verb)))
}

fn of_verb(verb: &Verb) -> Command {
    let mut command = Command::new(verb.name).about(verb.about);
    for arg in verb.args {
        let mut made = Arg::new(arg.name).help(arg.about);
        made = match arg.place {
            Place::Positional => made.required(true),
            Place::Required => made.long(arg.name).required(true),
            Place::Optional => made.long(arg.name),
        };
        if arg.kind == Kind::Flag {
            made = made.action(ArgAction::SetTrue);
        }
        command = command.arg(made);
    }
    if !verb.columns.is_empty() {
        command = command.arg(
            Arg::new("limit")
                .long("limit")
                .value_parser(value_parser!(u32).range(1..=100_000))
                .default_value("100")
                .help("List no more than these"),
        );
    }
    command.arg(flag(
        "watch",
        "Show it again every two seconds, until interrupted",
    ))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_verb_takes_the_name_of_an_option_that_all_have() {
        let globals = super::command();
        let globals: Vec<&str> = globals
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .collect();
        for noun in crate::nouns::NOUNS {
            for verb in noun.verbs {
                for arg in verb.args {
                    let taken = globals.contains(&arg.name);
                    assert!(!taken, "{} {}: {}", noun.name, verb.name, arg.name);
                }
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
