//! Commands on a stream: looked for when it opens and whenever there may be new ones, each carried
//! once, each result taken once. What waits is in the database, which also says what a stream has
//! carried.

use std::collections::BTreeSet;

use vpnpanel_domain::CommandId;

use super::session::Effect;
use crate::{Command, CommandResult, Down};

#[derive(Debug, Clone, Default)]
pub(super) struct Commands {
    /// There may be new ones.
    moved: bool,
    loading: bool,
    /// Sent, and not answered.
    sent: BTreeSet<CommandId>,
}

impl Commands {
    /// There may be commands that the stream has not carried.
    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// Asks for them, when nothing is under way.
    pub(super) fn refresh(&mut self) -> Option<Effect> {
        if !self.moved || self.loading {
            return None;
        }
        self.moved = false;
        self.loading = true;
        Some(Effect::LoadCommands)
    }

    /// Sends what was found.
    pub(super) fn take(&mut self, commands: Vec<Command>, effects: &mut Vec<Effect>) {
        self.loading = false;
        for command in commands {
            self.sent.insert(command.id);
            effects.push(Effect::Send(Down::Command(command)));
        }
    }

    /// An answer, perhaps to an earlier stream: that one comes again when this stream has carried the
    /// command.
    pub(super) fn answered(&mut self, result: CommandResult) -> Option<Effect> {
        self.sent
            .remove(&result.id)
            .then_some(Effect::Answered(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandAnswer, CommandKind};

    fn command(n: u8) -> Command {
        Command {
            id: CommandId::from_bytes([n; 16]),
            kind: Some(CommandKind::Resync),
            expires_at_ms: 1_000,
        }
    }

    fn result(n: u8) -> CommandResult {
        CommandResult {
            id: CommandId::from_bytes([n; 16]),
            answer: CommandAnswer::failed("no"),
        }
    }

    #[test]
    fn one_look_at_a_time_and_another_when_something_came_meanwhile() {
        let mut commands = Commands::default();
        assert!(
            commands.refresh().is_none(),
            "nothing says that there are any"
        );
        commands.moved();
        assert!(matches!(commands.refresh(), Some(Effect::LoadCommands)));
        commands.moved();
        assert!(commands.refresh().is_none(), "one look is under way");
        commands.take(Vec::new(), &mut Vec::new());
        assert!(matches!(commands.refresh(), Some(Effect::LoadCommands)));
        commands.take(Vec::new(), &mut Vec::new());
        assert!(commands.refresh().is_none());
    }

    #[test]
    fn a_result_counts_once_and_only_of_what_this_stream_has_carried() {
        let mut commands = Commands::default();
        let mut sent = Vec::new();
        commands.take(vec![command(1), command(2)], &mut sent);
        assert_eq!(sent.len(), 2);
        assert!(commands.answered(result(3)).is_none());
        assert!(matches!(
            commands.answered(result(2)),
            Some(Effect::Answered(noted)) if noted == result(2)
        ));
        assert!(commands.answered(result(2)).is_none());
    }
}
