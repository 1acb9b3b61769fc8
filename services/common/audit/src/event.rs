//! Events and verifications as messages of the contract.

use vpnpanel_api::audit::v1 as wire;
use vpnpanel_store::{Anchor, AuditEvent, Breach, Broken, Verification};

/// An event as clients are shown it.
pub fn event(event: AuditEvent) -> wire::AuditEvent {
    let outcome = match event.outcome.as_str() {
        "done" => wire::Outcome::Done,
        "refused" => wire::Outcome::Refused,
        _ => wire::Outcome::Unspecified,
    };
    let roles = event.roles.split(',').filter(|role| !role.is_empty());
    let (sequence, previous_hash, hash) = event
        .link
        .map(|link| (link.seq, link.prev_hash, link.hash))
        .unwrap_or_default();
    wire::AuditEvent {
        id: event.id.to_string(),
        tenant_id: event.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        time: Some(timestamp(event.recorded_at_ms)),
        actor: event.actor,
        roles: roles.map(str::to_owned).collect(),
        credential: event.credential,
        address: event.address,
        user_agent: event.user_agent,
        request_id: event.request_id,
        method: event.method,
        resource_type: event.resource_type,
        resource_id: event.resource_id,
        outcome: outcome.into(),
        reason: event.reason,
        times: event.times,
        before: event.before,
        after: event.after,
        sequence,
        previous_hash,
        hash,
    }
}

/// How a chain was found, as clients are shown it.
pub fn verification(found: Verification, now_ms: i64) -> wire::VerifyChainResponse {
    let age_ms = found.tail.oldest_at_ms.map(|at| (now_ms - at).max(0));
    wire::VerifyChainResponse {
        verified_count: found.verified,
        begins_after: found.begins_after.map(link),
        head: found.head.map(link),
        unchained_count: found.tail.count,
        unchained_oldest_age: age_ms.map(|ms| prost_types::Duration {
            seconds: ms / 1_000,
            // The remainder is below 1000, so the product fits.
            nanos: (ms % 1_000) as i32 * 1_000_000,
        }),
        anchor_compared: found.anchored.is_some(),
        broken: found.broken.map(broken),
    }
}

fn link(anchor: Anchor) -> wire::ChainLink {
    wire::ChainLink {
        sequence: anchor.seq,
        hash: anchor.hash,
    }
}

fn broken(broken: Broken) -> wire::BrokenLink {
    let breach = match broken.breach {
        Breach::Tampered => wire::Breach::Tampered,
        Breach::Removed => wire::Breach::Removed,
        Breach::Reordered => wire::Breach::Reordered,
        Breach::Inserted => wire::Breach::Inserted,
        Breach::Rewritten => wire::Breach::Rewritten,
    };
    wire::BrokenLink {
        sequence: broken.seq,
        event_id: broken.event_id.map(|id| id.to_string()).unwrap_or_default(),
        breach: breach.into(),
    }
}

/// Milliseconds of the Unix epoch as the contract writes instants.
fn timestamp(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ms.div_euclid(1_000),
        // The remainder is below 1000, so the product fits.
        nanos: (ms.rem_euclid(1_000) * 1_000_000) as i32,
    }
}
