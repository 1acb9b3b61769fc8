//! Whose connections a listener holds. Each address has its share of them, and so has everybody who
//! is known by a certificate: many nodes may come through one address, and none of them needs many
//! connections.

use std::net::IpAddr;

use crate::identity::PeerIdentity;
use crate::settings::CidrList;
use crate::shares::{Share, Shares};
use crate::subscriber;
use crate::tls::Peer;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Caller {
    Address(IpAddr),
    Known(PeerIdentity),
}

/// The connections of one listener, by whom they belong to.
#[derive(Debug)]
pub(super) struct Places {
    shares: Shares<Caller>,
    proxies: CidrList,
}

/// The place of one connection, until dropped. Those of proxies are not counted: all the world is
/// behind them.
#[derive(Debug)]
pub(super) struct Place {
    _share: Option<Share<Caller>>,
}

impl Places {
    pub(super) fn new(each: usize, proxies: CidrList) -> Self {
        Self {
            shares: Shares::new(each),
            proxies,
        }
    }

    /// A place for a connection from `address`; `None` when it has all of its places taken.
    pub(super) fn of(&self, address: IpAddr) -> Option<Place> {
        if self.proxies.contains(address) {
            return Some(Place { _share: None });
        }
        let share = self.shares.take(Caller::Address(subscriber(address)))?;
        Some(Place {
            _share: Some(share),
        })
    }

    /// The place of a connection whose other end has shown who it is, instead of the one that it
    /// had by its address.
    pub(super) fn known(&self, by_address: Place, peer: Option<&Peer>) -> Option<Place> {
        let Some(peer) = peer else {
            return Some(by_address);
        };
        let share = self.shares.take(Caller::Known(peer.identity().clone()))?;
        Some(Place {
            _share: Some(share),
        })
    }
}
