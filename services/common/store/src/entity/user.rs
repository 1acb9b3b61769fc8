//! Row of a user.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) tenant_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) username: String,
    pub(crate) username_key: String,
    pub(crate) note: String,
    pub(crate) status: String,
    pub(crate) disabled: bool,
    pub(crate) expires_at: Option<i64>,
    pub(crate) on_hold: bool,
    pub(crate) on_hold_ms: Option<i64>,
    pub(crate) limit_bytes: i64,
    pub(crate) reset_strategy: String,
    pub(crate) period_id: Uuid,
    pub(crate) next_period_id: Option<Uuid>,
    pub(crate) period_ends_at: Option<i64>,
    pub(crate) credentials_version: i64,
    pub(crate) version: i64,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) speed_up_bps: i64,
    pub(crate) speed_down_bps: i64,
    pub(crate) deleted_at: Option<i64>,
    pub(crate) plan_id: Option<Uuid>,
    pub(crate) next_plan_id: Option<Uuid>,
    pub(crate) next_plan_start: String,
    pub(crate) next_plan_due_at: Option<i64>,
    pub(crate) device_limit: i64,
    pub(crate) hold_since: Option<i64>,
    pub(crate) started_at: Option<i64>,
    pub(crate) subscription_hash: Option<Vec<u8>>,
    pub(crate) sealed_subscription: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
