//! The same in Redis: one connection for each concern, and one that follows the signals.

mod config;
mod limiter;
mod link;
mod policy;
mod revocations;
mod script;
mod signals;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use vpnpanel_auth::{RevocationSource, Seal};
use vpnpanel_runtime::settings::Secret;

use self::{
    limiter::RedisLimiter, link::Link, policy::RedisPolicy, revocations::RedisRevocations,
    signals::RedisSignals,
};
use crate::{CacheError, CacheSettings, keyspace::Concern, metrics::CacheMetrics};

pub(crate) struct Redis {
    pub(crate) signals: Arc<RedisSignals>,
    pub(crate) revocations: Arc<RedisRevocations>,
    pub(crate) policy: Arc<RedisPolicy>,
    pub(crate) limiter: Arc<RedisLimiter>,
}

impl Redis {
    pub(crate) fn new(
        settings: &CacheSettings,
        url: &Secret,
        credential_life: Duration,
        seal: Arc<dyn Seal>,
        metrics: &CacheMetrics,
    ) -> Result<Self, CacheError> {
        let config = config::read(settings, url)?;
        let link = |concern| Link::new(&config, settings, concern, metrics.clone());
        Ok(Self {
            signals: Arc::new(RedisSignals::new(
                link(Concern::Signals),
                link(Concern::Signals),
                metrics.clone(),
            )),
            revocations: Arc::new(RedisRevocations::new(
                link(Concern::Revocation),
                credential_life,
            )),
            policy: Arc::new(RedisPolicy::new(link(Concern::Policy), seal)),
            limiter: Arc::new(RedisLimiter::new(link(Concern::Limits), metrics.clone())),
        })
    }

    /// Connects, and works until `stop`.
    pub(crate) async fn run(&self, source: Arc<dyn RevocationSource>, stop: CancellationToken) {
        let links = self.links();
        links.iter().for_each(|link| link.connect());
        let work = async {
            tokio::join!(
                self.signals.tell_others(),
                self.signals.follow(),
                self.revocations.keep_complete(&*source),
            )
        };
        stop.run_until_cancelled(work).await;
        for link in links {
            link.close().await;
        }
    }

    fn links(&self) -> [&Link; 5] {
        let [telling, following] = self.signals.links();
        [
            telling,
            following,
            self.revocations.link(),
            self.policy.link(),
            self.limiter.link(),
        ]
    }
}
