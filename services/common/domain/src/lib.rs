//! Pure rules of the product: typed ids, the status of a user, quota periods, billable bytes.
//!
//! Nothing here reads a clock, a file or a socket. Instants are milliseconds of the Unix epoch
//! (UTC) in `i64`, and come in as arguments; random bytes come in as arguments too, so that
//! every rule can be tried in a simulation.

pub mod bytes;
pub mod calendar;
pub mod endpoint;
pub mod id;
pub mod period;
pub mod plan;
pub mod speed;
pub mod status;
pub mod xray;
pub mod zone;

pub use bytes::{Limit, MicroBytes, Multiplier};
pub use calendar::{Calendar, Planned, day_of, month_of};
pub use endpoint::{Alpn, Fingerprint, NamePattern, NamePatternError, NameVariable, country_flag};
pub use id::{
    AccountId, ApiTokenId, AuditEventId, CommandId, DeviceId, EndpointTemplateId, GroupId,
    InboundId, JobId, JoinTokenId, LeaseId, MembershipId, NodeId, OperationId, PeerId, PeriodId,
    PlanId, SessionId, TenantId, UserId, WebhookId,
};
pub use period::{ResetStrategy, Schedule, Window};
pub use plan::{NextPlanStart, PlanFacts};
pub use speed::{Speed, SpeedLimit};
pub use status::{UserFacts, UserStatus};
pub use xray::{
    SecurityKind, ShadowsocksCipher, ShortId, TransportKind, XrayMisfit, XrayProtocol,
    XrayTransport, check_xray,
};
pub use zone::Zone;

/// What can be wrong with a value of the domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no id in the form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    #[error("{kind} is not a hyphenated uuid")]
    MalformedId {
        /// The type of id that was expected, for example `UserId`.
        kind: &'static str,
    },
    /// The name is not in the IANA time zone database.
    #[error("unknown time zone {0:?}: give an IANA name such as \"Europe/Berlin\"")]
    UnknownZone(String),
    /// The text names no reset strategy.
    #[error("unknown reset strategy {0:?}")]
    UnknownResetStrategy(String),
    /// The text names no user status.
    #[error("unknown user status {0:?}")]
    UnknownUserStatus(String),
    /// The text does not say when a next plan follows.
    #[error("unknown start of a next plan {0:?}")]
    UnknownNextPlanStart(String),
    /// A rolling period has to last from 1 to 3,660 days.
    #[error("a rolling period lasts from 1 to 3660 days, not {0}")]
    RollingDays(u32),
    /// The instant is outside of the years that a calendar can compute with.
    #[error("instant {0} ms is out of the calendar's range")]
    InstantOutOfRange(i64),
    /// A speed is bounded by 64 kbit/s to 10 Gbit/s, or not at all.
    #[error("a speed limit is 0 or from 64000 to 10000000000 bits per second, not {0}")]
    Speed(u64),
    /// The text is no short id of REALITY.
    #[error("a short id is 2 to 16 hexadecimal digits, an even number of them")]
    ShortId,
    /// A multiplier has to be at most 1000.0 (one billion millionths).
    #[error("a multiplier is at most 1000000000 millionths, not {0}")]
    MultiplierTooLarge(u32),
}
