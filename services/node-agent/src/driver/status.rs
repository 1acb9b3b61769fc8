//! What the agent answers when the control plane asks how it is.

use prost_types::Timestamp;
use vpnpanel_api::agent::v1 as pb;
use vpnpanel_domain::NodeId;
use vpnpanel_link::EngineStatus;
use vpnpanel_link::agent::Agent;

/// What stays the same while the agent runs.
#[derive(Debug, Clone)]
pub struct StatusFacts {
    /// The node.
    pub node: NodeId,
    /// When the agent started, Unix seconds.
    pub started_unix: i64,
    /// When its certificate ends, Unix seconds.
    pub not_after_unix: i64,
}

impl StatusFacts {
    pub(super) fn answer(
        &self,
        machine: &Agent,
        engines: &[EngineStatus],
    ) -> pb::GetStatusResponse {
        let (batches, bytes) = unacked(machine);
        pb::GetStatusResponse {
            node_id: self.node.to_string(),
            agent_version: vpnpanel_runtime::VERSION.to_owned(),
            start_time: Some(seconds(self.started_unix)),
            connected: machine.is_connected(),
            applied_revision: machine
                .durable()
                .applied
                .map_or(0, |state| state.revision.get()),
            unacked_batches: batches,
            unacked_bytes: bytes,
            certificate_expire_time: Some(seconds(self.not_after_unix)),
            engines: engines.iter().map(engine).collect(),
        }
    }
}

/// Batches that the control plane has not acknowledged, and their bytes.
pub(super) fn unacked(machine: &Agent) -> (u64, u64) {
    let durable = machine.durable();
    durable
        .batches
        .iter()
        .filter(|((epoch, seq), _)| durable.epochs.get(epoch).is_none_or(|e| *seq > e.acked))
        .fold((0, 0), |(batches, bytes), (_, record)| {
            (batches + 1, bytes + u64::from(record.bytes))
        })
}

fn engine(status: &EngineStatus) -> pb::EngineStatus {
    pb::EngineStatus {
        kind: status.kind.clone(),
        version: status.version.clone(),
        healthy: status.healthy,
        problem: status.problem.clone(),
        peers: status.peers,
        incarnation: status.incarnation.map(|i| i.0.to_vec()).unwrap_or_default(),
    }
}

fn seconds(unix: i64) -> Timestamp {
    Timestamp {
        seconds: unix,
        nanos: 0,
    }
}
