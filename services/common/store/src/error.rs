//! What can go wrong in the store, in terms that a service can answer with.

use sea_orm::{DbErr, RuntimeErr, SqlErr};
use vpnpanel_domain::{InboundId, NodeId};

/// What a call of the store answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a call of the store failed. Unless said otherwise nothing was written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The resource does not exist, was deleted, or belongs to another tenant.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// Another live resource has the name.
    #[error("{what} already exists")]
    AlreadyExists {
        /// The field that has to be unique, for example `username`.
        what: &'static str,
    },
    /// The resource was changed since the caller read it.
    #[error("the resource was changed since it was read")]
    StaleVersion,
    /// The request id was used before, for a different request.
    #[error("the request id was used before for a different request")]
    RequestIdReused,
    /// A resource that the request refers to does not exist or may not be used here.
    #[error("{what} refers to something that does not exist here: {id}")]
    InvalidReference {
        /// The field, for example `group_ids`.
        what: &'static str,
        /// The id that was given.
        id: String,
    },
    /// A value that no request can have validated before.
    #[error("{what} {reason}")]
    InvalidArgument {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else listens on the port of a node.
    #[error("{0}")]
    PortInUse(Box<PortInUse>),
    /// No address is free in an inbound's pool.
    #[error("no address is free in the pool of inbound {inbound}")]
    PoolExhausted {
        /// The inbound.
        inbound: String,
    },
    /// The new pool lacks addresses that devices have.
    #[error("the pool no longer holds addresses that are in use")]
    PoolInUse,
    /// The tenant has as many as its limits permit.
    #[error("the tenant's limit of {what} is reached")]
    LimitReached {
        /// What is limited, for example `users`.
        what: &'static str,
    },
    /// The node has as many commands as may wait at a time.
    #[error(
        "as many commands of the node wait for a result as may: wait for one, or until its time is \
         over"
    )]
    TooManyCommands,
    /// The command was given to its node, or has ended.
    #[error("the command was given to the node already, or has ended")]
    CommandNotPending,
    /// The plan is in the archive.
    #[error("the plan is archived, so that nobody is given it: UndeletePlan takes it out")]
    PlanArchived,
    /// There is no end that could be put off.
    #[error("the user has no expire time that could be put off")]
    NoExpireTime,
    /// There is no limit that could be raised.
    #[error("the user has no data limit in its current period that could be raised")]
    NoDataLimit,
    /// A newer stream of the node has taken over: nothing of this one is written any more.
    #[error("a newer stream of the node has taken over")]
    StreamSuperseded,
    /// The database has lost what a node has reported on this stream.
    #[error(
        "the database is an older one than when the node reported what it holds, and lacks a part of \
         it: the node reports again on its next stream"
    )]
    ReportLost,
    /// The stream cannot be opened with such an agent.
    #[error(transparent)]
    Refused(vpnpanel_link::collector::open::Refusal),
    /// Another replica holds the job now: nothing of this run is written any more.
    #[error("the job's lease was lost")]
    LeaseLost,
    /// The job is not started before somebody lets it go on.
    #[error("the job is paused")]
    JobPaused,
    /// The last administrator or owner may not go.
    #[error(
        "the last {role} can be neither demoted, removed, disabled nor deleted: make another \
         account {role} first"
    )]
    LastOfRole {
        /// The role.
        role: String,
    },
    /// Somebody gives, takes away or changes what they do not hold themselves.
    #[error("this needs the permission {permission}, which you do not hold here yourself")]
    GrantExceedsOwn {
        /// `resource.verb`.
        permission: String,
    },
    /// Somebody would get around what the methods for one's own account ask for.
    #[error("this is for other people's accounts: for your own there are methods of its own")]
    OwnAccount,
    /// The role comes with the product.
    #[error("the role comes with vpnpanel and never changes: make a role of your own")]
    RoleBuiltIn,
    /// Somebody holds the role.
    #[error("somebody holds the role: give its holders another one first")]
    RoleInUse,
    /// The account has a second factor already.
    #[error("the account has a second factor already: disable it first")]
    SecondFactorExists,
    /// Another transaction was in the way: the same call may succeed at once.
    #[error("the database is busy; try again")]
    Contention(#[source] DbErr),
    /// The database cannot be reached, or no connection became free in time.
    #[error("the database is unavailable")]
    Unavailable(#[source] DbErr),
    /// What the database holds does not make sense.
    #[error("the database holds {what} that cannot be read: {reason}")]
    Corrupt {
        /// The column or value.
        what: &'static str,
        /// Why it cannot be read.
        reason: String,
    },
    /// The caller's key maker failed, or the operating system has no random bytes.
    #[error("a key could not be made")]
    Key(#[source] std::sync::Arc<dyn std::error::Error + Send + Sync>),
    /// A transaction on somebody's behalf noted no audit event: a bug here, and nothing is done
    /// that nobody could be asked about.
    #[error("{method} would change something without an audit event")]
    Unaudited {
        /// Path of the method.
        method: String,
    },
    /// The URL or an option makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// The database refused a statement: a bug here, or a damaged database.
    #[error("the database refused a statement")]
    Database(#[source] DbErr),
}

impl StoreError {
    /// Takes the violation of a unique index as "already exists"; anything else stays as it is.
    pub(crate) fn unique(what: &'static str) -> impl Fn(DbErr) -> Self {
        move |error| match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => Self::AlreadyExists { what },
            _ => error.into(),
        }
    }

    /// What the database holds does not make sense.
    pub(crate) fn corrupt(what: &'static str, reason: impl ToString) -> Self {
        Self::Corrupt {
            what,
            reason: reason.to_string(),
        }
    }

    /// Whether the same call may succeed when it is made again.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Contention(_) | Self::Unavailable(_))
    }

    /// A key that could not be made.
    pub(crate) fn key(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Key(error.into())
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match &error {
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Self::Unavailable(error),
            DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => match class(cause) {
                Class::Contention => Self::Contention(error),
                Class::Unavailable => Self::Unavailable(error),
                Class::Configuration(what) => Self::Configuration(what.to_owned()),
                Class::Other => Self::Database(error),
            },
            _ => Self::Database(error),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        DbErr::Exec(RuntimeErr::SqlxError(std::sync::Arc::new(error))).into()
    }
}

enum Class {
    Contention,
    Unavailable,
    /// The server will have nothing to do with us as we are set up; what to say about it.
    Configuration(&'static str),
    Other,
}

/// By SQLSTATE (PostgreSQL manual, appendix A) and SQLite result code (sqlite.org/rescode.html).
fn class(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Class::Unavailable,
        sqlx::Error::Database(cause) => match cause.code().as_deref() {
            // serialization_failure, deadlock_detected, lock_not_available; SQLITE_BUSY, _LOCKED
            // and their extended codes.
            Some("40001" | "40P01" | "55P03" | "5" | "6" | "261" | "262" | "517") => {
                Class::Contention
            }
            // admin_shutdown, crash_shutdown, cannot_connect_now, too_many_connections,
            // query_canceled (statement timeout).
            Some("57P01" | "57P02" | "57P03" | "53300" | "57014") => Class::Unavailable,
            // The server's own words name the user and the database: ours need not.
            Some("28P01") => Class::Configuration(
                "the server refuses the user or the password of the database URL (28P01)",
            ),
            Some("28000") => Class::Configuration(
                "the server does not let the user of the database URL in (28000): the role may \
                 not log in, or pg_hba.conf does not permit it from here",
            ),
            Some("3D000") => Class::Configuration(
                "the database that the database URL names does not exist (3D000): create it",
            ),
            _ => Class::Other,
        },
        _ => Class::Other,
    }
}

/// A port that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{transport} port {port} is in use on node {node_name:?} by {}: choose another port or other \
     nodes", .inbound.as_ref().map_or_else(|| "its agent".to_owned(), |it| format!("inbound {:?}", it.1))
)]
pub struct PortInUse {
    /// "TCP" or "UDP".
    pub transport: &'static str,
    /// The port.
    pub port: u16,
    /// The node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The inbound that has it, and its name; `None` is the agent of the node.
    pub inbound: Option<(InboundId, String)>,
}
