//! Names of interfaces and of the table: unique for the agent on its host, and the same after
//! a restart. (The control sockets of wireguard-go are shared by all network namespaces.)

use sha2::{Digest, Sha256};
use vpnpanel_domain::InboundId;

/// Names derived from what identifies the agent on its host.
#[derive(Debug, Clone)]
pub(super) struct Names {
    tag: String,
}

impl Names {
    /// The identity is the agent's data folder or node id: whatever stays the same.
    pub(super) fn new(identity: &[u8]) -> Self {
        Self {
            tag: short(&[b"vpnpanel agent", identity]),
        }
    }

    /// The nf_tables table.
    pub(super) fn table(&self) -> String {
        format!("vpnpanel_{}", self.tag)
    }

    /// The nf_tables table of the gate before new sessions.
    pub(super) fn gate(&self) -> String {
        format!("vpnpanel_{}_gate", self.tag)
    }

    /// The interface of an inbound: 14 characters of the 15 that Linux allows.
    pub(super) fn interface(&self, inbound: InboundId) -> String {
        let inbound = short(&[inbound.as_bytes()]);
        format!("vp{}{inbound}", self.tag)
    }

    /// An interface that is made only to see whether it can be.
    pub(super) fn probe(&self) -> String {
        format!("vp{}p", self.tag)
    }

    /// The device that packets of held-back users are sent through.
    pub(super) fn through(&self) -> String {
        format!("vp{}u", self.tag)
    }

    /// Major number of our qdiscs: below those that the kernel gives by itself (0x8000), above the
    /// numbers of classes, which are their queues'.
    pub(super) fn major(&self) -> u16 {
        let tag = u32::from_str_radix(&self.tag, 16).unwrap_or_default();
        0x7000 | u16::try_from(tag & 0xfff).unwrap_or_default()
    }

    /// Whether an interface is one of this agent's.
    pub(super) fn is_ours(&self, interface: &str) -> bool {
        interface.len() == 14 && interface.starts_with(&format!("vp{}", self.tag))
    }
}

fn short(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hex::encode(hash.finalize().get(..3).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_fit() {
        let names = Names::new(b"/var/lib/vpnpanel-agent");
        let inbound = InboundId::from_bytes([7; 16]);
        assert_eq!(
            names.interface(inbound),
            Names::new(b"/var/lib/vpnpanel-agent").interface(inbound)
        );
        assert!(names.interface(inbound).len() <= 15);
        assert!(names.is_ours(&names.interface(inbound)));
        assert!(!names.is_ours(&names.probe()));
        assert!(!names.is_ours(&names.through()));
        assert!((0x7000..0x8000).contains(&names.major()));
        assert!(!names.is_ours(&Names::new(b"elsewhere").interface(inbound)));
    }
}
