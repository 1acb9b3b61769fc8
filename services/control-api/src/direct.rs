//! Nodes that are reached directly, by the agents' own servers: where a node has a control address.
//! Whoever answers there has to show the certificate of that very node.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tonic::{Status, Streaming, transport::Channel};
use vpnpanel_api::agent::v1::{
    GetStatusRequest, RunCommandRequest, StreamLogsRequest, StreamLogsResponse,
    node_control_service_client::NodeControlServiceClient,
};
use vpnpanel_link::{Command, CommandKind, wire};
use vpnpanel_runtime::{
    PeerIdentity, TrustDomain,
    tls::{ClientTls, Dialer},
};
use vpnpanel_store::{CommandState, Node, NodeCommand, Store, StoreError};

/// TCP, TLS and the first answer.
const DIAL: Duration = Duration::from_secs(5);
/// How long a node may take over a command.
const RUN: Duration = Duration::from_secs(60);
/// Commands that are given directly at the same time; others go over the link.
const AT_ONCE: usize = 32;

/// Reaches agents; clones share what it has.
#[derive(Debug, Clone)]
pub(crate) struct Direct {
    /// What control-api shows; without it no node is reached directly.
    tls: Option<ClientTls>,
    trust_domain: TrustDomain,
    turns: Arc<Semaphore>,
}

/// Why a node was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreached {
    #[error("it has no control address")]
    NoAddress,
    #[error("no answer within {DIAL:?}")]
    Deadline,
    #[error("its control address: {0}")]
    Address(#[from] tonic::transport::Error),
    #[error("its name: {0}")]
    Name(#[from] vpnpanel_runtime::tls::TlsError),
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(#[from] Box<Status>),
    #[error("another node answers there")]
    OtherNode,
    #[error("its answer: {0}")]
    Answer(#[from] vpnpanel_link::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Agent = NodeControlServiceClient<Channel>;

impl Direct {
    pub(crate) fn new(tls: Option<ClientTls>, trust_domain: TrustDomain) -> Self {
        Self {
            tls,
            trust_domain,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Gives a command to its node in the background, where the node is reached; otherwise, and where
    /// anything goes wrong, its link does.
    pub(crate) fn give(&self, store: &Store, command: &NodeCommand) {
        let is_about_link = matches!(command.kind, CommandKind::Drain | CommandKind::Resync);
        if self.tls.is_none() || is_about_link || command.state != CommandState::Pending {
            return;
        }
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return;
        };
        let (direct, store, command) = (self.clone(), store.clone(), command.clone());
        tokio::spawn(async move {
            if let Err(error) = direct.run(&store, &command).await {
                tracing::info!(
                    event = "command_not_given_directly",
                    node_id = %command.node_id,
                    command_id = %command.id,
                    %error,
                    "the node's link gives it"
                );
            }
            drop(turn);
        });
    }

    async fn run(&self, store: &Store, command: &NodeCommand) -> Result<(), Unreached> {
        let node = store.node(command.tenant_id, command.node_id).await?;
        if node.control_address.is_empty() {
            return Ok(());
        }
        let mut agent = self.reach(&node).await?;
        if !store.give_command_directly(node.id, command.id).await? {
            return Ok(());
        }
        let wire = wire::command_to_wire(Command {
            id: command.id,
            kind: Some(command.kind),
            expires_at_ms: command.expires_at_ms,
        });
        let mut request = tonic::Request::new(RunCommandRequest {
            command_id: wire.command_id,
            kind: wire.kind,
            expire_time: wire.expire_time,
        });
        request.set_timeout(RUN);
        let answer = agent.run_command(request).await;
        let result = answer
            .map_err(Box::new)?
            .into_inner()
            .result
            .unwrap_or_default();
        let result = vpnpanel_link::wire::result_from_wire(result)?;
        if result.id == command.id {
            store.command_answered_directly(node.id, result).await?;
        }
        Ok(())
    }

    /// The agent's log, as it comes.
    pub(crate) async fn log(
        &self,
        node: &Node,
        follow: Option<prost_types::Duration>,
    ) -> Result<Streaming<StreamLogsResponse>, Unreached> {
        let mut agent = self.reach(node).await?;
        let answer = agent.stream_logs(StreamLogsRequest { follow }).await;
        Ok(answer.map_err(Box::new)?.into_inner())
    }

    /// An agent that has answered, and as this node.
    async fn reach(&self, node: &Node) -> Result<Agent, Unreached> {
        let Some(tls) = self
            .tls
            .as_ref()
            .filter(|_| !node.control_address.is_empty())
        else {
            return Err(Unreached::NoAddress);
        };
        let identity = PeerIdentity::Node {
            tenant: node.tenant_id.map(Into::into),
            node: node.id.uuid(),
        };
        let channel = Dialer::new(tls.clone(), identity, self.trust_domain.clone())?
            .deadline(DIAL)
            .channel(&node.control_address, |endpoint| {
                endpoint
                    .http2_keep_alive_interval(Duration::from_secs(15))
                    .keep_alive_timeout(Duration::from_secs(10))
            })?;
        let mut agent = Agent::new(channel);
        let status = tokio::time::timeout(DIAL, agent.get_status(GetStatusRequest {}))
            .await
            .map_err(|_| Unreached::Deadline)?
            .map_err(Box::new)?;
        match status.into_inner().node_id == node.id.to_string() {
            true => Ok(agent),
            false => Err(Unreached::OtherNode),
        }
    }
}
