//! Usage as it travels: absolute ranges of counters, in batches that are stored, hashed and sent
//! as the same bytes. A row says where a counter stood before and after, never a difference that
//! could be applied twice.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use vpnpanel_domain::{MicroBytes, Multiplier, PeerId, PeriodId, UserId};

use crate::{Digest, Epoch, Incarnation, Seq};

/// Seconds of a [`Bucket`].
pub const BUCKET_SECONDS: i64 = 900;

/// Most rows in a batch.
pub const MAX_BATCH_ROWS: usize = 8_192;

/// Most bytes of a batch's payload.
pub const MAX_PAYLOAD_BYTES: usize = 2 * 1024 * 1024;

/// A counter pair of an engine. Its values only grow while the incarnation lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CounterKey {
    /// The life of the engine's counters.
    pub incarnation: Incarnation,
    /// Whose traffic is counted.
    pub peer: PeerId,
}

/// Absolute values of a counter pair, bytes. Also a mark: up to where it has been billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Totals {
    /// From the subscriber.
    pub up: u64,
    /// To the subscriber.
    pub down: u64,
}

/// A half-open range `[from, to)` of one counter, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Range {
    /// The counter before.
    pub from: u64,
    /// The counter after; never below `from`.
    pub to: u64,
}

/// Whom a range is billed to, fixed when its baseline was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attribution {
    /// The user.
    pub user: UserId,
    /// The user's period.
    pub period: PeriodId,
    /// The node's multiplier.
    pub multiplier: Multiplier,
    /// The agent charges what follows to its lease of the period. Without a lease yet, usage is
    /// billed but takes nothing from the allowance: both ends have to count it alike.
    pub leased: bool,
}

/// Fifteen minutes of the server's time: Unix seconds divided by 900.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bucket(pub u32);

/// What one counter pair counted for one attribution in one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// The counter.
    pub counter: CounterKey,
    /// Whom it is billed to.
    pub attribution: Attribution,
    /// When it was counted.
    pub bucket: Bucket,
    /// From the subscriber.
    pub up: Range,
    /// To the subscriber.
    pub down: Range,
}

/// Names a batch and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BatchRef {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub seq: Seq,
    /// Of its payload.
    pub digest: Digest,
}

/// What a batch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// In the first batch of an epoch: the last batch of the epoch before on the same disk.
    pub predecessor: Option<BatchRef>,
    /// When it was written, by the agent's notion of the server's time.
    pub written_at_ms: i64,
    /// At most [`MAX_BATCH_ROWS`].
    pub rows: Vec<Row>,
}

/// A batch as it is stored and sent: opaque bytes with their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub seq: Seq,
    /// Of `payload`.
    pub digest: Digest,
    /// An encoded [`Payload`], never encoded again.
    pub payload: Bytes,
}

/// A stretch of a counter pair with one attribution, as the agent remembers it after the batches
/// are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Whom it is billed to.
    pub attribution: Attribution,
    /// The counters before.
    pub from: Totals,
    /// The counters after.
    pub to: Totals,
    /// When it last grew, server time.
    pub grown_at_ms: i64,
}

impl Totals {
    /// Both directions together.
    pub const fn sum(self) -> u64 {
        self.up.saturating_add(self.down)
    }

    /// Whether both directions are at or beyond `other`.
    pub const fn covers(self, other: Self) -> bool {
        self.up >= other.up && self.down >= other.down
    }

    /// The larger of each direction.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            up: self.up.max(other.up),
            down: self.down.max(other.down),
        }
    }
}

impl Range {
    /// A range, unless it would run backwards.
    pub const fn new(from: u64, to: u64) -> Option<Self> {
        if from <= to {
            Some(Self { from, to })
        } else {
            None
        }
    }

    /// Bytes in the range.
    pub const fn len(self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    /// Whether nothing was counted.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// What of the range lies beyond a mark: `max(0, to − max(from, mark))`.
    pub fn beyond(self, mark: u64) -> u64 {
        self.to.saturating_sub(self.from.max(mark))
    }
}

impl Row {
    /// The counters before.
    pub const fn from(&self) -> Totals {
        Totals {
            up: self.up.from,
            down: self.down.from,
        }
    }

    /// The counters after.
    pub const fn to(&self) -> Totals {
        Totals {
            up: self.up.to,
            down: self.down.to,
        }
    }

    /// Raw bytes of both directions.
    pub const fn raw(&self) -> u64 {
        self.up.len().saturating_add(self.down.len())
    }

    /// What the whole row costs.
    pub const fn billable(&self) -> MicroBytes {
        self.attribution.multiplier.bill(self.raw())
    }
}

impl Segment {
    /// The segment as a row that can be sent and credited; its bucket is that of its end.
    pub fn row(&self, counter: CounterKey) -> Row {
        Row {
            counter,
            attribution: self.attribution,
            bucket: Bucket::at(self.grown_at_ms),
            up: Range {
                from: self.from.up,
                to: self.to.up,
            },
            down: Range {
                from: self.from.down,
                to: self.to.down,
            },
        }
    }

    /// Whether nothing was counted in it yet.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }
}

impl Bucket {
    /// The bucket of an instant; instants before 1970 fall into the first.
    pub fn at(unix_ms: i64) -> Self {
        let number = unix_ms.div_euclid(BUCKET_SECONDS * 1_000);
        Self(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
    }

    /// When it begins, milliseconds of the Unix epoch.
    pub const fn starts_ms(self) -> i64 {
        self.0 as i64 * BUCKET_SECONDS * 1_000
    }

    /// When the next one begins, milliseconds of the Unix epoch.
    pub const fn ends_ms(self) -> i64 {
        self.starts_ms() + BUCKET_SECONDS * 1_000
    }
}

impl Batch {
    /// Its name.
    pub const fn name(&self) -> BatchRef {
        BatchRef {
            epoch: self.epoch,
            seq: self.seq,
            digest: self.digest,
        }
    }
}
