//! Messages of the node link. Whatever either end accepts, it writes and reads again to the same:
//! nothing is lost or changed on the way.

use bytes::Bytes;
use prost::Message;
use vpnpanel_api::agent::v1::{ConnectRequest, ConnectResponse};
use vpnpanel_link::Down;
use vpnpanel_link::wire::{
    Assembly, decode_payload, decode_state, down_from_wire, down_to_wire, encode_payload,
    encode_state, state_digest, take_apart, take_delta_apart, up_from_wire, up_to_wire,
};

fn up(bytes: &[u8]) -> Option<vpnpanel_link::Up> {
    up_from_wire(ConnectRequest::decode(bytes).ok()?).ok()?
}

fn down(bytes: &[u8]) -> Option<Down> {
    down_from_wire(ConnectResponse::decode(bytes).ok()?).ok()?
}

/// A frame from an agent.
pub(crate) fn frames_up(data: &[u8]) -> bool {
    let Some(message) = up(data) else {
        return false;
    };
    let bytes = up_to_wire(message.clone()).encode_to_vec();
    assert_eq!(up(&bytes).as_ref(), Some(&message));
    true
}

/// A frame from the control plane.
pub(crate) fn frames_down(data: &[u8]) -> bool {
    let Some(message) = down(data) else {
        return false;
    };
    let bytes = down_to_wire(message.clone()).encode_to_vec();
    assert_eq!(down(&bytes).as_ref(), Some(&message));
    if let Down::ConfigUpdate(piece) = message {
        let mut assembly = Assembly::default();
        let whole = assembly.push(piece.clone());
        if let Ok(Some(update)) = whole {
            assert_eq!((update.kind, &update.data), (piece.kind, &piece.data));
        }
        // The same once more: a start over, or out of order.
        let _ = assembly.push(piece);
    }
    true
}

/// What a usage batch says.
pub(crate) fn usage(data: &[u8]) -> bool {
    let Ok(payload) = decode_payload(data) else {
        return false;
    };
    for row in &payload.rows {
        assert!(row.up.from <= row.up.to && row.down.from <= row.down.to);
    }
    let again = decode_payload(&encode_payload(&payload)).expect("what was written");
    assert_eq!(again, payload);
    true
}

/// Desired state, whole; and the same bytes as a change of one.
pub(crate) fn desired_states(data: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(data);
    let _ = take_delta_apart(&bytes);
    if let Ok(kept) = take_apart(&bytes) {
        assert_eq!(state_digest(&bytes), Ok(kept.digest));
    }
    let Ok(state) = decode_state(data) else {
        return false;
    };
    let again = decode_state(&encode_state(&state)).expect("what was written");
    assert_eq!(again, state);
    true
}
