//! The digest of a desired state, which can be carried on from change to change: a sum of digests
//! of its resources, so that whoever knows the sum and what one resource was knows the next sum.
//! It finds differences that came about by mistake; nobody who could forge one may write states.

use sha2::{Digest as _, Sha256};

use crate::Digest;

/// What a resource is, as its digest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Inbound = 1,
    User = 2,
    /// The state without inbounds and users.
    Rest = 3,
}

/// A sum modulo 2^256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StateSum {
    high: u128,
    low: u128,
}

/// Of one resource, in the bytes in which it came.
pub(crate) fn resource(kind: Kind, bytes: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update([kind as u8]);
    hash.update(bytes);
    Digest(hash.finalize().into())
}

impl StateSum {
    pub(crate) fn of(digest: Digest) -> Self {
        let (mut high, mut low) = ([0; 16], [0; 16]);
        high.copy_from_slice(&digest.as_bytes()[..16]);
        low.copy_from_slice(&digest.as_bytes()[16..]);
        Self {
            high: u128::from_be_bytes(high),
            low: u128::from_be_bytes(low),
        }
    }

    pub(crate) fn with(self, resource: Digest) -> Self {
        let more = Self::of(resource);
        let (low, carry) = self.low.overflowing_add(more.low);
        let high = self.high.wrapping_add(more.high);
        Self {
            high: high.wrapping_add(u128::from(carry)),
            low,
        }
    }

    pub(crate) fn without(self, resource: Digest) -> Self {
        let less = Self::of(resource);
        let (low, borrow) = self.low.overflowing_sub(less.low);
        let high = self.high.wrapping_sub(less.high);
        Self {
            high: high.wrapping_sub(u128::from(borrow)),
            low,
        }
    }

    pub(crate) fn digest(self) -> Digest {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.high.to_be_bytes());
        bytes[16..].copy_from_slice(&self.low.to_be_bytes());
        Digest(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_does_not_tell_in_which_order_or_by_which_way_it_came_about() {
        let of = |text: &str| resource(Kind::User, text.as_bytes());
        let names = ["a", "b", "c", "d", "e", "f"];
        let forth = names.iter().fold(StateSum::default(), |s, n| s.with(of(n)));
        let back = names.iter().rev();
        let back = back.fold(StateSum::default(), |s, n| s.with(of(n)));
        assert_eq!(forth, back);
        let changed = forth.without(of("c")).with(of("g")).without(of("g"));
        assert_eq!(changed.with(of("c")).digest(), forth.digest());
        assert_ne!(changed.digest(), forth.digest());
        assert_eq!(StateSum::of(forth.digest()), forth);
        let kinds = [Kind::Inbound, Kind::User, Kind::Rest].map(|kind| resource(kind, b"a"));
        assert!(kinds[0] != kinds[1] && kinds[1] != kinds[2] && kinds[0] != kinds[2]);
    }
}
