//! Work that runs beside a stream: asks of the database and of control-api, each answered to the stream
//! in its turn.

use std::sync::Arc;

use bytes::Bytes;
use tracing::info;
use vpnpanel_link::{CommandResult, Hello, Revision, StateEpoch, collector::session::Event};
use vpnpanel_store::StoreError;

use super::{Done, Driver, First};
use crate::error::Error;

impl Driver {
    /// Answers a Hello, together with others'.
    pub(super) fn open(&mut self, hello: Box<Hello>) {
        self.agent_version.clone_from(&hello.agent_version);
        let (greeter, node) = (self.parts.greeter.clone(), self.node);
        self.work.push(Box::pin(async move {
            Done::Opened(match greeter.open(node, hello).await {
                Ok(opening) => Ok(Ok(Box::new(opening))),
                Err(Error::Store(StoreError::Refused(refusal))) => Ok(Err(refusal)),
                Err(error) => Err(error),
            })
        }));
    }

    /// Finds out what there is to tell the node at all, together with others.
    pub(super) fn first_look(&mut self, since: Option<Revision>) {
        self.first = First::Look { commands: false };
        let (greeter, node) = (self.parts.greeter.clone(), self.node);
        let generation = self.session.generation();
        self.work.push(Box::pin(async move {
            Done::Looked(since, greeter.look(node, generation, since).await)
        }));
    }

    pub(super) fn renew(&mut self, csr: Bytes) {
        let (renewals, peer) = (self.parts.renewals.clone(), self.peer.clone());
        self.work.push(Box::pin(async move {
            Done::Told(Event::Renewed(renewals.answer(peer.serial(), csr).await))
        }));
    }

    pub(super) fn load_commands(&mut self) {
        let (store, node) = (self.parts.store.clone(), self.node);
        let generation = self.session.generation();
        self.work.push(Box::pin(async move {
            Done::Commanded(store.commands_to_send(node, generation).await)
        }));
    }

    pub(super) fn answered(&mut self, result: CommandResult) {
        info!(
            event = "link.command_answered",
            command_id = %result.id,
            outcome = ?result.answer.outcome,
            "a node has answered a command"
        );
        let (store, node) = (self.parts.store.clone(), self.node);
        let generation = self.session.generation();
        self.work.push(Box::pin(async move {
            Done::Answered(store.command_answered(node, generation, result).await)
        }));
    }

    pub(super) fn reported(&mut self, epoch: StateEpoch, leases: u64) {
        let (store, node) = (self.parts.store.clone(), self.node);
        let generation = self.session.generation();
        self.work.push(Box::pin(async move {
            let reported = store.node_reported(node, generation, epoch, leases);
            Done::Reported(reported.await)
        }));
    }

    pub(super) fn load(&mut self, since: Option<Revision>) {
        let (snapshots, node) = (self.parts.snapshots.clone(), self.node);
        let generation = self.session.generation();
        let allowances = Arc::clone(&self.parts.allowances);
        self.work.push(Box::pin(async move {
            let state = snapshots.read(node, generation, since).await;
            // Behind the state: whoever has a limit there has a lease by now.
            let grants = match &state {
                Ok(_) => allowances.of_node(node, generation).await,
                Err(_) => Ok(Vec::new()),
            };
            Done::Loaded(state, grants)
        }));
    }

    pub(super) fn look_up_allowances(&mut self) {
        if std::mem::replace(&mut self.leasing, true) {
            self.lease_again = true;
            return;
        }
        let (allowances, node) = (Arc::clone(&self.parts.allowances), self.node);
        let generation = self.session.generation();
        self.work.push(Box::pin(async move {
            Done::Leased(allowances.of_node(node, generation).await)
        }));
    }
}
