//! Who has given commands directly and waits for what comes of them.

use tokio::sync::oneshot;
use vpnpanel_domain::CommandId;
use vpnpanel_link::{CommandAnswer, CommandResult};

use crate::control::Asked;

/// Callers that wait at a time; the one who has waited longest goes then, and may ask again.
const MOST: usize = 64;

/// Callers, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<(CommandId, oneshot::Sender<CommandAnswer>)>);

impl Waiting {
    pub(super) fn add(&mut self, asked: Asked) {
        self.0.retain(|(_, caller)| !caller.is_closed());
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push((asked.command.id, asked.answer));
    }

    /// Tells everybody who has given this command.
    pub(super) fn tell(&mut self, result: &CommandResult) {
        let waiting = std::mem::take(&mut self.0);
        for (id, caller) in waiting {
            if id == result.id {
                // One that has gone away asks again.
                let _gone = caller.send(result.answer.clone());
            } else {
                self.0.push((id, caller));
            }
        }
    }
}
