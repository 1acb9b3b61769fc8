//! Row of a plan.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "plans")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) tenant_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) name_key: String,
    pub(crate) note: String,
    pub(crate) limit_bytes: i64,
    pub(crate) reset_strategy: String,
    pub(crate) duration_ms: Option<i64>,
    pub(crate) on_first_use: bool,
    pub(crate) speed_up_bps: i64,
    pub(crate) speed_down_bps: i64,
    pub(crate) device_limit: i64,
    pub(crate) next_plan_id: Option<Uuid>,
    pub(crate) next_plan_start: String,
    pub(crate) archived_at: Option<i64>,
    pub(crate) version: i64,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
