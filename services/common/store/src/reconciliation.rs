//! Certificates that a log kept apart knows and the database does not, because an older backup of it
//! was restored. What the log says is done again, in its order, as far as the node has nothing newer:
//! hosts that enrolled or were renewed since are let in, what was revoked stays out.

use std::collections::HashMap;

use vpnpanel_domain::{NodeId, TenantId};

use crate::audit::Event;
use crate::certificates::{self, CertificateState, NewNodeCertificate};
use crate::connect::Store;
use crate::error::Result;
use crate::row_set::{self, Cell, RowSet};
use crate::transaction::Write;
use crate::{join_tokens, renewal, sql};

/// What happened to certificates of a node.
#[derive(Debug, Clone)]
pub enum LoggedCertificate {
    /// One was issued.
    Issued {
        /// The certificate.
        certificate: NewNodeCertificate,
        /// Whom it names as the node's owner.
        tenant_id: Option<TenantId>,
        /// Serial of the one that was shown for it; `None` for an enrolment.
        shown: Option<Vec<u8>>,
        /// When.
        at_ms: i64,
    },
    /// These were revoked.
    Revoked {
        /// Which.
        certificates: Vec<RevokedCertificate>,
        /// When.
        at_ms: i64,
    },
}

/// A certificate that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Its serial number, big endian.
    pub serial: Vec<u8>,
    /// When it begins.
    pub not_before_ms: i64,
    /// When it ends.
    pub not_after_ms: i64,
}

/// What came of a node's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenIn {
    /// So much was new, and is known now.
    Node {
        /// Certificates that were issued.
        issued: u32,
        /// Certificates that were revoked.
        revoked: u32,
        /// Certificates that stay out: the node has a newer one, or belongs to another tenant.
        passed_over: u32,
    },
    /// The database knows no such node: none of its certificates is good for anything.
    UnknownNode,
    /// The node was deleted.
    DeletedNode,
}

impl Store {
    /// Where certificates are in their lives, by serial; unknown ones are left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificate_states(
        &self,
        serials: &[&[u8]],
    ) -> Result<HashMap<Vec<u8>, CertificateState>> {
        let db = self.read();
        let mut rows = RowSet::new(db, &[("serial", row_set::Column::Bytes)]);
        for serial in serials {
            rows.push([Cell::Bytes(serial)]);
        }
        if rows.is_empty() {
            return Ok(HashMap::new());
        }
        let text = format!(
            "SELECT c.serial, c.state FROM {} JOIN node_certificates c ON c.serial = s.serial",
            rows.source(1)
        );
        sql::all(db, text, rows.into_values())
            .await?
            .iter()
            .map(|row| {
                let state = certificates::state(&sql::get::<String>(row, 1)?)?;
                Ok((sql::get(row, 0)?, state))
            })
            .collect()
    }

    /// When the newest certificate of each node was issued that has any.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn newest_certificates(&self) -> Result<HashMap<NodeId, i64>> {
        sql::all(
            self.read(),
            "SELECT node_id, MAX(created_at) FROM node_certificates GROUP BY node_id",
            vec![],
        )
        .await?
        .iter()
        .map(|row| Ok((NodeId::new(sql::get(row, 0)?), sql::get(row, 1)?)))
        .collect()
    }

    /// Certificates of a node, also of one that was deleted, that are revoked and end after a moment;
    /// the newest thousand.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn revoked_certificates(
        &self,
        node: NodeId,
        end_after_ms: i64,
    ) -> Result<Vec<RevokedCertificate>> {
        sql::all(
            self.read(),
            "SELECT serial, not_before, not_after FROM node_certificates
             WHERE node_id = $1 AND state = 'revoked' AND not_after > $2
             ORDER BY created_at DESC LIMIT 1000",
            vec![node.uuid().into(), end_after_ms.into()],
        )
        .await?
        .iter()
        .map(|row| {
            Ok(RevokedCertificate {
                serial: sql::get(row, 0)?,
                not_before_ms: sql::get(row, 1)?,
                not_after_ms: sql::get(row, 2)?,
            })
        })
        .collect()
    }

    /// Takes in what a log says of a node's certificates, the oldest first, in one transaction.
    /// Certificates that cannot be told otherwise are noted under `authority`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_in_certificates(
        &self,
        node: NodeId,
        authority: uuid::Uuid,
        log: Vec<LoggedCertificate>,
    ) -> Result<TakenIn> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        let row = sql::one(
            &*tx,
            "SELECT tenant_id, deleted_at IS NOT NULL FROM nodes WHERE id = $1 {for_update}",
            vec![node.uuid().into()],
        )
        .await?;
        let Some(row) = row else {
            return Ok(TakenIn::UnknownNode);
        };
        if sql::get(&row, 1)? {
            return Ok(TakenIn::DeletedNode);
        }
        let owner = sql::get::<Option<uuid::Uuid>>(&row, 0)?.map(TenantId::new);
        let mut node = Node::load(&tx, node, owner, authority).await?;
        let (mut issued, mut revoked, mut passed_over) = (0, 0, 0);
        for entry in log {
            match entry {
                LoggedCertificate::Issued {
                    certificate,
                    tenant_id,
                    shown,
                    at_ms,
                } => match node
                    .issued(&tx, certificate, tenant_id, shown, at_ms)
                    .await?
                {
                    Some(true) => issued += 1,
                    Some(false) => passed_over += 1,
                    None => {}
                },
                LoggedCertificate::Revoked {
                    certificates,
                    at_ms,
                } => revoked += node.revoked(&tx, certificates, at_ms).await?,
            }
        }
        if issued + revoked > 0 {
            tx.audit(Event::on("node", owner, node.id));
            tx.commit().await?;
        }
        Ok(TakenIn::Node {
            issued,
            revoked,
            passed_over,
        })
    }
}

/// A locked node, and what is known of its certificates.
struct Node {
    id: NodeId,
    owner: Option<TenantId>,
    authority: uuid::Uuid,
    states: HashMap<Vec<u8>, CertificateState>,
    /// When the newest was issued that the database knew.
    newest_ms: i64,
}

impl Node {
    async fn load(
        tx: &Write,
        id: NodeId,
        owner: Option<TenantId>,
        authority: uuid::Uuid,
    ) -> Result<Self> {
        let mut node = Self {
            id,
            owner,
            authority,
            states: HashMap::new(),
            newest_ms: i64::MIN,
        };
        let rows = sql::all(
            &**tx,
            "SELECT serial, state, created_at FROM node_certificates WHERE node_id = $1",
            vec![id.uuid().into()],
        )
        .await?;
        for row in &rows {
            let state = certificates::state(&sql::get::<String>(row, 1)?)?;
            node.states.insert(sql::get(row, 0)?, state);
            node.newest_ms = node.newest_ms.max(sql::get(row, 2)?);
        }
        Ok(node)
    }

    /// Takes in a certificate, as it was issued; false when it stays out, `None` when it is known.
    async fn issued(
        &mut self,
        tx: &Write,
        certificate: NewNodeCertificate,
        tenant: Option<TenantId>,
        shown: Option<Vec<u8>>,
        at_ms: i64,
    ) -> Result<Option<bool>> {
        if self.states.contains_key(&certificate.serial) {
            return Ok(None);
        }
        if tenant != self.owner || at_ms <= self.newest_ms {
            return Ok(Some(false));
        }
        let serial = certificate.serial.clone();
        let state = match shown {
            None => {
                certificates::retire_all(tx, self.id).await?;
                self.become_retired(CertificateState::Current);
                self.become_retired(CertificateState::Next);
                CertificateState::Current
            }
            Some(shown) => match self.states.get(&shown) {
                Some(CertificateState::Revoked) => return Ok(Some(false)),
                // It was in use by then.
                Some(CertificateState::Next) => {
                    renewal::promote(tx, self.id, &shown).await?;
                    self.become_retired(CertificateState::Current);
                    self.states.insert(shown, CertificateState::Current);
                    CertificateState::Next
                }
                _ => {
                    renewal::retire_next(tx, self.id).await?;
                    self.become_retired(CertificateState::Next);
                    CertificateState::Next
                }
            },
        };
        certificates::insert_of(tx, certificate, state, at_ms).await?;
        self.states.insert(serial, state);
        Ok(Some(true))
    }

    fn become_retired(&mut self, were: CertificateState) {
        for state in self.states.values_mut().filter(|state| **state == were) {
            *state = CertificateState::Retired;
        }
    }

    /// Revokes certificates; one that is unknown is noted as revoked, should another log know that it
    /// was issued. How many were not.
    async fn revoked(
        &mut self,
        tx: &Write,
        certificates: Vec<RevokedCertificate>,
        at_ms: i64,
    ) -> Result<u32> {
        let mut new = 0;
        for revoked in certificates {
            match self.states.get(&revoked.serial) {
                Some(CertificateState::Revoked) => continue,
                Some(_) => {}
                None => self.note(tx, &revoked, at_ms).await?,
            }
            sql::run(
                &**tx,
                "UPDATE node_certificates SET state = 'revoked', revoked_at = $3
                 WHERE serial = $1 AND node_id = $2",
                vec![
                    revoked.serial.clone().into(),
                    self.id.uuid().into(),
                    at_ms.into(),
                ],
            )
            .await?;
            self.states
                .insert(revoked.serial, CertificateState::Revoked);
            new += 1;
        }
        if new > 0 {
            join_tokens::supersede(tx, self.id).await?;
        }
        Ok(new)
    }

    async fn note(&self, tx: &Write, revoked: &RevokedCertificate, at_ms: i64) -> Result<()> {
        let row = NewNodeCertificate {
            serial: revoked.serial.clone(),
            node_id: self.id,
            authority_id: self.authority,
            spki_sha256: Vec::new(),
            certificate_der: Vec::new(),
            not_before_ms: revoked.not_before_ms,
            not_after_ms: revoked.not_after_ms,
        };
        // Not newer than what was issued: it says nothing of what the node holds.
        let issued_at_ms = revoked.not_before_ms.min(at_ms);
        certificates::insert_of(tx, row, CertificateState::Retired, issued_at_ms).await
    }
}
