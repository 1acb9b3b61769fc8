//! Certificates of nodes: the allow-list. A node's certificate is good while its serial is the
//! node's current or next one here, whatever its signature says.

use std::collections::HashSet;

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use uuid::Uuid;
use vpnpanel_domain::{NodeId, TenantId};

use crate::audit::Event;
use crate::connect::Store;
use crate::entity::node_certificate::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::row_set::{self, Cell, RowSet};
use crate::sql;
use crate::transaction::Write;

/// Where a certificate is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateState {
    /// In use.
    Current,
    /// Issued, takes over at its first use.
    Next,
    /// Replaced.
    Retired,
    /// Revoked.
    Revoked,
}

impl CertificateState {
    const ALL: [Self; 4] = [Self::Current, Self::Next, Self::Retired, Self::Revoked];

    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }

    /// Whether a stream with such a certificate is let in.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Current | Self::Next)
    }
}

/// A certificate that was issued to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Its serial number, big endian.
    pub serial: Vec<u8>,
    /// The node.
    pub node_id: NodeId,
    /// Which authority signed it.
    pub authority_id: Uuid,
    /// SHA-256 of its public key (SPKI).
    pub spki_sha256: Vec<u8>,
    /// Where it is in its life.
    pub state: CertificateState,
    /// When it begins.
    pub not_before_ms: i64,
    /// When it ends.
    pub not_after_ms: i64,
}

/// A certificate to note, before it is handed out.
#[derive(Debug, Clone)]
pub struct NewNodeCertificate {
    /// Its serial number, big endian.
    pub serial: Vec<u8>,
    /// The node.
    pub node_id: NodeId,
    /// Which authority signed it.
    pub authority_id: Uuid,
    /// SHA-256 of its public key (SPKI).
    pub spki_sha256: Vec<u8>,
    /// The certificate itself.
    pub certificate_der: Vec<u8>,
    /// When it begins.
    pub not_before_ms: i64,
    /// When it ends.
    pub not_after_ms: i64,
}

/// What a collector needs to know of a node that shows a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node.
    pub node_id: NodeId,
    /// The tenant it is dedicated to.
    pub tenant_id: Option<TenantId>,
    /// The node is disabled: its agent is refused.
    pub disabled: bool,
    /// State of the certificate.
    pub state: CertificateState,
}

impl Store {
    /// Notes a certificate of an enrolment: it is the node's current one, every other stops
    /// working, and a quarantine ends.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the node.
    pub async fn enrol_certificate(&self, new: NewNodeCertificate) -> Result<()> {
        let mut tx = self.begin().await?;
        enrol(&mut tx, new).await?;
        tx.commit().await
    }

    /// Certificates of a node, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn node_certificates(&self, node: NodeId) -> Result<Vec<NodeCertificate>> {
        Entity::find()
            .filter(Column::NodeId.eq(node.uuid()))
            .order_by_desc(Column::CreatedAt)
            .all(self.read())
            .await?
            .into_iter()
            .map(TryInto::try_into)
            .collect()
    }

    /// Who shows the certificate with this serial; `None` for an unknown serial or a node that
    /// was deleted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn identity_of(&self, serial: &[u8]) -> Result<Option<NodeIdentity>> {
        let row = sql::one(
            self.read(),
            "SELECT n.id, n.tenant_id, n.disabled, c.state
             FROM node_certificates c JOIN nodes n ON n.id = c.node_id
             WHERE c.serial = $1 AND n.deleted_at IS NULL",
            vec![serial.into()],
        )
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(NodeIdentity {
            node_id: NodeId::new(sql::get(&row, 0)?),
            tenant_id: sql::get::<Option<Uuid>>(&row, 1)?.map(TenantId::new),
            disabled: sql::get(&row, 2)?,
            state: state(&sql::get::<String>(&row, 3)?)?,
        }))
    }

    /// Of these serials, those that are good now: the current or next one of a node that exists
    /// and is not disabled.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn good_serials<'a>(
        &self,
        serials: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<HashSet<Vec<u8>>> {
        let db = self.read();
        let mut rows = RowSet::new(db, &[("serial", row_set::Column::Bytes)]);
        for serial in serials {
            rows.push([Cell::Bytes(serial)]);
        }
        if rows.is_empty() {
            return Ok(HashSet::new());
        }
        let text = format!(
            "SELECT c.serial FROM {}
             JOIN node_certificates c ON c.serial = s.serial
             JOIN nodes n ON n.id = c.node_id
             WHERE c.state IN ('current', 'next') AND n.deleted_at IS NULL AND NOT n.disabled",
            rows.source(1)
        );
        sql::all(db, text, rows.into_values())
            .await?
            .iter()
            .map(|row| Ok(sql::get(row, 0)?))
            .collect()
    }

    /// Revokes every certificate of a node, and the join tokens that could give its host another
    /// one: it has to enrol again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the node.
    pub async fn revoke_node_certificates(
        &self,
        tenant: Option<TenantId>,
        node: NodeId,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        crate::nodes::lock(&tx, tenant, node).await?;
        tx.audit(Event::on("node", tenant, node));
        revoke_all(&tx, node).await?;
        crate::join_tokens::supersede(&tx, node).await?;
        tx.commit().await
    }
}

/// When a certificate that is still in use should have been renewed: agents ask at half of its life,
/// and have tried often by three quarters of it.
pub(crate) fn renewal_overdue(not_before_ms: i64, not_after_ms: i64) -> i64 {
    not_after_ms - (not_after_ms - not_before_ms) / 4
}

/// Makes a certificate the current one of its node.
pub(crate) async fn enrol(tx: &mut Write, new: NewNodeCertificate) -> Result<()> {
    let node = sql::one(
        &**tx,
        "SELECT tenant_id FROM nodes WHERE id = $1 AND deleted_at IS NULL {for_update}",
        vec![new.node_id.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("node"))?;
    let owner = sql::get::<Option<Uuid>>(&node, 0)?.map(TenantId::new);
    tx.audit(Event::on("node", owner, new.node_id));
    retire_all(tx, new.node_id).await?;
    insert(tx, new, CertificateState::Current).await
}

/// A node enrols anew: what it had is worth nothing, and whoever shows it is no second agent but the
/// one that was replaced.
pub(crate) async fn retire_all(tx: &Write, node: NodeId) -> Result<()> {
    for text in [
        "UPDATE node_certificates SET state = 'retired'
         WHERE node_id = $1 AND state IN ('current', 'next')",
        "UPDATE node_certificates SET superseded_at = NULL
         WHERE node_id = $1 AND superseded_at IS NOT NULL",
    ] {
        sql::run(&**tx, text, vec![node.uuid().into()]).await?;
    }
    crate::ledger::forget_agents(tx, node).await
}

/// Notes a certificate, of whose state the node has no other.
pub(crate) async fn insert(
    tx: &Write,
    new: NewNodeCertificate,
    state: CertificateState,
) -> Result<()> {
    insert_of(tx, new, state, tx.now).await
}

/// Notes a certificate that was issued at another moment.
pub(crate) async fn insert_of(
    tx: &Write,
    new: NewNodeCertificate,
    state: CertificateState,
    issued_at_ms: i64,
) -> Result<()> {
    let row = Model {
        serial: new.serial,
        node_id: new.node_id.uuid(),
        authority_id: new.authority_id,
        spki_sha256: new.spki_sha256,
        state: state.as_str().to_owned(),
        not_before: new.not_before_ms,
        not_after: new.not_after_ms,
        created_at: issued_at_ms,
        revoked_at: None,
        certificate_der: Some(new.certificate_der),
        proof_at: None,
        superseded_at: None,
    };
    Entity::insert(ActiveModel::from(row))
        .exec_without_returning(&**tx)
        .await
        .map_err(StoreError::unique("serial"))?;
    Ok(())
}

pub(crate) async fn revoke_all(tx: &Write, node: NodeId) -> Result<u64> {
    Ok(sql::run(
        &**tx,
        "UPDATE node_certificates SET state = 'revoked', revoked_at = $2
         WHERE node_id = $1 AND state <> 'revoked'",
        vec![node.uuid().into(), tx.now.into()],
    )
    .await?)
}

pub(crate) fn state(name: &str) -> Result<CertificateState> {
    CertificateState::ALL
        .into_iter()
        .find(|one| one.as_str() == name)
        .ok_or_else(|| StoreError::corrupt("node_certificates.state", name))
}

impl TryFrom<Model> for NodeCertificate {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self> {
        Ok(Self {
            state: state(&row.state)?,
            serial: row.serial,
            node_id: NodeId::new(row.node_id),
            authority_id: row.authority_id,
            spki_sha256: row.spki_sha256,
            not_before_ms: row.not_before,
            not_after_ms: row.not_after,
        })
    }
}
