//! Who calls, as far as it can be told before the service has looked at any credential, and what each
//! may have under way.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vpnpanel_runtime::rpc::{ClientAddress, TrustedProxies, client_address};
use vpnpanel_runtime::serve::ConnectionInfo;
use vpnpanel_runtime::{Share, Shares, subscriber};

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// By what it is counted; callers without an address count as one.
    pub(crate) subscriber: Option<IpAddr>,
    /// The other end of its connection, unless that is a proxy's, which is many callers'.
    pub(crate) connection: Option<SocketAddr>,
}

impl Caller {
    pub(crate) fn of(parts: &Parts, trusted: &TrustedProxies) -> Self {
        let address = client_address(parts, trusted);
        let connection = parts.extensions.get::<ConnectionInfo>();
        Self {
            subscriber: address.map(|ClientAddress(address)| subscriber(address)),
            connection: connection
                .map(|connection| connection.remote)
                .filter(|remote| !trusted.networks.contains(remote.ip())),
        }
    }
}

/// Streams under way: so many, and of each caller few of them.
#[derive(Debug)]
pub(crate) struct Streams {
    all: Arc<Semaphore>,
    of_each: Shares<Option<IpAddr>>,
}

/// The place of one stream, until dropped.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    _of_all: OwnedSemaphorePermit,
    _of_caller: Share<Option<IpAddr>>,
}

impl Streams {
    pub(crate) fn new(all: usize, each: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            of_each: Shares::new(each),
        }
    }

    /// A place, if there is one for this caller.
    pub(crate) fn place(&self, caller: Caller) -> Option<StreamPlace> {
        Some(StreamPlace {
            _of_caller: self.of_each.take(caller.subscriber)?,
            _of_all: Arc::clone(&self.all).try_acquire_owned().ok()?,
        })
    }
}
