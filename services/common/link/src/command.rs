//! Commands: what an agent does once, and what came of it.

use serde::{Deserialize, Serialize};
use vpnpanel_domain::CommandId;

/// Most bytes of what a command brings.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// Most characters of what is said about a result.
pub const MAX_MESSAGE_CHARS: usize = 500;

/// Most commands of a node that wait for a result.
pub const MAX_OPEN: usize = 16;

/// What an agent can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CommandKind {
    /// Stop the engines and start them again.
    RestartEngine,
    /// Answer with the last lines logged.
    CollectLogs,
    /// End the stream and open another.
    Drain,
    /// Ask for the whole desired state.
    Resync,
    /// Take no new sessions; those that live go on.
    Cordon,
    /// Take new sessions again.
    Uncordon,
}

impl CommandKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RestartEngine,
        Self::CollectLogs,
        Self::Drain,
        Self::Resync,
        Self::Cordon,
        Self::Uncordon,
    ];

    /// The name in databases and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RestartEngine => "restart_engine",
            Self::CollectLogs => "collect_logs",
            Self::Drain => "drain",
            Self::Resync => "resync",
            Self::Cordon => "cordon",
            Self::Uncordon => "uncordon",
        }
    }
}

/// Something to do, at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Names it.
    pub id: CommandId,
    /// What to do; `None` is of a newer control plane.
    pub kind: Option<CommandKind>,
    /// Not to begin at or after this, server time in milliseconds of the Unix epoch.
    pub expires_at_ms: i64,
}

/// What came of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandOutcome {
    /// Done.
    Succeeded,
    /// Not done, or only in part, or nobody can tell.
    Failed,
    /// Not begun: its time was over.
    Expired,
}

/// What an agent says of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    /// Which.
    pub id: CommandId,
    /// What came of it.
    pub answer: CommandAnswer,
}

/// A result by itself, within the bounds of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAnswer {
    /// What came of it.
    pub outcome: CommandOutcome,
    /// For people.
    pub message: String,
    /// What it brought.
    pub output: String,
}

impl CommandAnswer {
    /// It was done, and brought this; of too much the end counts.
    pub fn done(output: String) -> Self {
        Self {
            outcome: CommandOutcome::Succeeded,
            message: String::new(),
            output: tail(output),
        }
    }

    /// It was not done.
    pub fn failed(message: &str) -> Self {
        Self::without_output(CommandOutcome::Failed, message)
    }

    /// It came too late.
    pub fn expired() -> Self {
        Self::without_output(
            CommandOutcome::Expired,
            "the command came to the node when its time was over",
        )
    }

    fn without_output(outcome: CommandOutcome, message: &str) -> Self {
        Self {
            outcome,
            message: message.chars().take(MAX_MESSAGE_CHARS).collect(),
            output: String::new(),
        }
    }
}

/// The end of a text, whole characters within the bound.
fn tail(mut text: String) -> String {
    let mut from = text.len().saturating_sub(MAX_OUTPUT_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_long_an_output_the_end_is_kept_in_whole_characters() {
        let short = CommandAnswer::done("a line".to_owned());
        assert_eq!(short.output, "a line");
        let long = "ü".repeat(MAX_OUTPUT_BYTES) + "x";
        let kept = CommandAnswer::done(long).output;
        assert_eq!(kept.len(), MAX_OUTPUT_BYTES - 1, "an ü is not cut in two");
        assert!(kept.ends_with("üx"));
    }
}
