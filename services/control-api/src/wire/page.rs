//! Page tokens (AIP-158). Lists go by keyset: a token holds the last id of its page, so that
//! rows made or deleted meanwhile move nothing, and a digest over list, filter and id, so that a
//! token of another list or filter is told apart from a right one instead of skipping rows.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::Error;

const DEFAULT_SIZE: u32 = 50;
const MAX_SIZE: u32 = 1000;
const DIGEST_BYTES: usize = 12;

/// Which list a token belongs to: its name and everything that selects its rows.
#[derive(Debug)]
pub(crate) struct List(Sha256);

impl List {
    /// A list without a filter yet.
    pub(crate) fn new(name: &str) -> Self {
        Self(Sha256::new()).of(name)
    }

    /// Adds one part of the filter. Parts are told apart by their lengths.
    #[must_use]
    pub(crate) fn of(mut self, part: impl std::fmt::Display) -> Self {
        let part = part.to_string();
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    /// The page that a request asks for.
    ///
    /// # Errors
    /// A token that is not of this list and filter.
    pub(crate) fn page(&self, size: i32, token: &str) -> Result<Page, Error> {
        let size = match u32::try_from(size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => return Err(Error::field("page_size", "must not be negative")),
        };
        let after = if token.is_empty() {
            None
        } else {
            Some(self.read(token).ok_or(Error::PageToken)?)
        };
        Ok(Page { size, after })
    }

    /// Cuts the one row off that was read beyond the page, and gives the token of the next page.
    pub(crate) fn cut<T>(&self, page: &Page, rows: &mut Vec<T>, id: impl Fn(&T) -> Uuid) -> String {
        if rows.len() <= page.size as usize {
            return String::new();
        }
        rows.truncate(page.size as usize);
        rows.last()
            .map(|last| self.token(id(last)))
            .unwrap_or_default()
    }

    fn token(&self, last: Uuid) -> String {
        let mut bytes = last.as_bytes().to_vec();
        bytes.extend_from_slice(&self.digest(last));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read(&self, token: &str) -> Option<Uuid> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, digest) = bytes.split_at_checked(16)?;
        let id = Uuid::from_slice(id).ok()?;
        (digest == self.digest(id)).then_some(id)
    }

    fn digest(&self, last: Uuid) -> [u8; DIGEST_BYTES] {
        let digest = self.0.clone().chain_update(last.as_bytes()).finalize();
        let mut cut = [0; DIGEST_BYTES];
        cut.copy_from_slice(&digest[..DIGEST_BYTES]);
        cut
    }
}

/// A page of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// Rows on it.
    pub(crate) size: u32,
    /// It begins after this id.
    pub(crate) after: Option<Uuid>,
}

impl Page {
    /// What to ask the store for: one row more than the page has, to know whether there is
    /// another page.
    pub(crate) fn keyset<K: From<Uuid>>(&self) -> vpnpanel_store::Page<K> {
        vpnpanel_store::Page {
            size: self.size + 1,
            after: self.after.map(K::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u8) -> Vec<Uuid> {
        (0..n).map(|i| Uuid::from_bytes([i; 16])).collect()
    }

    #[test]
    fn a_token_continues_after_the_last_row_of_its_page() {
        let list = List::new("users").of("tenant");
        let page = list.page(3, "").unwrap();
        assert_eq!(page.keyset::<Uuid>().size, 4);
        let mut rows = ids(4);
        let token = list.cut(&page, &mut rows, |id| *id);
        assert_eq!(rows.len(), 3);
        let next = list.page(3, &token).unwrap();
        assert_eq!(next.after, Some(rows[2]));
        assert_eq!(list.cut(&next, &mut ids(3), |id| *id), "");
    }

    #[test]
    fn a_token_of_another_filter_is_refused() {
        let list = List::new("users").of("ab").of("c");
        let page = list.page(1, "").unwrap();
        let token = list.cut(&page, &mut ids(2), |id| *id);
        for other in [
            List::new("users").of("a").of("bc"),
            List::new("users").of("ab"),
            List::new("groups").of("ab").of("c"),
        ] {
            assert!(matches!(other.page(1, &token), Err(Error::PageToken)));
        }
        for junk in ["x", "AAAA", &token[1..], "!"] {
            assert!(matches!(list.page(1, junk), Err(Error::PageToken)));
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let list = List::new("users");
        assert_eq!(list.page(0, "").unwrap().size, 50);
        assert_eq!(list.page(5000, "").unwrap().size, 1000);
        assert!(list.page(-1, "").is_err());
    }
}
