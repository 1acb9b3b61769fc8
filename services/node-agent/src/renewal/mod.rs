//! Renewal of the node's certificate. A new key is made for each; it is kept in memory until its
//! certificate has come, then both replace the old ones on disk in one step, and only then are taken
//! into use. Whatever happens before leaves the old ones, which the control plane accepts until it
//! has seen the new.

mod lapsed;
mod schedule;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use tokio::task::JoinHandle;
use vpnpanel_link::{IssuedCertificate, RenewalRefusal};
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::clock::Clock;
use vpnpanel_runtime::metrics::Metrics;
use vpnpanel_runtime::settings::HttpEndpoint;
use vpnpanel_runtime::tls::{ClientTls, ServerTls};

use crate::enrollment::{EnrollmentError, Identity, Issued};
use schedule::{Schedule, Way};

/// What the control plane says to a request.
pub(crate) type Answer = Result<Box<IssuedCertificate>, RenewalRefusal>;

/// Where the certificate is in use.
#[derive(Debug, Clone)]
pub struct Users {
    /// Of the node link.
    pub link: ClientTls,
    /// Of the agent's own server.
    pub control: ServerTls,
    /// Where it is told when the certificate ends.
    pub metrics: Metrics,
}

/// Keeps the node's certificate fresh.
#[derive(Debug)]
pub struct Renewal {
    identity: Arc<Identity>,
    data_dir: PathBuf,
    trust_domain: TrustDomain,
    /// Where to go once the certificate has ended.
    enrolment: Option<HttpEndpoint>,
    users: Users,
    clock: Clock,
    schedule: Schedule,
    request: Option<Request>,
    /// A request on the enrolment listener.
    asking: Option<JoinHandle<Answer>>,
}

/// A key that waits for its certificate. Asked with again and again: the answer is the same.
#[derive(Debug)]
struct Request {
    key: KeyPair,
    csr: Bytes,
}

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Wait,
    /// Send this request over the link.
    Ask(Bytes),
    /// Connect anew: there is a new certificate.
    Reconnect,
}

impl Renewal {
    /// Keeps `identity` fresh. A certificate that has ended is renewed at `enrolment`, or else where
    /// the host enrolled.
    pub fn new(
        identity: Identity,
        data_dir: PathBuf,
        trust_domain: TrustDomain,
        enrolment: Option<HttpEndpoint>,
        users: Users,
        clock: Clock,
    ) -> Self {
        let kept = identity.enrollment_url.as_deref();
        let enrolment = enrolment.or_else(|| kept.and_then(|url| url.parse().ok()));
        Self {
            schedule: Schedule::of(&identity),
            identity: Arc::new(identity),
            data_dir,
            trust_domain,
            enrolment,
            users,
            clock,
            request: None,
            asking: None,
        }
    }

    /// When the certificate in use ends, Unix seconds.
    pub(crate) fn not_after_unix(&self) -> i64 {
        self.identity.not_after_unix
    }

    /// Looks whether something is due; to be called every few seconds.
    pub(crate) async fn look(&mut self, connected: bool) -> Step {
        if self.asking.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(asked) = self.asking.take()
            && let Ok(answer) = asked.await
            && self.take(answer).await
        {
            return Step::Reconnect;
        }
        let now_ms = self.clock.unix_millis();
        let Some(way) = self.schedule.way(now_ms, connected) else {
            return Step::Wait;
        };
        self.schedule.asked(now_ms);
        match (way, self.csr()) {
            (Way::Link, Ok(csr)) => Step::Ask(csr),
            (Way::Enrolment, Ok(csr)) => {
                self.ask_at_enrolment(csr, now_ms);
                Step::Wait
            }
            (_, Err(error)) => {
                tracing::error!(event = "renewal_failed", %error, "no key could be made");
                Step::Wait
            }
        }
    }

    /// Takes an answer. True when a new certificate is durable and in use.
    pub(crate) async fn take(&mut self, answer: Answer) -> bool {
        let issued = match answer {
            Ok(issued) => issued,
            Err(refusal) => {
                tracing::warn!(
                    event = "renewal_refused",
                    reason = refusal.reason,
                    ends_unix = self.identity.not_after_unix,
                    "the certificate was not renewed: {}",
                    refusal.message
                );
                return false;
            }
        };
        // Without a request it is an answer that was given twice.
        let Some(request) = self.request.take() else {
            return false;
        };
        match self.adopt(*issued, &request.key).await {
            Ok(()) => {
                tracing::info!(
                    event = "certificate_renewed",
                    ends_unix = self.identity.not_after_unix,
                    "the node has a new certificate"
                );
                true
            }
            Err(error) => {
                tracing::error!(event = "renewal_failed", %error, "the old certificate stays in use");
                self.request = Some(request);
                false
            }
        }
    }

    /// Durable first, then in use.
    async fn adopt(
        &mut self,
        issued: IssuedCertificate,
        key: &KeyPair,
    ) -> Result<(), EnrollmentError> {
        let certificates = |all: Vec<Bytes>| {
            all.into_iter()
                .map(|der| CertificateDer::from(Vec::from(der)))
                .collect()
        };
        let issued = Issued {
            chain: certificates(issued.chain),
            trust_bundle: certificates(issued.trust_bundle),
            trust_bundle_sequence: issued.trust_bundle_sequence,
        };
        let renewed = self.identity.renewed(issued, key, &self.trust_domain)?;
        // What cannot be used must not replace what can.
        ClientTls::new(&renewed.trust_bundle, Some(renewed.credentials.clone()))?;
        let renewed = Arc::new(renewed);
        let (kept, data_dir) = (Arc::clone(&renewed), self.data_dir.clone());
        tokio::task::spawn_blocking(move || kept.save(&data_dir))
            .await
            .map_err(|_| EnrollmentError::Interrupted)??;
        self.users.take(&renewed)?;
        self.schedule = Schedule::of(&renewed);
        self.identity = renewed;
        Ok(())
    }

    /// The request under way, or a new one.
    fn csr(&mut self) -> Result<Bytes, EnrollmentError> {
        if self.request.is_none() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let csr = CertificateParams::default().serialize_request(&key)?;
            let csr = Bytes::copy_from_slice(csr.der());
            self.request = Some(Request { key, csr });
        }
        let csr = self.request.as_ref().map(|request| request.csr.clone());
        csr.ok_or(EnrollmentError::Interrupted)
    }

    fn ask_at_enrolment(&mut self, csr: Bytes, now_ms: i64) {
        if self.asking.is_some() {
            return;
        }
        let Some(url) = self.enrolment.clone() else {
            tracing::error!(
                event = "renewal_failed",
                "the certificate has ended, and where to renew it is not known: set \
                 VPNPANEL_ENROLLMENT_URL"
            );
            return;
        };
        let (identity, domain) = (Arc::clone(&self.identity), self.trust_domain.clone());
        tracing::info!(
            event = "renewal_lapsed",
            "the certificate has ended: asking the enrolment listener for another one"
        );
        self.asking = Some(tokio::spawn(async move {
            lapsed::renew(&identity, &url, &domain, csr, now_ms).await
        }));
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

impl Users {
    fn take(&self, identity: &Identity) -> Result<(), EnrollmentError> {
        let credentials = || identity.credentials.clone();
        self.control
            .replace(credentials(), &identity.trust_bundle)?;
        self.link
            .replace(&identity.trust_bundle, Some(credentials()))?;
        self.metrics
            .certificate_expiry("control", identity.not_after_unix);
        Ok(())
    }
}
