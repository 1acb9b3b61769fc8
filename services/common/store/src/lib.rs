//! Everything the control plane keeps, in PostgreSQL or SQLite: the only crate that knows SQL.
//!
//! - Domain structs go in and come out; no database type and no message of the contract.
//! - Every mutation appends what it changed to the change log in its own transaction.
//! - A tenant is part of every key and every query; another tenant's resource is not found.
//! - Secrets arrive sealed: the store sees opaque bytes.
//! - Locks are taken in one order, so that no two transactions wait for each other: job or
//!   operation → node → cursor → account → owner → plan → group → period → user → address pool → lease
//!   and usage (sorted) → a tenant's month → change log.

mod account_change;
mod accounts;
mod addresses;
mod amount;
mod api_tokens;
mod audit;
mod authorities;
mod bindings;
mod certificates;
mod changes;
mod clones;
mod commands;
mod connect;
mod connections;
mod desired;
mod desired_changes;
mod device_keys;
mod devices;
mod doorbell;
mod endpoint_templates;
mod entity;
mod error;
mod expiry;
mod explain;
mod figures;
mod grants;
mod groups;
mod idempotency;
mod inbound_settings;
mod inbounds;
mod jobs;
mod join_tokens;
mod ledger;
mod memberships;
mod node_states;
mod node_watch;
mod nodes;
mod operations;
mod page;
mod passwords;
mod peers;
mod periods;
mod plans;
mod ports;
mod rates;
mod reconciliation;
mod removals;
mod renewal;
mod restore;
mod roles;
mod rollover;
mod row_set;
mod second_factors;
mod sessions;
mod signing_key_rotation;
mod signing_keys;
mod sql;
mod subscriptions;
mod sync_repair;
mod tenant_use;
mod tenants;
#[cfg(feature = "testing")]
pub mod testing;
mod transaction;
mod usage;
mod user_change;
mod user_create;
mod user_extend;
mod user_plan;
mod users;
mod walls;

pub use account_change::AccountPatch;
pub use accounts::{Account, NewAccount};
pub use api_tokens::{ApiToken, ApiTokenOwner, NewApiToken};
pub use audit::{
    Anchor, Attribution, AuditEvent, AuditFilter, AuditTail, Breach, Broken, ChainLink, Describe,
    Described, Event, HeldRole, Outcome, Resource, Verification,
};
pub use authorities::{Authority, AuthorityState, NewAuthority};
pub use bindings::{Binding, MakeNodeKey, NodeKey};
pub use certificates::{CertificateState, NewNodeCertificate, NodeCertificate, NodeIdentity};
pub use changes::{Change, ChangeKind, Changes, LogPosition};
pub use clones::RetiredShown;
pub use commands::{CommandState, NewNodeCommand, NodeCommand};
pub use connect::{Backend, Options, Store};
pub use connections::{Connection, ConnectionAccess};
pub use desired::{DesiredFacts, NodeInbound, NodePeer, NodePeerAccess, NodePeriod, NodeUser};
pub use desired_changes::{ChangesWanted, DesiredChanges};
pub use device_keys::{DeviceKeys, MakeDeviceKeys};
pub use devices::{Device, MAX_DEVICES};
pub use endpoint_templates::{
    ConnectionTemplate, EndpointTemplate, EndpointTemplateFilter, EndpointTemplatePatch,
    NewEndpointTemplate, Presentation,
};
pub use error::{PortInUse, Result, StoreError};
pub use explain::{BilledBatch, Explained, UnbilledPiece, UnbilledReason, UsagePiece};
pub use figures::{NodeCounts, ONLINE_MS, OnlineCounts, Stretch, TopNode, TopUser, UserCounts};
pub use grants::Grantor;
pub use groups::{Group, GroupPatch, NewGroup};
pub use idempotency::RequestKey;
pub use inbound_settings::{
    InboundSettings, Ports, WireGuard, Xray, XrayReality, XraySecurity, XrayTls,
};
pub use inbounds::{Inbound, InboundPatch, NewInbound, NodeSelector};
pub use jobs::{Job, JobEnd, JobLease, JobRun};
pub use join_tokens::{JoinToken, NewJoinToken};
pub use ledger::{
    AheadCursor, FirstLook, Greeting, Ingested, LEASES_AHEAD_MS, LedgerTotals, NodesAhead,
    PARTITION_MS, ROLL_AFTER_MS, Seen, TenantMonth, UsageKept, UsageRoll,
};
pub use memberships::{Joining, Member, Membership};
pub use node_states::{
    Answered, Engine, Liveness, NodeState, Progress, ResourceError, good_for_ms,
};
pub use node_watch::{FleetFigures, OverdueCertificate, SilentNode};
pub use nodes::{Labels, NewNode, Node, NodePatch};
pub use operations::{
    ItemFailure, ItemState, MAX_OPERATION_ITEMS, MAX_OPERATIONS, NewOperation, Operation,
    OperationItem, OperationLease, OperationState,
};
pub use page::Page;
pub use periods::Period;
pub use plans::{NewPlan, NextPlan, Plan, PlanFilter, PlanPatch, PlanTerms};
pub use rates::{Counted, RecentUsage};
pub use reconciliation::{LoggedCertificate, RevokedCertificate, TakenIn};
pub use removals::Removals;
pub use renewal::{Renewal, RenewalRefusal, ShownCertificate};
pub use restore::{AwaitedNode, Restore, RestoreLook, WrittenOff};
pub use roles::{NewRole, Role, RolePatch};
pub use rollover::RollCursor;
pub use second_factors::{CodeUse, SecondFactor};
pub use sessions::{NewSession, Proof, Rotation, Session};
pub use signing_key_rotation::{MakeSigningKey, SigningKeyTerms};
pub use signing_keys::{NewSigningKey, SigningKey, SigningKeyState};
pub use subscriptions::{Fetched, Subscription, SubscriptionFetch, SubscriptionToken};
pub use sync_repair::SyncRepair;
pub use tenant_use::TenantUse;
pub use tenants::{NewTenant, Tenant, TenantLimits, TenantPatch};
pub use usage::{Usage, UsageQuery, UsageSeries};
pub use user_change::UserPatch;
pub use user_create::{MAX_NEW_USERS, NewDevice, NewUser};
pub use user_extend::Extension;
pub use user_plan::{PlanCursor, PlanOver};
pub use users::{DELETED_USERS_KEPT_MS, User, UserFilter};
pub use vpnpanel_link::{CommandAnswer, CommandKind, CommandOutcome, CommandResult};

/// A fresh id: UUIDv7 with random bits, so that none comes twice, not even after the database
/// was restored from an older backup.
pub fn fresh_id<T: From<uuid::Uuid>>() -> T {
    uuid::Uuid::now_v7().into()
}
