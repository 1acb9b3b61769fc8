//! What is hashed (docs/adr/0009): every field of an event, each behind its length, so that no two
//! events have the same bytes; the event's number; and the hash of the event before.

use sha2::{Digest, Sha256};

use super::stored::{AuditEvent, chain_of};

/// A hash of the chain.
pub(super) type Hash = [u8; 32];

/// What stands before the first event of a chain.
pub(super) const GENESIS: Hash = [0; 32];

/// Names the encoding: another one would be another version.
const VERSION: &[u8] = b"vpnpanel audit event v1";

impl AuditEvent {
    /// The hash of the event at a place of its chain.
    pub(super) fn hash_at(&self, seq: u64, prev: &[u8]) -> Hash {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        field(VERSION);
        field(chain_of(self.tenant_id).as_bytes());
        field(&seq.to_be_bytes());
        field(prev);
        field(self.id.as_bytes());
        field(&self.recorded_at_ms.to_be_bytes());
        for text in [
            &self.actor,
            &self.roles,
            &self.credential,
            &self.address,
            &self.user_agent,
            &self.request_id,
            &self.method,
            &self.resource_type,
            &self.resource_id,
            &self.outcome,
            &self.reason,
        ] {
            field(text.as_bytes());
        }
        field(&self.times.to_be_bytes());
        field(self.before.as_bytes());
        field(self.after.as_bytes());
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> AuditEvent {
        AuditEvent {
            tenant_id: None,
            id: uuid::Uuid::from_u128(7),
            recorded_at_ms: 1_795_474_800_123,
            actor: "anonymous".to_owned(),
            roles: String::new(),
            credential: String::new(),
            address: "203.0.113.7".to_owned(),
            user_agent: "curl".to_owned(),
            request_id: "r1".to_owned(),
            method: "/m".to_owned(),
            resource_type: "user".to_owned(),
            resource_id: "u1".to_owned(),
            outcome: "done".to_owned(),
            reason: String::new(),
            times: 1,
            before: String::new(),
            after: "{}".to_owned(),
            link: None,
        }
    }

    /// Published chains must verify for good: when this fails, the encoding has changed.
    #[test]
    fn the_encoding_stays_as_it_was_published() {
        assert_eq!(
            hex::encode(event().hash_at(1, &GENESIS)),
            "841a6dc8fb7187261824647c9290e7bb8e6848c46471a5b363160c1a41fbda49"
        );
    }

    #[test]
    fn every_field_and_the_place_count() {
        let mut seen = std::collections::BTreeSet::new();
        let mut differs = |event: AuditEvent| assert!(seen.insert(event.hash_at(1, &GENESIS)));
        differs(event());
        let changes: [fn(&mut AuditEvent); 17] = [
            |e| e.tenant_id = Some(vpnpanel_domain::TenantId::new(uuid::Uuid::from_u128(1))),
            |e| e.id = uuid::Uuid::from_u128(8),
            |e| e.recorded_at_ms += 1,
            |e| e.actor.push('x'),
            |e| e.roles.push('x'),
            |e| e.credential.push('x'),
            |e| e.address.push('x'),
            |e| e.user_agent.push('x'),
            |e| e.request_id.push('x'),
            |e| e.method.push('x'),
            |e| e.resource_type.push('x'),
            |e| e.resource_id.push('x'),
            |e| e.outcome.push('x'),
            |e| e.reason.push('x'),
            |e| e.times += 1,
            |e| e.before.push('x'),
            |e| e.after.push('x'),
        ];
        for change in changes {
            let mut changed = event();
            change(&mut changed);
            differs(changed);
        }
        assert_ne!(event().hash_at(1, &GENESIS), event().hash_at(2, &GENESIS));
        assert_ne!(event().hash_at(1, &GENESIS), event().hash_at(1, &[1; 32]));
    }
}
