//! Keyset paging: a page begins after a key, so that the last page costs what the first does.

/// Which page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<K> {
    /// Most items to return.
    pub size: u32,
    /// The key of the last item of the page before; `None` is the first page.
    pub after: Option<K>,
}

impl<K> Page<K> {
    /// The first page.
    pub const fn first(size: u32) -> Self {
        Self { size, after: None }
    }

    /// The page after a key.
    pub const fn after(size: u32, key: K) -> Self {
        Self {
            size,
            after: Some(key),
        }
    }
}
