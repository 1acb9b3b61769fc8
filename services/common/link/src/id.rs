//! The link's own names: opaque random ones (incarnations, epochs), counted ones (sequence
//! numbers, generations, revisions) and digests. One type each, so that none passes for another.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::{Entropy, Error};

macro_rules! byte_names {
    ($($(#[$doc:meta])* $name:ident[$size:literal],)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }

            /// The bytes.
            pub const fn into_bytes(self) -> [u8; $size] {
                self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = Error;

            fn try_from(bytes: &[u8]) -> Result<Self, Error> {
                bytes.try_into().map(Self).map_err(|_| Error::WrongLength {
                    what: stringify!($name),
                    expected: $size,
                    found: bytes.len(),
                })
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let mut bytes = [0; $size];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| Error::NotHex { what: stringify!($name) })?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}

macro_rules! counted_names {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

byte_names! {
    /// A nonce that changes whenever an engine's counters restart.
    Incarnation[16],
    /// A run of batches written by one start of the agent; random.
    Epoch[16],
    /// One start of the agent's process; random.
    BootId[16],
    /// One life of the agent's disk; random, drawn when the disk was found empty.
    SpoolId[16],
    /// SHA-256 over exactly the bytes that are stored and sent.
    Digest[32],
}

counted_names! {
    /// Number of a batch in its epoch, from 1, without gaps.
    Seq,
    /// Number of a node's stream; every write of a stream is fenced by it.
    Generation,
    /// Changes when the control plane's database was restored from a backup.
    StateEpoch,
    /// A position of the change log: what a desired state was read at.
    Revision,
}

/// How many numbers of one thing a state epoch leaves for the next to lie above.
const EPOCH_BITS: u32 = 20;

impl StateEpoch {
    /// Of a database that was never restored.
    pub const FIRST: Self = Self(1);

    /// Numbers beyond this are not drawn, and nobody who names one is believed: it leaves room for
    /// [`Self::floor`] in 63 bits, and is past the year 2100 in milliseconds.
    pub const LAST: Self = Self(1 << 42);

    /// Below everything that is drawn under it, and above what is drawn under any before it:
    /// generations and versions of an earlier life of the database never come again.
    pub const fn floor(self) -> u64 {
        self.0.saturating_sub(Self::FIRST.0) << EPOCH_BITS
    }

    /// Half-way to the floor of the next: no number drawn under this epoch comes near it.
    pub(crate) const fn middle(self) -> u64 {
        self.floor() + (1 << (EPOCH_BITS - 1))
    }

    /// The number after `last`, under this epoch.
    pub const fn after(self, last: u64) -> u64 {
        let next = last.saturating_add(1);
        if next > self.floor() {
            next
        } else {
            self.floor()
        }
    }

    /// What follows this one when the database turns out to be an older one. `seen` is the newest
    /// that an agent was welcomed under: two restores of one backup never share an epoch.
    pub fn restored(self, seen: Self, now_ms: i64) -> Self {
        let now = Self(now_ms.max(0).unsigned_abs());
        let seen = if seen < Self::LAST { seen } else { self };
        now.max(self.next()).max(seen.next())
    }
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl Epoch {
    /// A fresh one.
    pub fn draw(entropy: &mut dyn Entropy) -> Self {
        Self(crate::entropy::draw(entropy))
    }
}

impl BootId {
    /// A fresh one.
    pub fn draw(entropy: &mut dyn Entropy) -> Self {
        Self(crate::entropy::draw(entropy))
    }
}

impl SpoolId {
    /// A fresh one.
    pub fn draw(entropy: &mut dyn Entropy) -> Self {
        Self(crate::entropy::draw(entropy))
    }
}
