//! Renewal of node certificates. A node has at most a current certificate and a next one. The current
//! one stays good until the next has been seen, so that a lost answer or a crash on either side
//! locks nobody out; the same key gets the same certificate however often it asks.

use vpnpanel_domain::{NodeId, TenantId};

use crate::audit::Event;
use crate::certificates::{self, CertificateState, NewNodeCertificate};
use crate::clones::{self, RetiredShown};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::sql;
use crate::transaction::Write;

/// Between two certificates for different keys of a node.
const INTERVAL_MS: i64 = 10_000;

/// What a node shows to have its certificate renewed. That it holds its key was verified.
#[derive(Debug, Clone, Copy)]
pub struct ShownCertificate<'a> {
    /// Serial number, big endian.
    pub serial: &'a [u8],
    /// When the node proved it, where that was not in a handshake; each proof is later than the one
    /// before.
    pub proof_at_ms: Option<i64>,
    /// How long after its end it may still be renewed.
    pub grace_ms: i64,
}

/// What came of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The new certificate is the node's next one.
    Noted,
    /// The key was given a certificate before, which is not used yet: that one.
    Before {
        /// The certificate, DER.
        certificate_der: Vec<u8>,
        /// When it ends.
        not_after_ms: i64,
        /// Its serial number, big endian.
        serial: Vec<u8>,
        /// When it was issued.
        issued_at_ms: i64,
    },
    /// Nothing was issued.
    Refused(RenewalRefusal),
}

/// Why a certificate is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RenewalRefusal {
    /// Never issued here, replaced or revoked.
    #[error(
        "the certificate was not issued here, or was replaced or revoked: enrol this host again \
         with a new join token"
    )]
    Unknown,
    /// Replaced, and its successor was used a while ago.
    #[error(
        "the certificate was replaced and its successor used: this host is a copy of the node, or was \
         set back to an older disk; the node is quarantined until its host enrols again"
    )]
    Superseded,
    /// It ended too long ago.
    #[error("the certificate ended too long ago: enrol this host again with a new join token")]
    TooOld,
    /// The node is disabled.
    #[error("the node is disabled: enable it, and its host will ask again")]
    Disabled,
    /// The proof is not newer than one that was used.
    #[error("the proof is not newer than one that was used before: sign another one")]
    Replayed,
    /// The new key is the one of the certificate that is shown.
    #[error("the key is the one of the certificate that is to be renewed: make a new one")]
    SameKey,
    /// The node was given a certificate for another key just now.
    #[error("the node was given a certificate for another key just now: ask again later")]
    TooSoon,
}

impl Store {
    /// Makes `new` the next certificate of its node, which shows the one before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn renew_certificate(
        &self,
        shown: ShownCertificate<'_>,
        new: NewNodeCertificate,
    ) -> Result<Renewal> {
        let mut tx = self.begin().await?;
        let node = match node(&tx, new.node_id).await? {
            Ok(node) => node,
            Err(refusal) => return Ok(Renewal::Refused(refusal)),
        };
        if let Some(refusal) = judge(&tx, shown, &new).await? {
            return refuse(tx, refusal, shown, new.node_id).await;
        }
        if let Some(at) = shown.proof_at_ms {
            spend_proof(&tx, shown.serial, at).await?;
        }
        let renewal = match before(&tx, &new).await? {
            Some(before) => before,
            None if too_soon(&tx, new.node_id).await? => {
                return Ok(Renewal::Refused(RenewalRefusal::TooSoon));
            }
            None => {
                tx.audit(Event::on("node", node, new.node_id));
                retire_next(&tx, new.node_id).await?;
                certificates::insert(&tx, new, CertificateState::Next).await?;
                Renewal::Noted
            }
        };
        // An answer that is given again is on record since the first time.
        tx.needs_no_event();
        tx.commit().await?;
        Ok(renewal)
    }

    /// Takes a node's next certificate, which has just been seen, for its current one: the one
    /// before stops working. False when it is not its next one any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn use_next_certificate(&self, node: NodeId, serial: &[u8]) -> Result<bool> {
        let mut tx = self.begin().await?;
        // That it was issued is on record.
        tx.needs_no_event();
        if lock(&tx, node).await?.is_none() || !is_next(&tx, node, serial).await? {
            return Ok(false);
        }
        promote(&tx, node, serial).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Nothing is issued; and whoever shows a certificate whose successor was used is a second agent.
async fn refuse(
    mut tx: Write,
    refusal: RenewalRefusal,
    shown: ShownCertificate<'_>,
    node: NodeId,
) -> Result<Renewal> {
    if refusal != RenewalRefusal::Unknown {
        return Ok(Renewal::Refused(refusal));
    }
    let meaning = clones::judge(&mut tx, node, shown.serial).await?;
    if meaning == RetiredShown::Quarantined {
        tx.commit().await?;
    }
    Ok(Renewal::Refused(match meaning {
        RetiredShown::Nothing => refusal,
        RetiredShown::Quarantined | RetiredShown::QuarantinedBefore => RenewalRefusal::Superseded,
    }))
}

/// Locks the node; its owner.
async fn node(
    tx: &Write,
    id: NodeId,
) -> Result<std::result::Result<Option<TenantId>, RenewalRefusal>> {
    let Some((owner, disabled)) = lock(tx, id).await? else {
        return Ok(Err(RenewalRefusal::Unknown));
    };
    Ok(match disabled {
        true => Err(RenewalRefusal::Disabled),
        false => Ok(owner),
    })
}

async fn lock(tx: &Write, id: NodeId) -> Result<Option<(Option<TenantId>, bool)>> {
    let row = sql::one(
        &**tx,
        "SELECT tenant_id, disabled FROM nodes WHERE id = $1 AND deleted_at IS NULL {for_update}",
        vec![id.uuid().into()],
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    let owner = sql::get::<Option<uuid::Uuid>>(&row, 0)?.map(TenantId::new);
    Ok(Some((owner, sql::get(&row, 1)?)))
}

/// Why the certificate that is shown is not renewed; `None` where it is. A next certificate whose key
/// was proven has been seen: it becomes the current one, so that what is issued now does not take
/// its place before it is used itself.
async fn judge(
    tx: &Write,
    shown: ShownCertificate<'_>,
    new: &NewNodeCertificate,
) -> Result<Option<RenewalRefusal>> {
    let row = sql::one(
        &**tx,
        "SELECT state, not_after, spki_sha256, proof_at FROM node_certificates
         WHERE serial = $1 AND node_id = $2",
        vec![shown.serial.into(), new.node_id.uuid().into()],
    )
    .await?;
    let Some(row) = row else {
        return Ok(Some(RenewalRefusal::Unknown));
    };
    let state = certificates::state(&sql::get::<String>(&row, 0)?)?;
    let (not_after, spki): (i64, Vec<u8>) = (sql::get(&row, 1)?, sql::get(&row, 2)?);
    let proof_at: Option<i64> = sql::get(&row, 3)?;
    if !state.is_good() {
        return Ok(Some(RenewalRefusal::Unknown));
    }
    if tx.now >= not_after.saturating_add(shown.grace_ms) {
        return Ok(Some(RenewalRefusal::TooOld));
    }
    let replayed = |at| proof_at.is_some_and(|newest| at <= newest);
    if shown.proof_at_ms.is_some_and(replayed) {
        return Ok(Some(RenewalRefusal::Replayed));
    }
    if spki == new.spki_sha256 {
        return Ok(Some(RenewalRefusal::SameKey));
    }
    if state == CertificateState::Next {
        promote(tx, new.node_id, shown.serial).await?;
    }
    Ok(None)
}

async fn spend_proof(tx: &Write, serial: &[u8], at_ms: i64) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE node_certificates SET proof_at = $2 WHERE serial = $1",
        vec![serial.into(), at_ms.into()],
    )
    .await?;
    Ok(())
}

/// The node's next certificate, if it is for the same key and not half over.
async fn before(tx: &Write, new: &NewNodeCertificate) -> Result<Option<Renewal>> {
    let row = sql::one(
        &**tx,
        "SELECT certificate_der, not_after, serial, created_at FROM node_certificates
         WHERE node_id = $1 AND state = 'next' AND spki_sha256 = $2
           AND certificate_der IS NOT NULL AND not_after - $3 > $3 - not_before",
        vec![
            new.node_id.uuid().into(),
            new.spki_sha256.clone().into(),
            tx.now.into(),
        ],
    )
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Renewal::Before {
        certificate_der: sql::get(&row, 0)?,
        not_after_ms: sql::get(&row, 1)?,
        serial: sql::get(&row, 2)?,
        issued_at_ms: sql::get(&row, 3)?,
    }))
}

/// A node that asks with ever new keys fills no table.
async fn too_soon(tx: &Write, node: NodeId) -> Result<bool> {
    let row = sql::one(
        &**tx,
        "SELECT MAX(created_at) FROM node_certificates WHERE node_id = $1",
        vec![node.uuid().into()],
    )
    .await?;
    let newest = row.map_or(Ok(None), |row| sql::get::<Option<i64>>(&row, 0))?;
    Ok(newest.is_some_and(|at| tx.now.saturating_sub(at) < INTERVAL_MS))
}

async fn is_next(tx: &Write, node: NodeId, serial: &[u8]) -> Result<bool> {
    let row = sql::one(
        &**tx,
        "SELECT 1 FROM node_certificates WHERE serial = $1 AND node_id = $2 AND state = 'next'",
        vec![serial.into(), node.uuid().into()],
    )
    .await?;
    Ok(row.is_some())
}

pub(crate) async fn promote(tx: &Write, node: NodeId, serial: &[u8]) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE node_certificates SET state = 'retired', superseded_at = $2
         WHERE node_id = $1 AND state = 'current'",
        vec![node.uuid().into(), tx.now.into()],
    )
    .await?;
    let moved = sql::run(
        &**tx,
        "UPDATE node_certificates SET state = 'current' WHERE serial = $1 AND state = 'next'",
        vec![serial.into()],
    )
    .await?;
    match moved {
        1 => Ok(()),
        _ => Err(StoreError::corrupt(
            "node_certificates.state",
            "a certificate is no longer the next one though its node is locked",
        )),
    }
}

/// The next certificate is replaced before it was used.
pub(crate) async fn retire_next(tx: &Write, node: NodeId) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE node_certificates SET state = 'retired' WHERE node_id = $1 AND state = 'next'",
        vec![node.uuid().into()],
    )
    .await?;
    Ok(())
}
