//! From the wire to the domain and back. Prost types stop here: handlers take what these modules
//! return, and a value that is not right is told with the path of its field.

pub(crate) mod etag;
pub(crate) mod ids;
pub(crate) mod mask;
pub(crate) mod page;
pub(crate) mod range;
pub(crate) mod request;
pub(crate) mod terms;
pub(crate) mod text;
pub(crate) mod time;

/// From the domain to the wire.
pub(crate) trait IntoWire {
    /// The message.
    type Wire;

    /// What a client is shown.
    fn into_wire(self) -> Self::Wire;
}
