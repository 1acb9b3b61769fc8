//! Row of a node's certificate.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "node_certificates")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) serial: Vec<u8>,
    pub(crate) node_id: Uuid,
    pub(crate) authority_id: Uuid,
    pub(crate) spki_sha256: Vec<u8>,
    pub(crate) state: String,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) created_at: i64,
    pub(crate) revoked_at: Option<i64>,
    pub(crate) certificate_der: Option<Vec<u8>>,
    pub(crate) proof_at: Option<i64>,
    pub(crate) superseded_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
