//! Commands: the rows of the database, and which of them a node has begun.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{CommandId, NodeId};
use vpnpanel_link::collector::NodeFacts;
use vpnpanel_link::{Command, CommandAnswer, CommandKind, CommandResult, Generation, SpoolId};

use crate::random::Random;

/// An agent's notion of the server's time is behind by no more than a Welcome may take.
const CLOCK_LAG_MS: i64 = 16_000;

#[derive(Default)]
pub(crate) struct Commands {
    rows: BTreeMap<(NodeId, CommandId), Row>,
    /// Nodes of which two agents may do what one was told.
    forgotten: BTreeSet<NodeId>,
    /// What has gone wrong.
    pub(crate) wrong: Option<String>,
}

struct Row {
    command: Command,
    /// By which stream it was sent last, to which disk.
    sent: Option<(Generation, Option<SpoolId>)>,
    answer: Option<CommandAnswer>,
    begun: bool,
}

impl Commands {
    /// Somebody tells a node to do something.
    pub(crate) fn give(&mut self, node: NodeId, now_ms: i64, random: &mut Random) {
        if self.forgotten.contains(&node) {
            return;
        }
        let id = CommandId::from_bytes(random.array());
        let ttl_ms = [2_000, 60_000, 3_600_000][random.below(3) as usize];
        let command = Command {
            id,
            kind: random.pick(&CommandKind::ALL),
            expires_at_ms: now_ms + ttl_ms,
        };
        let row = Row {
            command,
            sent: None,
            answer: None,
            begun: false,
        };
        self.rows.insert((node, id), row);
    }

    /// What a stream has not carried yet.
    pub(crate) fn take(
        &mut self,
        node: NodeId,
        facts: &NodeFacts,
        generation: Generation,
        now_ms: i64,
    ) -> Vec<Command> {
        let mut taken = Vec::new();
        let of_node = self.rows.iter_mut().filter(|((of, _), _)| *of == node);
        for (_, row) in of_node.filter(|(_, row)| row.answer.is_none()) {
            if row.sent.is_some_and(|(_, spool)| spool != facts.spool) {
                row.answer = Some(CommandAnswer::failed("its disk is gone"));
                continue;
            }
            let carried = row.sent.is_some_and(|(by, _)| by == generation);
            if !carried && row.command.expires_at_ms > now_ms {
                row.sent = Some((generation, facts.spool));
                taken.push(row.command);
            }
        }
        taken
    }

    /// What nobody has answered in time is given up, and is not taken up again when the clock is set
    /// back.
    pub(crate) fn expire(&mut self, now_ms: i64) {
        let open = self.rows.values_mut().filter(|row| row.answer.is_none());
        for row in open.filter(|row| row.command.expires_at_ms <= now_ms) {
            row.answer = Some(CommandAnswer::failed("its time is over"));
        }
    }

    /// The database is an older one: what streams have carried goes out again.
    pub(crate) fn restored(&mut self) {
        for row in self.rows.values_mut() {
            row.sent = row.sent.map(|(_, spool)| (Generation(u64::MAX), spool));
        }
    }

    /// A result that is noted.
    pub(crate) fn answered(&mut self, node: NodeId, result: CommandResult) {
        if let Some(row) = self.rows.get_mut(&(node, result.id))
            && row.answer.is_none()
        {
            row.answer = Some(result.answer);
        }
    }

    /// More than one agent has the identity of a node: nothing can be said of what it does.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.forgotten.insert(node);
        self.rows.retain(|(of, _), _| *of != node);
    }

    /// A node begins: for the first time, and not too late by what it was told of the time.
    pub(crate) fn begun(&mut self, node: NodeId, id: CommandId, now_ms: i64) {
        if self.forgotten.contains(&node) {
            return;
        }
        match self.rows.get_mut(&(node, id)) {
            Some(row) if row.begun => self.wrong = Some(format!("{node} does {id} again")),
            Some(row) if now_ms >= row.command.expires_at_ms + CLOCK_LAG_MS => {
                self.wrong = Some(format!("{node} begins {id} when its time is over"));
            }
            Some(row) => row.begun = true,
            None => self.wrong = Some(format!("{node} does {id}, which nobody gave")),
        }
    }

    /// What waits and should not, when nothing is in the way.
    pub(crate) fn unrest(&self) -> Option<String> {
        self.rows
            .iter()
            .find(|(_, row)| row.answer.is_none())
            .map(|((node, id), _)| format!("{node} has not answered {id}"))
    }
}
