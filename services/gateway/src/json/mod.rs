//! protojson, both ways: JSON text into dynamic messages (with errors that name the field), and
//! encoded messages straight into JSON text, without building a message in between.

pub(crate) mod layout;
pub(crate) mod numbers;
pub(crate) mod read;
pub(crate) mod strict;
pub(crate) mod wire;
pub(crate) mod write;

#[cfg(test)]
mod tests;
