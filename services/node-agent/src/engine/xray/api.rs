//! Xray's own interface over its control socket. One [`Api`] is one connection to one process:
//! it never connects again by itself, so all that it answers comes from the same Xray.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};
use vpnpanel_api::xray::app::proxyman::command::handler_service_client::HandlerServiceClient;
use vpnpanel_api::xray::app::proxyman::command::{
    AddInboundRequest, AddUserOperation, AlterInboundRequest, GetInboundUserRequest,
    ListInboundsRequest, ListOutboundsRequest, RemoveInboundRequest, RemoveUserOperation,
};
use vpnpanel_api::xray::app::stats::command::QueryStatsRequest;
use vpnpanel_api::xray::app::stats::command::stats_service_client::StatsServiceClient;
use vpnpanel_api::xray::common::protocol::User;
use vpnpanel_api::xray::common::serial::TypedMessage;
use vpnpanel_api::xray::core::InboundHandlerConfig;
use vpnpanel_domain::PeerId;

use super::{config, wire};
use crate::Error;

const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer about a million users; more is no answer.
const ANSWER: usize = 256 << 20;

/// A connection to a running Xray.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pid: Pid,
    handlers: HandlerServiceClient<Channel>,
    stats: StatsServiceClient<Channel>,
}

impl Api {
    /// Connects; who listens there is known from then on.
    pub(super) async fn connect(socket: &Path) -> Result<Self, Error> {
        let failed = |message: String| Error::Xray {
            operation: "connect",
            message,
        };
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let credentials =
            getsockopt(&stream, PeerCredentials).map_err(|error| failed(error.to_string()))?;
        let stream = Mutex::new(Some(stream));
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            std::future::ready(stream.map(TokioIo::new).ok_or_else(|| {
                std::io::Error::new(std::io::ErrorKind::NotConnected, "the connection ended")
            }))
        });
        let channel = Endpoint::from_static("http://xray.invalid")
            .timeout(TIMEOUT)
            .connect_with_connector(once)
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            pid: Pid::from_raw(credentials.pid()),
            handlers: HandlerServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER),
            stats: StatsServiceClient::new(channel).max_decoding_message_size(ANSWER),
        })
    }

    /// The process that answers.
    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// What tells this start of Xray from every other.
    pub(super) async fn nonce(&mut self) -> Result<[u8; 16], Error> {
        let answer = self
            .handlers
            .list_outbounds(ListOutboundsRequest {})
            .await
            .map_err(failed("list outbounds"))?;
        let mut tags = answer.into_inner().outbounds.into_iter();
        tags.find_map(|outbound| config::nonce_of(&outbound.tag))
            .ok_or(Error::Xray {
                operation: "list outbounds",
                message: "it was not started by this agent".to_owned(),
            })
    }

    /// Bytes of each peer since this Xray started, (from, to) the subscriber. Nothing is reset.
    pub(super) async fn counters(&mut self) -> Result<HashMap<PeerId, (u64, u64)>, Error> {
        let request = QueryStatsRequest {
            pattern: "user>>>".to_owned(),
            reset: false,
        };
        let answer = self
            .stats
            .query_stats(request)
            .await
            .map_err(failed("read counters"))?;
        let mut peers: HashMap<PeerId, (u64, u64)> = HashMap::new();
        for stat in answer.into_inner().stat {
            let Some((peer, direction)) = parse_name(&stat.name) else {
                continue;
            };
            // A counter is a sum of lengths: one below zero is no counter of ours.
            let bytes = u64::try_from(stat.value).map_err(|_| Error::Xray {
                operation: "read counters",
                message: format!("{} is negative", stat.name),
            })?;
            let counters = peers.entry(peer).or_default();
            match direction {
                Direction::Up => counters.0 = bytes,
                Direction::Down => counters.1 = bytes,
            }
        }
        Ok(peers)
    }

    /// Tags of all inbounds.
    pub(super) async fn tags(&mut self) -> Result<Vec<String>, Error> {
        let answer = self
            .handlers
            .list_inbounds(ListInboundsRequest { is_only_tags: true })
            .await
            .map_err(failed("list inbounds"))?;
        let inbounds = answer.into_inner().inbounds.into_iter();
        Ok(inbounds.map(|inbound| inbound.tag).collect())
    }

    pub(super) async fn add_inbound(&mut self, inbound: InboundHandlerConfig) -> Result<(), Error> {
        let request = AddInboundRequest {
            inbound: Some(inbound),
        };
        let answer = self.handlers.add_inbound(request).await;
        answer.map(drop).map_err(failed("add an inbound"))
    }

    pub(super) async fn remove_inbound(&mut self, tag: String) -> Result<(), Error> {
        let answer = self
            .handlers
            .remove_inbound(RemoveInboundRequest { tag })
            .await;
        answer.map(drop).map_err(failed("remove an inbound"))
    }

    /// Users of an inbound with their accounts.
    pub(super) async fn users(&mut self, tag: String) -> Result<Vec<User>, Error> {
        let request = GetInboundUserRequest {
            tag,
            email: String::new(),
        };
        let answer = self.handlers.get_inbound_users(request).await;
        Ok(answer.map_err(failed("list users"))?.into_inner().users)
    }

    pub(super) async fn add_user(&mut self, tag: String, user: User) -> Result<(), Error> {
        let operation = wire::typed(&AddUserOperation { user: Some(user) });
        self.alter(tag, operation, "add a user").await
    }

    pub(super) async fn remove_user(&mut self, tag: String, peer: PeerId) -> Result<(), Error> {
        let operation = wire::typed(&RemoveUserOperation {
            email: wire::email(peer),
        });
        self.alter(tag, operation, "remove a user").await
    }

    async fn alter(
        &mut self,
        tag: String,
        operation: TypedMessage,
        what: &'static str,
    ) -> Result<(), Error> {
        let request = Request::new(AlterInboundRequest {
            tag,
            operation: Some(operation),
        });
        let answer = self.handlers.alter_inbound(request).await;
        answer.map(drop).map_err(failed(what))
    }
}

fn failed(operation: &'static str) -> impl Fn(tonic::Status) -> Error {
    move |status| Error::Xray {
        operation,
        message: status.message().chars().take(300).collect(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// Reads the name of a peer's counter; nothing that merely resembles one.
fn parse_name(name: &str) -> Option<(PeerId, Direction)> {
    let mut parts = name.split(">>>");
    let ("user", email, "traffic") = (parts.next()?, parts.next()?, parts.next()?) else {
        return None;
    };
    let direction = match (parts.next()?, parts.next()) {
        ("uplink", None) => Direction::Up,
        ("downlink", None) => Direction::Down,
        _ => return None,
    };
    Some((wire::peer_of(email)?, direction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_exact_name_is_a_counter() {
        let peer = PeerId::from_bytes([0xab; 16]);
        let name = |rest: &str| format!("user>>>{peer}>>>traffic>>>{rest}");
        assert_eq!(parse_name(&name("uplink")), Some((peer, Direction::Up)));
        assert_eq!(parse_name(&name("downlink")), Some((peer, Direction::Down)));
        for other in [
            name("uplink>>>x"),
            name("online"),
            format!("inbound>>>{peer}>>>traffic>>>uplink"),
            format!("xuser>>>{peer}>>>traffic>>>uplink"),
            "user>>>somebody>>>traffic>>>uplink".to_owned(),
            name("uplink").to_uppercase(),
        ] {
            assert_eq!(parse_name(&other), None, "{other}");
        }
    }
}
