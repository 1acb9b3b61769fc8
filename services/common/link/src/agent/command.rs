//! Commands on the agent: that one was seen is durable before anything is done, so that it is done
//! at most once however often it comes; what came of it is kept for as long as it may come again.

use serde::{Deserialize, Serialize};
use vpnpanel_domain::CommandId;

use super::{Agent, Effect, Now, Write};
use crate::command::{Command, CommandAnswer, CommandKind, CommandResult};
use crate::{Entropy, Up, entropy};

/// Commands on record at most. A node has at most [`crate::MAX_OPEN_COMMANDS`] that wait, but those
/// that are done count until their time is over.
const KEPT: usize = 256;

/// How long after its time a command is still on record: clocks are read on both sides.
const KEPT_MS: i64 = 600_000;

/// Within which an agent that was told to drain is back.
const BACK_WITHIN_MS: u64 = 10_000;

/// A command that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// When its time is over, server time.
    pub expires_at_ms: i64,
    /// What came of it; `None` while it is being done.
    pub answer: Option<CommandAnswer>,
}

impl Agent {
    /// What an earlier start of the agent has begun and not ended: nobody can tell how far it came, and
    /// it is not begun again.
    pub(super) fn interrupted_commands(&mut self) {
        let begun: Vec<(CommandId, i64)> = self
            .durable
            .commands
            .iter()
            .filter(|(_, record)| record.answer.is_none())
            .map(|(id, record)| (*id, record.expires_at_ms))
            .collect();
        for (id, expires_at_ms) in begun {
            let answer = CommandAnswer::failed(
                "the agent was stopped while it did this: it may be done, in part or not at all",
            );
            self.note_command(id, expires_at_ms, Some(answer));
        }
    }

    /// A command came, perhaps not for the first time.
    pub(super) fn commanded(&mut self, command: Command, now: Now, entropy: &mut dyn Entropy) {
        if let Some(record) = self.durable.commands.get(&command.id) {
            // One that is being done answers when it is done.
            if let Some(answer) = record.answer.clone() {
                self.answer_command(command.id, answer);
            }
            return;
        }
        let server_ms = self.server_ms(now);
        self.sweep_commands(server_ms);
        // What is answered without being done needs no record: it would be answered so again.
        let kind = match command.kind {
            _ if command.expires_at_ms <= server_ms => Err(CommandAnswer::expired()),
            None => Err(CommandAnswer::failed(
                "this version of the agent knows no such command",
            )),
            Some(_) if self.durable.commands.len() >= KEPT => Err(CommandAnswer::failed(
                "the agent was given too many commands of late",
            )),
            Some(kind) => Ok(kind),
        };
        match kind {
            Ok(kind) => self.begin_command(command, kind, entropy),
            Err(answer) => self.answer_command(command.id, answer),
        }
    }

    fn begin_command(&mut self, command: Command, kind: CommandKind, entropy: &mut dyn Entropy) {
        let Command {
            id, expires_at_ms, ..
        } = command;
        match kind {
            CommandKind::RestartEngine
            | CommandKind::CollectLogs
            | CommandKind::Cordon
            | CommandKind::Uncordon => {
                self.note_command(id, expires_at_ms, None);
                self.commit();
                self.out.push(Effect::Run { id, kind });
            }
            CommandKind::Resync => {
                self.note_command(id, expires_at_ms, Some(nothing_more()));
                self.ask_for_whole_again();
                self.answer_command(id, nothing_more());
            }
            CommandKind::Drain => {
                self.note_command(id, expires_at_ms, Some(nothing_more()));
                self.answer_command(id, nothing_more());
                self.come_back_after(entropy::below(entropy, BACK_WITHIN_MS));
            }
        }
    }

    /// The driver has done it.
    pub(super) fn command_done(&mut self, id: CommandId, answer: CommandAnswer) {
        let Some(record) = self.durable.commands.get(&id) else {
            return;
        };
        let expires_at_ms = record.expires_at_ms;
        self.note_command(id, expires_at_ms, Some(answer.clone()));
        self.answer_command(id, answer);
    }

    /// Forgets commands that cannot come again.
    pub(super) fn sweep_commands(&mut self, server_ms: i64) {
        let over: Vec<CommandId> = self
            .durable
            .commands
            .iter()
            .filter(|(_, record)| {
                record.answer.is_some() && record.expires_at_ms.saturating_add(KEPT_MS) <= server_ms
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.write(Write::DropCommand(id));
        }
    }

    fn note_command(&mut self, id: CommandId, expires_at_ms: i64, answer: Option<CommandAnswer>) {
        let record = CommandRecord {
            expires_at_ms,
            answer,
        };
        self.write(Write::Command(id, record));
    }

    /// Without a stream the command comes again on the next one, and is answered there; who has asked
    /// directly waits for it here.
    fn answer_command(&mut self, id: CommandId, answer: CommandAnswer) {
        self.commit();
        let result = CommandResult { id, answer };
        self.out.push(Effect::CommandAnswered(result.clone()));
        if self.stream.window().is_some() {
            self.out.push(Effect::Send(Up::CommandResult(result)));
        }
    }
}

fn nothing_more() -> CommandAnswer {
    CommandAnswer::done(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CommandOutcome;
    use crate::agent::Event;
    use crate::agent::testing::{Host, SERVER_MS, Zeros, at};

    fn command(n: u8, kind: CommandKind) -> Command {
        Command {
            id: CommandId::from_bytes([n; 16]),
            kind: Some(kind),
            expires_at_ms: SERVER_MS + 60_000,
        }
    }

    fn runs(effects: &[Effect]) -> usize {
        let is_run = |effect: &&Effect| matches!(effect, Effect::Run { .. });
        effects.iter().filter(is_run).count()
    }

    fn answers(effects: &[Effect]) -> Vec<&CommandAnswer> {
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Send(Up::CommandResult(result)) => Some(&result.answer),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn that_it_was_seen_is_durable_before_it_is_done() {
        let mut host = Host::connected();
        let effects = host.give(command(1, CommandKind::RestartEngine));
        let commit = effects
            .iter()
            .position(|effect| matches!(effect, Effect::Commit(_)));
        let run = effects
            .iter()
            .position(|effect| matches!(effect, Effect::Run { .. }));
        assert!(commit.unwrap() < run.unwrap(), "{effects:?}");
        assert!(answers(&effects).is_empty(), "it is not done yet");
    }

    #[test]
    fn however_often_it_comes_it_is_done_once_and_answered_as_the_first_time() {
        let mut host = Host::connected();
        let collect = command(1, CommandKind::CollectLogs);
        assert_eq!(runs(&host.give(collect)), 1);
        assert!(host.give(collect).is_empty(), "it is being done");
        let answer = CommandAnswer::done("lines".to_owned());
        let done = Event::CommandDone {
            id: collect.id,
            answer: answer.clone(),
        };
        assert_eq!(answers(&host.step(done)), [&answer]);
        let again = host.give(collect);
        assert_eq!((runs(&again), answers(&again)), (0, vec![&answer]));

        let mut restarted = Host::connected_from(host.disk);
        let again = restarted.give(collect);
        assert_eq!((runs(&again), answers(&again)), (0, vec![&answer]));
    }

    #[test]
    fn what_an_earlier_start_has_begun_is_not_begun_again() {
        let mut killed = Host::connected();
        let restart = command(1, CommandKind::RestartEngine);
        assert_eq!(runs(&killed.give(restart)), 1);

        let mut host = Host::connected_from(killed.disk);
        let again = host.give(restart);
        assert_eq!(runs(&again), 0);
        assert_eq!(answers(&again)[0].outcome, CommandOutcome::Failed);
    }

    #[test]
    fn a_result_without_a_stream_waits_for_the_command_to_come_again() {
        let mut host = Host::connected();
        let restart = command(1, CommandKind::RestartEngine);
        host.give(restart);
        host.step(Event::Disconnected);
        let answer = CommandAnswer::done(String::new());
        let done = Event::CommandDone {
            id: restart.id,
            answer: answer.clone(),
        };
        assert!(answers(&host.step(done)).is_empty());
        host.agent.step(Event::Tick, at(400_000), &mut Zeros);
        host.connect();
        assert_eq!(answers(&host.give(restart)), [&answer]);
    }

    #[test]
    fn it_is_the_same_command_whichever_way_it_comes() {
        let told = |effects: &[Effect]| -> Vec<CommandAnswer> {
            let answered = effects.iter().filter_map(|effect| match effect {
                Effect::CommandAnswered(result) => Some(result.answer.clone()),
                _ => None,
            });
            answered.collect()
        };
        let mut host = Host::connected();
        let restart = command(1, CommandKind::RestartEngine);
        assert_eq!(runs(&host.step(Event::CommandAsked(restart))), 1);
        assert!(host.give(restart).is_empty(), "it is being done");
        let answer = CommandAnswer::done(String::new());
        let effects = host.step(Event::CommandDone {
            id: restart.id,
            answer: answer.clone(),
        });
        assert_eq!(told(&effects), std::slice::from_ref(&answer));
        assert_eq!(answers(&effects), [&answer], "the stream hears it too");

        host.step(Event::Disconnected);
        let again = host.step(Event::CommandAsked(restart));
        assert_eq!((runs(&again), told(&again)), (0, vec![answer]));
        let other = command(2, CommandKind::CollectLogs);
        assert_eq!(
            runs(&host.step(Event::CommandAsked(other))),
            1,
            "no link is needed"
        );
    }

    #[test]
    fn what_is_over_or_unknown_is_not_begun() {
        let mut host = Host::connected();
        let over = Command {
            expires_at_ms: SERVER_MS,
            ..command(1, CommandKind::RestartEngine)
        };
        let effects = host.give(over);
        assert_eq!(runs(&effects), 0);
        assert_eq!(answers(&effects)[0].outcome, CommandOutcome::Expired);
        let unknown = Command {
            kind: None,
            ..command(2, CommandKind::Drain)
        };
        let effects = host.give(unknown);
        assert_eq!(answers(&effects)[0].outcome, CommandOutcome::Failed);
        assert!(
            host.disk.commands.is_empty(),
            "it would be answered so again"
        );
    }

    #[test]
    fn drain_ends_the_stream_once_and_resync_asks_for_everything() {
        let mut host = Host::connected();
        let effects = host.give(command(1, CommandKind::Resync));
        let asks =
            |effect: &Effect| matches!(effect, Effect::Send(Up::ConfigAck(ack)) if ack.resync);
        assert!(effects.iter().any(asks));
        assert_eq!(answers(&effects)[0].outcome, CommandOutcome::Succeeded);

        let ends = |effect: &Effect| matches!(effect, Effect::Disconnect { .. });
        let drain = command(2, CommandKind::Drain);
        assert!(host.give(drain).iter().any(ends));
        host.step(Event::Disconnected);
        host.connect();
        let again = host.give(drain);
        assert!(!again.iter().any(ends));
        assert_eq!(answers(&again)[0].outcome, CommandOutcome::Succeeded);
    }

    #[test]
    fn only_so_many_are_on_record_and_none_is_forgotten_while_it_may_come_again() {
        let mut host = Host::connected();
        let numbered = |n: usize| Command {
            id: CommandId::from_parts(n as i64, [0; 10]),
            ..command(0, CommandKind::Resync)
        };
        for n in 0..KEPT {
            host.give(numbered(n));
        }
        assert_eq!(host.disk.commands.len(), KEPT);
        let effects = host.give(numbered(KEPT));
        assert_eq!(answers(&effects)[0].outcome, CommandOutcome::Failed);
        assert_eq!(host.disk.commands.len(), KEPT);

        host.agent.sweep_commands(SERVER_MS + 60_000);
        assert_eq!(host.agent.durable().commands.len(), KEPT);
        host.agent.sweep_commands(SERVER_MS + 60_000 + KEPT_MS);
        assert!(host.agent.durable().commands.is_empty());
    }
}
