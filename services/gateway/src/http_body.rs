//! `google.api.HttpBody`: an answer that is not JSON, but bytes under a media type of their own.

use bytes::Bytes;
use http::HeaderValue;

use crate::json::wire::{Fields, Raw, WireError};

/// Full name of the message.
pub(crate) const NAME: &str = "google.api.HttpBody";

/// The parts of the message that reach the client.
#[derive(Debug)]
pub(crate) struct HttpBody {
    pub(crate) content_type: HeaderValue,
    pub(crate) data: Bytes,
}

/// Reads an encoded message without copying its data.
pub(crate) fn parse(message: &Bytes) -> Result<HttpBody, WireError> {
    let mut content_type = HeaderValue::from_static("application/octet-stream");
    let mut data = Bytes::new();
    let mut fields = Fields::new(message);
    while let Some((number, raw)) = fields.next()? {
        match (number, raw) {
            (1, Raw::Bytes(text)) if !text.is_empty() => {
                content_type = HeaderValue::from_bytes(text).map_err(|_| WireError::OutOfRange)?;
            }
            (2, Raw::Bytes(bytes)) => data = message.slice_ref(bytes),
            _ => {}
        }
    }
    Ok(HttpBody { content_type, data })
}
