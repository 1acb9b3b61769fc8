//! Join tokens: single-use secrets with which a host becomes a node. Only their hashes are kept.
//! A token spent for a public key stays good for that key within its life, so that an agent whose
//! answer was lost can ask again.

use vpnpanel_domain::{NodeId, TenantId};

use crate::audit::Event;
use crate::connect::Store;
use crate::error::Result;
use crate::sql;
use crate::transaction::Write;

/// A token that was presented and is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The node that the host becomes.
    pub node_id: NodeId,
    /// The tenant that the node is dedicated to.
    pub tenant_id: Option<TenantId>,
    /// When the token ends.
    pub expires_at_ms: i64,
}

/// A token to keep.
#[derive(Debug, Clone)]
pub struct NewJoinToken {
    /// SHA-256 of the token.
    pub hash: Vec<u8>,
    /// The node that a host becomes by it.
    pub node_id: NodeId,
    /// When it ends.
    pub expires_at_ms: i64,
}

impl Store {
    /// Keeps a token; those made before for the same node stop working. The node has to belong
    /// to `tenant` (`None` is shared).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the node.
    pub async fn create_join_token(
        &self,
        tenant: Option<TenantId>,
        new: NewJoinToken,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        crate::nodes::lock(&tx, tenant, new.node_id).await?;
        tx.audit(Event::on("node", tenant, new.node_id));
        supersede(&tx, new.node_id).await?;
        sql::run(
            &*tx,
            "INSERT INTO join_tokens (hash, node_id, created_at, expires_at)
             VALUES ($1, $2, $3, $4)",
            vec![
                new.hash.into(),
                new.node_id.uuid().into(),
                tx.now.into(),
                new.expires_at_ms.into(),
            ],
        )
        .await?;
        tx.commit().await
    }

    /// Spends a token for a public key (SHA-256 of its SPKI); `None` when it is unknown, over,
    /// or was spent for another key.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn spend_join_token(
        &self,
        hash: &[u8],
        spki_sha256: &[u8],
    ) -> Result<Option<JoinToken>> {
        let mut tx = self.begin().await?;
        // What is done with it is: that the node has a certificate.
        tx.needs_no_event();
        let spent = sql::one(
            &*tx,
            "UPDATE join_tokens SET used_at = COALESCE(used_at, $3), used_by_spki = $2
             WHERE hash = $1 AND expires_at > $3 AND superseded_at IS NULL
               AND (used_by_spki IS NULL OR used_by_spki = $2)
             RETURNING node_id, expires_at",
            vec![hash.into(), spki_sha256.into(), tx.now.into()],
        )
        .await?;
        let Some(spent) = spent else { return Ok(None) };
        let node: uuid::Uuid = sql::get(&spent, 0)?;
        let owner = sql::one(
            &*tx,
            "SELECT tenant_id FROM nodes
             WHERE id = $1 AND deleted_at IS NULL AND NOT disabled",
            vec![node.into()],
        )
        .await?;
        let Some(owner) = owner else { return Ok(None) };
        let token = JoinToken {
            node_id: NodeId::new(node),
            tenant_id: sql::get::<Option<uuid::Uuid>>(&owner, 0)?.map(TenantId::new),
            expires_at_ms: sql::get(&spent, 1)?,
        };
        tx.commit().await?;
        Ok(Some(token))
    }
}

/// Ends what tokens of a node are good for.
pub(crate) async fn supersede(tx: &Write, node: NodeId) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE join_tokens SET superseded_at = $2
         WHERE node_id = $1 AND superseded_at IS NULL",
        vec![node.uuid().into(), tx.now.into()],
    )
    .await?;
    Ok(())
}
