//! Ids in requests.

use std::str::FromStr;

use crate::Error;

/// The id in a field that must hold one.
pub(crate) fn required<T: FromStr>(field: &'static str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|_| Error::field(field, "must be a UUID"))
}

/// The id in a field that may be empty.
pub(crate) fn optional<T: FromStr>(field: &'static str, text: &str) -> Result<Option<T>, Error> {
    if text.is_empty() {
        Ok(None)
    } else {
        required(field, text).map(Some)
    }
}

/// The ids in a list, in order.
pub(crate) fn list<T: FromStr>(field: &'static str, texts: &[String]) -> Result<Vec<T>, Error> {
    let id = |(index, text): (usize, &String)| {
        text.parse()
            .map_err(|_| Error::field(format!("{field}[{index}]"), "must be a UUID"))
    };
    texts.iter().enumerate().map(id).collect()
}
