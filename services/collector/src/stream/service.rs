//! NodeLinkService: lets a node in by its certificate, and hands the stream to its driver. Identity is
//! the verified name of the certificate, never a field of a message; the serial must be the node's
//! current or next one.

use std::pin::Pin;

use async_trait::async_trait;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, info, info_span, warn};
use vpnpanel_api::agent::v1::{
    ConnectRequest, ConnectResponse, node_link_service_server::NodeLinkService,
};
use vpnpanel_domain::NodeId;
use vpnpanel_runtime::{PeerIdentity, tls::Peer};
use vpnpanel_store::{Attribution, CertificateState, Described, RetiredShown};

use super::{
    driver::{Driver, Parts},
    outbound::{self, Outbound},
};
use crate::error::Error;

/// The handler; put it inside `vpnpanel_api::Guarded`.
#[derive(Debug, Clone)]
pub struct NodeLink {
    parts: Parts,
}

impl NodeLink {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts }
    }

    async fn admit(&self, peer: &Peer) -> Result<NodeId, Error> {
        let &PeerIdentity::Node { tenant, node } = peer.identity() else {
            return Err(Error::NotANode);
        };
        let node = NodeId::new(node);
        let known = self.parts.store.identity_of(peer.serial()).await?;
        let known = known.ok_or(Error::CertificateRefused("its serial is unknown"))?;
        if known.node_id != node || known.tenant_id.map(Into::into) != tenant {
            return Err(Error::CertificateRefused("it was issued to another node"));
        }
        if known.state == CertificateState::Retired {
            return Err(self.retired(node, peer).await?);
        }
        if !known.state.is_good() {
            return Err(Error::CertificateRefused("it was replaced or revoked"));
        }
        if known.disabled {
            return Err(Error::CertificateRefused("the node is disabled"));
        }
        if known.state == CertificateState::Next {
            self.first_use(node, peer).await?;
        }
        Ok(node)
    }
}

impl NodeLink {
    /// Why a replaced certificate is refused. Where its successor was used a while ago, two agents hold
    /// the node's identity: that is never silent.
    async fn retired(&self, node: NodeId, peer: &Peer) -> Result<Error, Error> {
        let who = Attribution::system("collector/link", |_, _| Described::default());
        let store = self.parts.store.acting(who);
        match store.retired_certificate_shown(node, peer.serial()).await? {
            RetiredShown::Nothing => {
                return Ok(Error::CertificateRefused("it was replaced or revoked"));
            }
            RetiredShown::Quarantined => self.parts.metrics.quarantined(),
            RetiredShown::QuarantinedBefore => {}
        }
        warn!(
            event = "node.quarantined",
            node_id = %node,
            serial = hex::encode(peer.serial()),
            "an agent shows a certificate that was replaced and its successor used: two agents have this \
             node's identity, or one was set back; nothing is billed until it enrols again"
        );
        Ok(Error::CertificateSuperseded)
    }

    /// The node holds its next certificate: from here on the one before is good for nothing.
    async fn first_use(&self, node: NodeId, peer: &Peer) -> Result<(), Error> {
        let store = &self.parts.store;
        if store.use_next_certificate(node, peer.serial()).await? {
            info!(
                event = "link.certificate_in_use",
                node_id = %node,
                serial = hex::encode(peer.serial()),
                "a node's renewed certificate is in use, the one before is retired"
            );
            return Ok(());
        }
        // Another stream was faster, or it was replaced meanwhile.
        match store.identity_of(peer.serial()).await? {
            Some(known) if known.state.is_good() => Ok(()),
            _ => Err(Error::CertificateRefused("it was replaced or revoked")),
        }
    }
}

#[async_trait]
impl NodeLinkService for NodeLink {
    type ConnectStream =
        Pin<Box<dyn Stream<Item = Result<ConnectResponse, Status>> + Send + 'static>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or(Error::NotANode)?;
        let node = match self.admit(&peer).await {
            Ok(node) => node,
            Err(error) => {
                self.parts.metrics.stream_ended(error.reason());
                info!(
                    event = "link.refused",
                    peer = %peer.identity(),
                    serial = hex::encode(peer.serial()),
                    %error,
                    "a node's stream was refused"
                );
                return Err(error.into());
            }
        };
        let slot = self.parts.slot()?;
        let (frames, outgoing) = mpsc::channel(outbound::QUEUE);
        let outbound = Outbound::new(frames, self.parts.settings.silence());
        let driver = Driver::new(
            self.parts.clone(),
            node,
            peer,
            request.into_inner(),
            outbound,
        );
        let span = info_span!("link", node_id = %node);
        self.parts.streams.spawn(
            async move {
                driver.run().await;
                drop(slot);
            }
            .instrument(span),
        );
        let frames = ReceiverStream::new(outgoing).map(|frame| *frame);
        Ok(Response::new(Box::pin(frames)))
    }
}
