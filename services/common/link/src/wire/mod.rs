//! Between the typed vocabulary and the messages of `vpnpanel.agent.v1`. Receivers expect all
//! sorts of junk: every conversion from the wire can fail, and says which field was wrong.

mod command;
mod desired;
mod pieces;
mod resources;
mod stream;
mod usage;
mod xray;

pub use command::{command_from_wire, command_to_wire, result_from_wire, result_to_wire};
pub use desired::{decode_state, encode_delta, encode_state};
pub use pieces::{Assembly, Update, pieces};
pub use resources::{Head, KeptState, KeptUser, state_digest, take_apart, take_delta_apart};
pub use stream::{down_from_wire, down_to_wire, up_from_wire, up_to_wire};
pub use usage::{decode_payload, encode_payload, seal};

use prost::Message;
use vpnpanel_api::agent::v1 as pb;

use crate::Error;

/// Decodes a protobuf message, naming it where that fails.
fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(|error| Error::Undecodable {
        what,
        reason: error.to_string(),
    })
}

/// Checks a bound.
fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), Error> {
    if found > most {
        Err(Error::TooMany { what, found, most })
    } else {
        Ok(())
    }
}
