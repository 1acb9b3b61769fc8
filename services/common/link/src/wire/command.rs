//! Commands and their results.

use vpnpanel_domain::CommandId;

use super::stream::{timestamp_from_wire, timestamp_to_wire};
use super::{at_most, pb};
use crate::command::{MAX_MESSAGE_CHARS, MAX_OUTPUT_BYTES};
use crate::{Command, CommandAnswer, CommandKind, CommandOutcome, CommandResult, Error};

/// As it goes to an agent.
pub fn command_to_wire(command: Command) -> pb::Command {
    pb::Command {
        command_id: command.id.into_bytes().to_vec(),
        kind: command
            .kind
            .map_or(pb::CommandKind::Unspecified, kind_to_wire)
            .into(),
        expire_time: Some(timestamp_to_wire(command.expires_at_ms)),
    }
}

/// As an agent takes it.
///
/// # Errors
/// A field that holds something else.
pub fn command_from_wire(command: pb::Command) -> Result<Command, Error> {
    Ok(Command {
        id: CommandId::try_from(command.command_id.as_slice())?,
        kind: pb::CommandKind::try_from(command.kind)
            .ok()
            .and_then(kind_from_wire),
        expires_at_ms: command
            .expire_time
            .map(timestamp_from_wire)
            .ok_or(Error::Missing("command.expire_time"))?,
    })
}

/// As it comes from an agent.
pub fn result_to_wire(result: CommandResult) -> pb::CommandResult {
    let CommandAnswer {
        outcome,
        message,
        output,
    } = result.answer;
    let outcome = match outcome {
        CommandOutcome::Succeeded => pb::CommandOutcome::Succeeded,
        CommandOutcome::Failed => pb::CommandOutcome::Failed,
        CommandOutcome::Expired => pb::CommandOutcome::Expired,
    };
    pb::CommandResult {
        command_id: result.id.into_bytes().to_vec(),
        outcome: outcome.into(),
        message,
        output,
    }
}

/// As the control plane takes it.
///
/// # Errors
/// A field that holds something else.
pub fn result_from_wire(result: pb::CommandResult) -> Result<CommandResult, Error> {
    let characters = result.message.chars().count();
    at_most("characters of a message", characters, MAX_MESSAGE_CHARS)?;
    at_most("bytes of an output", result.output.len(), MAX_OUTPUT_BYTES)?;
    let outcome = match pb::CommandOutcome::try_from(result.outcome) {
        Ok(pb::CommandOutcome::Succeeded) => CommandOutcome::Succeeded,
        Ok(pb::CommandOutcome::Expired) => CommandOutcome::Expired,
        // Whatever a newer agent calls it, nobody here can say that it was done.
        _ => CommandOutcome::Failed,
    };
    Ok(CommandResult {
        id: CommandId::try_from(result.command_id.as_slice())?,
        answer: CommandAnswer {
            outcome,
            message: result.message,
            output: result.output,
        },
    })
}

fn kind_to_wire(kind: CommandKind) -> pb::CommandKind {
    match kind {
        CommandKind::RestartEngine => pb::CommandKind::RestartEngine,
        CommandKind::CollectLogs => pb::CommandKind::CollectLogs,
        CommandKind::Drain => pb::CommandKind::Drain,
        CommandKind::Resync => pb::CommandKind::Resync,
        CommandKind::Cordon => pb::CommandKind::Cordon,
        CommandKind::Uncordon => pb::CommandKind::Uncordon,
    }
}

fn kind_from_wire(kind: pb::CommandKind) -> Option<CommandKind> {
    match kind {
        pb::CommandKind::Unspecified => None,
        pb::CommandKind::RestartEngine => Some(CommandKind::RestartEngine),
        pb::CommandKind::CollectLogs => Some(CommandKind::CollectLogs),
        pb::CommandKind::Drain => Some(CommandKind::Drain),
        pb::CommandKind::Resync => Some(CommandKind::Resync),
        pb::CommandKind::Cordon => Some(CommandKind::Cordon),
        pb::CommandKind::Uncordon => Some(CommandKind::Uncordon),
    }
}
