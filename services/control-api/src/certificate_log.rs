//! The log of certificates that is kept apart from the database: what is issued or revoked is in it
//! before anybody hears of it, and what the database has forgotten is taken in from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::metrics::gauge::Gauge;
use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_pki::{
    CertificateLog, EndedCertificate, IssuedEntry, LogContents, LogEntry, RENEWAL_GRACE_MS,
    RevokedEntry,
};
use vpnpanel_runtime::{PeerIdentity, metrics::Metrics};
use vpnpanel_store::{
    Attribution, CertificateState, LoggedCertificate, NewNodeCertificate, RevokedCertificate,
    Store, TakenIn,
};

use crate::{Error, audit, authority::Authority};

/// Serials that are looked up by one query.
const CHUNK: usize = 1_000;
/// Unknown nodes that are named in the log one by one.
const NAMED: usize = 100;

/// The log; clones share it.
#[derive(Debug, Clone)]
pub struct CertificateRecords {
    log: Arc<Mutex<CertificateLog>>,
}

/// What a log held that the database did not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Certificates of nodes that are known again.
    pub issued: u64,
    /// Certificates that are revoked again.
    pub revoked: u64,
    /// Certificates that stay out: their node has a newer one, or another owner.
    pub passed_over: u64,
    /// Certificates that this installation's authority did not sign.
    pub foreign: u64,
    /// Lines that are not as they were written.
    pub damaged: u64,
    /// Nodes that the database does not know: made after the backup that it is. They stay out.
    pub unknown_nodes: BTreeSet<NodeId>,
}

impl CertificateRecords {
    /// Opens the log in a folder.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let log = Arc::new(Mutex::new(CertificateLog::open(folder)?));
        Ok(Self { log })
    }

    /// Writes down a certificate that is about to be handed out.
    pub(crate) async fn issued(&self, issued: IssuedEntry, now_ms: i64) -> Result<(), Error> {
        self.append(LogEntry::Issued(issued), now_ms).await
    }

    /// Writes down which certificates of a node are revoked, before that is answered.
    pub(crate) async fn revoked(&self, store: &Store, node: NodeId) -> Result<(), Error> {
        let now_ms = store.now_ms();
        let end_after_ms = now_ms.saturating_sub(RENEWAL_GRACE_MS);
        let revoked = store.revoked_certificates(node, end_after_ms).await?;
        if revoked.is_empty() {
            return Ok(());
        }
        let ended = |one: RevokedCertificate| EndedCertificate {
            serial: one.serial,
            not_before_ms: one.not_before_ms,
            not_after_ms: one.not_after_ms,
        };
        let entry = LogEntry::Revoked(RevokedEntry {
            at_ms: now_ms,
            node: node.uuid().into_bytes(),
            certificates: revoked.into_iter().map(ended).collect(),
        });
        self.append(entry, now_ms).await
    }

    /// Takes in what the log knows and the database does not; a database that knows everything is only
    /// read.
    ///
    /// # Errors
    /// A log that cannot be read, and those of the database.
    pub async fn reconcile(
        &self,
        store: &Store,
        authority: &Authority,
    ) -> Result<Reconciled, Error> {
        let now_ms = store.now_ms();
        let log = self.clone();
        let contents = blocking(move || log.read(now_ms)).await?;
        let mut done = Reconciled {
            damaged: contents.damaged as u64,
            ..Reconciled::default()
        };
        let nodes = by_node(contents, authority, &mut done);
        let acting = store.acting(Attribution::system(
            "control-api/certificate-log",
            audit::describe,
        ));
        for (node, entries) in unknown(store, nodes).await? {
            let taken = acting
                .take_in_certificates(node, authority.id, entries)
                .await?;
            done.count(node, taken);
        }
        done.tell();
        Ok(done)
    }

    fn read(&self, now_ms: i64) -> Result<LogContents, Error> {
        // Each write is whole, or its segment is given up: a panic leaves the log as good as it was.
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(log.read(now_ms)?)
    }

    /// Writes on a thread that may wait for the disk.
    async fn append(&self, entry: LogEntry, now_ms: i64) -> Result<(), Error> {
        let log = Arc::clone(&self.log);
        blocking(move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(log.append(&entry, now_ms)?)
        })
        .await
    }
}

impl Reconciled {
    /// Shows what a person has to see to.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let unknown: Gauge = Gauge::default();
        unknown.set(i64::try_from(self.unknown_nodes.len()).unwrap_or(i64::MAX));
        metrics.register(
            "control_api_certificates_unknown_nodes",
            "Nodes with certificates in the log that the database did not know at the start",
            unknown,
        );
    }

    fn count(&mut self, node: NodeId, taken: TakenIn) {
        match taken {
            TakenIn::Node {
                issued,
                revoked,
                passed_over,
            } => {
                self.issued += u64::from(issued);
                self.revoked += u64::from(revoked);
                self.passed_over += u64::from(passed_over);
            }
            TakenIn::UnknownNode => {
                self.unknown_nodes.insert(node);
            }
            TakenIn::DeletedNode => {}
        }
    }

    /// Says what a person has to know.
    fn tell(&self) {
        if *self == Self::default() {
            return;
        }
        tracing::warn!(
            event = "certificates_reconciled",
            issued = self.issued,
            revoked = self.revoked,
            passed_over = self.passed_over,
            foreign = self.foreign,
            damaged = self.damaged,
            unknown_nodes = self.unknown_nodes.len(),
            "the log of certificates held what the database did not know"
        );
        for node in self.unknown_nodes.iter().take(NAMED) {
            tracing::warn!(
                event = "certificate_of_unknown_node",
                node_id = %node,
                "a host holds a certificate of a node that the database does not know, and is refused: \
                 make a node and enrol the host again"
            );
        }
    }
}

type Logged = BTreeMap<NodeId, Vec<LoggedCertificate>>;

/// Entries of each node, in their order. Whose a certificate is it says itself, signed.
fn by_node(contents: LogContents, authority: &Authority, done: &mut Reconciled) -> Logged {
    let mut nodes = Logged::new();
    for entry in contents.entries {
        let (node, entry) = match entry {
            LogEntry::Issued(issued) => match logged(issued, authority) {
                Some(logged) => logged,
                None => {
                    done.foreign += 1;
                    continue;
                }
            },
            LogEntry::Revoked(revoked) => {
                let node = NodeId::new(uuid::Uuid::from_bytes(revoked.node));
                (node, ended(revoked))
            }
        };
        nodes.entry(node).or_default().push(entry);
    }
    nodes
}

fn logged(issued: IssuedEntry, authority: &Authority) -> Option<(NodeId, LoggedCertificate)> {
    let own = authority.signer.recognise(&issued.certificate_der).ok()?;
    let &PeerIdentity::Node { tenant, node } = own.peer.identity() else {
        return None;
    };
    let node_id = NodeId::new(node);
    let certificate = NewNodeCertificate {
        serial: own.peer.serial().to_vec(),
        node_id,
        authority_id: authority.id,
        spki_sha256: own.spki_sha256.to_vec(),
        certificate_der: issued.certificate_der,
        not_before_ms: issued.at_ms,
        not_after_ms: own.peer.not_after_unix().saturating_mul(1_000),
    };
    let logged = LoggedCertificate::Issued {
        certificate,
        tenant_id: tenant.map(TenantId::new),
        shown: issued.shown,
        at_ms: issued.at_ms,
    };
    Some((node_id, logged))
}

fn ended(revoked: RevokedEntry) -> LoggedCertificate {
    let certificates = revoked.certificates.into_iter();
    LoggedCertificate::Revoked {
        certificates: certificates
            .map(|one| RevokedCertificate {
                serial: one.serial,
                not_before_ms: one.not_before_ms,
                not_after_ms: one.not_after_ms,
            })
            .collect(),
        at_ms: revoked.at_ms,
    }
}

/// Of these entries, those of nodes about which they say something new: something was issued after the
/// newest certificate that the database knows of the node, or is not revoked there.
async fn unknown(store: &Store, nodes: Logged) -> Result<Logged, Error> {
    let newest = store.newest_certificates().await?;
    let mut revoked: Vec<&[u8]> = Vec::new();
    for entry in nodes.values().flatten() {
        if let LoggedCertificate::Revoked { certificates, .. } = entry {
            revoked.extend(certificates.iter().map(|one| &*one.serial));
        }
    }
    let mut states = HashMap::new();
    for serials in revoked.chunks(CHUNK) {
        states.extend(store.certificate_states(serials).await?);
    }
    let is_new = |node: &NodeId, entry: &LoggedCertificate| match entry {
        LoggedCertificate::Issued { at_ms, .. } => {
            newest.get(node).is_none_or(|newest| at_ms > newest)
        }
        LoggedCertificate::Revoked { certificates, .. } => certificates
            .iter()
            .any(|one| states.get(&one.serial) != Some(&CertificateState::Revoked)),
    };
    let new: BTreeSet<NodeId> = nodes
        .iter()
        .filter(|(node, entries)| entries.iter().any(|entry| is_new(node, entry)))
        .map(|(node, _)| *node)
        .collect();
    let of_new = |(node, _): &(NodeId, _)| new.contains(node);
    Ok(nodes.into_iter().filter(of_new).collect())
}

/// Runs what waits for the disk on a thread that may wait.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, Error> + Send + 'static,
) -> Result<R, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Corrupt(
            "a thread of the certificate log has died",
        )))
}
