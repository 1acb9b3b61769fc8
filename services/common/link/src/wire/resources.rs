//! A desired state taken apart into its resources, each in the bytes in which it came. So it is
//! kept on disk and so its digest is made: a field that only a newer control plane knows neither
//! gets lost nor makes a difference.

use bytes::{Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use vpnpanel_domain::{Multiplier, UserId};

use super::desired::{inbound_from_wire, user_from_wire};
use super::{decode, pb};
use crate::state_digest::{Kind, StateSum, resource};
use crate::{DesiredInbound, DesiredUser, Digest, Error};

/// Fields of `DesiredState`.
const INBOUNDS: u32 = 1;
const USERS: u32 = 2;

/// A user with the bytes in which it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptUser {
    /// What they say.
    pub user: DesiredUser,
    /// An encoded `DesiredUser`.
    pub bytes: Bytes,
    /// Its part in the state's digest.
    pub(crate) digest: Digest,
}

/// Everything but the users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Billed bytes for each raw byte.
    pub multiplier: Multiplier,
    /// It takes no new sessions.
    pub draining: bool,
    /// Inbounds to open.
    pub inbounds: Vec<DesiredInbound>,
    /// An encoded `DesiredState` without users.
    pub bytes: Bytes,
}

/// A state, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptState {
    /// Everything but the users.
    pub head: Head,
    /// The users.
    pub users: Vec<KeptUser>,
    /// Of all of it.
    pub digest: Digest,
}

impl KeptUser {
    /// Reads an encoded `DesiredUser`.
    ///
    /// # Errors
    /// For anything that no correct control plane writes.
    pub fn read(bytes: Bytes) -> Result<Self, Error> {
        Ok(Self {
            user: user_from_wire(decode("user", &bytes)?)?,
            digest: resource(Kind::User, &bytes),
            bytes,
        })
    }
}

impl Head {
    /// Reads an encoded `DesiredState` without users.
    ///
    /// # Errors
    /// For anything that no correct control plane writes.
    pub fn read(bytes: Bytes) -> Result<Self, Error> {
        let state: pb::DesiredState = decode("desired state", &bytes)?;
        let inbounds = state.inbounds.into_iter().map(inbound_from_wire);
        Ok(Self {
            multiplier: Multiplier::from_ppm(state.multiplier_ppm)?,
            draining: state.draining,
            inbounds: inbounds.collect::<Result<_, _>>()?,
            bytes,
        })
    }
}

impl KeptState {
    /// Reads a state that was kept in parts; the digest is the one that it was kept under.
    ///
    /// # Errors
    /// For anything that no correct control plane writes.
    pub fn recall(
        digest: Digest,
        head: Bytes,
        users: impl IntoIterator<Item = Bytes>,
    ) -> Result<Self, Error> {
        Ok(Self {
            head: Head::read(head)?,
            users: users
                .into_iter()
                .map(KeptUser::read)
                .collect::<Result<_, _>>()?,
            digest,
        })
    }
}

/// Takes an encoded `DesiredState` apart.
///
/// # Errors
/// For anything that no correct control plane writes.
pub fn take_apart(data: &Bytes) -> Result<KeptState, Error> {
    let parts = split(data)?;
    let users = parts.users.into_iter().map(KeptUser::read);
    let users: Vec<KeptUser> = users.collect::<Result<_, _>>()?;
    if !users.is_sorted_by(|one, next| one.user.id < next.user.id) {
        return Err(Error::Invalid {
            what: "desired state",
            reason: "users are out of order or come twice",
        });
    }
    let digest = users
        .iter()
        .fold(parts.sum, |sum, user| sum.with(user.digest));
    Ok(KeptState {
        head: Head::read(parts.head)?,
        users,
        digest: digest.digest(),
    })
}

/// The digest of an encoded `DesiredState`.
///
/// # Errors
/// When it is no message.
pub fn state_digest(data: &Bytes) -> Result<Digest, Error> {
    let parts = split(data)?;
    let users = parts.users.iter();
    let sum = users.fold(parts.sum, |sum, user| sum.with(resource(Kind::User, user)));
    Ok(sum.digest())
}

/// Takes an encoded `DesiredDelta` apart: users to set, and ids of those to remove.
///
/// # Errors
/// For anything that no correct control plane writes.
pub fn take_delta_apart(data: &Bytes) -> Result<(Vec<KeptUser>, Vec<UserId>), Error> {
    let mut users = Vec::new();
    let mut removed = Vec::new();
    for field in Fields::of("desired delta", data) {
        match field? {
            (1, Some(bytes), _) => users.push(KeptUser::read(bytes)?),
            (2, Some(bytes), _) => removed.push(UserId::try_from(&*bytes)?),
            _ => {}
        }
    }
    Ok((users, removed))
}

struct Parts {
    head: Bytes,
    users: Vec<Bytes>,
    /// Of everything but the users.
    sum: StateSum,
}

fn split(data: &Bytes) -> Result<Parts, Error> {
    let mut head = BytesMut::new();
    let mut rest = BytesMut::new();
    let mut users = Vec::new();
    let mut sum = StateSum::default();
    for field in Fields::of("desired state", data) {
        match field? {
            (USERS, Some(bytes), _) => users.push(bytes),
            (INBOUNDS, Some(bytes), whole) => {
                sum = sum.with(resource(Kind::Inbound, &bytes));
                head.extend_from_slice(&whole);
            }
            (_, _, whole) => {
                rest.extend_from_slice(&whole);
                head.extend_from_slice(&whole);
            }
        }
    }
    Ok(Parts {
        head: head.freeze(),
        users,
        sum: sum.with(resource(Kind::Rest, &rest)),
    })
}

/// The fields of an encoded message, one after the other: number, content where it has a length,
/// and the whole of it.
struct Fields<'a> {
    what: &'static str,
    data: &'a Bytes,
    at: usize,
}

impl<'a> Fields<'a> {
    fn of(what: &'static str, data: &'a Bytes) -> Self {
        Self { what, data, at: 0 }
    }

    fn read(&mut self) -> Result<(u32, Option<Bytes>, Bytes), prost::DecodeError> {
        let mut rest = &self.data[self.at..];
        let (number, wire_type) = decode_key(&mut rest)?;
        let mut content = None;
        if wire_type == WireType::LengthDelimited {
            let mut after = rest;
            let length = usize::try_from(decode_varint(&mut after)?).unwrap_or(usize::MAX);
            if let Some(bytes) = after.get(..length) {
                content = Some(self.data.slice_ref(bytes));
            }
        }
        // Refuses a length beyond the end.
        skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
        let end = self.data.len() - rest.len();
        let whole = self.data.slice(self.at..end);
        self.at = end;
        Ok((number, content, whole))
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u32, Option<Bytes>, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.data.len() {
            return None;
        }
        let read = self.read().map_err(|error| {
            self.at = self.data.len();
            Error::Undecodable {
                what: self.what,
                reason: error.to_string(),
            }
        });
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::desired::{encode_delta, encode_state};
    use super::*;
    use crate::{DesiredDelta, DesiredPeriod, DesiredState};
    use vpnpanel_domain::{PeriodId, Speed, SpeedLimit};

    fn user(n: u8, blocked: bool) -> DesiredUser {
        DesiredUser {
            id: UserId::from_bytes([n; 16]),
            period: DesiredPeriod {
                id: PeriodId::from_bytes([9; 16]),
                ends_ms: None,
                spent: false,
            },
            next_period: None,
            blocked,
            limited: true,
            not_after_ms: None,
            speed: SpeedLimit::NONE,
            devices: 0,
            peers: Vec::new(),
        }
    }

    fn state(users: impl IntoIterator<Item = DesiredUser>) -> Bytes {
        encode_state(&DesiredState {
            users: users.into_iter().collect(),
            ..DesiredState::default()
        })
    }

    #[test]
    fn a_change_leads_to_the_digest_of_the_whole() {
        let before = take_apart(&state([user(1, false), user(2, false)])).unwrap();
        let delta = encode_delta(&DesiredDelta {
            users: vec![user(2, true), user(3, false)],
            removed: vec![user(1, false).id],
        });
        let (set, removed) = take_delta_apart(&delta).unwrap();
        let mut sum = StateSum::of(before.digest);
        for gone in &before.users {
            sum = sum.without(gone.digest);
        }
        for new in &set {
            sum = sum.with(new.digest);
        }
        assert_eq!(removed, [user(1, false).id]);
        let after = state([user(2, true), user(3, false)]);
        assert_eq!(sum.digest(), state_digest(&after).unwrap());
    }

    #[test]
    fn a_speed_and_a_limit_of_devices_come_through_and_count() {
        let limited = DesiredUser {
            speed: SpeedLimit {
                up: Speed::nearest(64_000),
                down: Speed::nearest(10_000_000_000),
            },
            ..user(1, false)
        };
        let few = DesiredUser {
            devices: 2,
            ..user(1, false)
        };
        let kept = take_apart(&state([few.clone()])).unwrap();
        assert_eq!(kept.users[0].user, few);
        let devices = kept.digest;
        let kept = take_apart(&state([limited.clone()])).unwrap();
        assert_ne!(kept.digest, devices);
        assert_eq!(kept.users[0].user, limited);
        let without = take_apart(&state([user(1, false)])).unwrap();
        assert_eq!(without.users[0].user.speed, SpeedLimit::NONE);
        assert_ne!(kept.digest, without.digest);
        assert_ne!(devices, without.digest);
    }

    #[test]
    fn fields_of_a_newer_control_plane_are_kept_and_count() {
        let known = state([user(1, false)]);
        let mut newer = known.to_vec();
        // Field 100, a varint.
        newer.extend_from_slice(&[0xa0, 0x06, 0x01]);
        let newer = Bytes::from(newer);
        let kept = take_apart(&newer).unwrap();
        assert_ne!(kept.digest, state_digest(&known).unwrap());
        let mut again = kept.head.bytes.to_vec();
        pb::DesiredState {
            users: vec![pb::DesiredUser::decode(&*kept.users[0].bytes).unwrap()],
            ..pb::DesiredState::default()
        }
        .encode(&mut again)
        .unwrap();
        assert_eq!(state_digest(&again.into()).unwrap(), kept.digest);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&b"\x12\xff\xff\xff\xff\x0f"[..], b"\x12\x05a", b"\xff"] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert!(take_apart(&bytes).is_err() && take_delta_apart(&bytes).is_err());
        }
    }
}
