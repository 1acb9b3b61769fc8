//! Updates of desired state, cut into pieces that fit a frame. The receiver puts them together again
//! within a bound, and believes only the digest.

use bytes::{Bytes, BytesMut};

use crate::{
    CHUNK_BYTES, ConfigChunk, Digest, Error, MAX_STATE_BYTES, RemovalBound, Revision, UpdateKind,
};

/// An update that came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What it leads to.
    pub revision: Revision,
    /// A whole state, or a change of one.
    pub kind: UpdateKind,
    /// How many users it may take away; `None` is any number.
    pub removals: Option<RemovalBound>,
    /// Encoded.
    pub data: Bytes,
}

/// Cuts an update into pieces, at least one.
pub fn pieces(update: &Update) -> impl Iterator<Item = ConfigChunk> + use<> {
    let Update {
        revision,
        kind,
        removals,
        data,
    } = update.clone();
    let digest = Digest::of(&data);
    // Bounded by `MAX_STATE_BYTES` / `CHUNK_BYTES`.
    let count = data.len().div_ceil(CHUNK_BYTES).max(1) as u32;
    (0..count).map(move |chunk| {
        let start = chunk as usize * CHUNK_BYTES;
        let end = (start + CHUNK_BYTES).min(data.len());
        ConfigChunk {
            revision,
            kind,
            removals,
            chunk,
            chunks: count,
            digest,
            data: data.slice(start..end),
        }
    })
}

/// Puts pieces together.
#[derive(Debug, Clone, Default)]
pub struct Assembly {
    of: Option<(Revision, UpdateKind, Digest)>,
    next: u32,
    data: BytesMut,
}

impl Assembly {
    /// Takes a piece; gives the update with the last one. Pieces of another update start over.
    ///
    /// # Errors
    /// When a piece is missing, the whole is too large, or the digest does not match; what was
    /// collected is thrown away.
    pub fn push(&mut self, piece: ConfigChunk) -> Result<Option<Update>, Error> {
        let of = (piece.revision, piece.kind, piece.digest);
        if piece.chunk == 0 {
            *self = Self {
                of: Some(of),
                ..Self::default()
            };
        }
        if self.of != Some(of) || self.next != piece.chunk || piece.chunk >= piece.chunks {
            *self = Self::default();
            return Err(Error::Invalid {
                what: "config update",
                reason: "piece out of order",
            });
        }
        let size = self.data.len().saturating_add(piece.data.len());
        if size > MAX_STATE_BYTES {
            *self = Self::default();
            return Err(Error::TooMany {
                what: "desired state",
                found: size,
                most: MAX_STATE_BYTES,
            });
        }
        self.data.extend_from_slice(&piece.data);
        self.next += 1;
        if self.next < piece.chunks {
            return Ok(None);
        }
        let data = std::mem::take(self).data.freeze();
        if Digest::of(&data) != piece.digest {
            return Err(Error::DigestMismatch("desired state"));
        }
        Ok(Some(Update {
            revision: piece.revision,
            kind: piece.kind,
            removals: piece.removals,
            data,
        }))
    }
}
