//! How fast traffic is right now. One task looks at what was committed, for as long as anybody watches,
//! and all watchers of this process see what it finds: a look is a statement, whoever watches what.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_store::{Counted, RecentUsage, Store};

use crate::Error;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(2);
/// Looks that a rate is over: nodes report every few seconds, each at a time of its own.
const LOOKS: usize = 10;
/// Who may watch at a time, a tenant or the platform.
const MOST: usize = 100;
/// Tenants that are watched at a time, and those that were lately.
const MOST_TENANTS: u64 = 1_000;

/// What was counted within `span` of now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    pub(crate) as_of_ms: i64,
    pub(crate) span: Duration,
    counted: HashMap<(TenantId, NodeId), Counted>,
}

/// Where watchers find the rates.
#[derive(Debug)]
pub(crate) struct RateWatch {
    store: Store,
    /// `None` once there will be no more.
    latest: watch::Sender<Option<Arc<Rates>>>,
    /// Somebody watches.
    begun: Notify,
    /// A tenant takes no place from another.
    places: moka::sync::Cache<Option<TenantId>, Arc<Semaphore>>,
}

/// Somebody who watches.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) latest: watch::Receiver<Option<Arc<Rates>>>,
    _place: OwnedSemaphorePermit,
}

impl Rates {
    /// Bytes per second, in all and by node, the fastest first: of a tenant, or of all.
    pub(crate) fn of(&self, tenant: Option<TenantId>) -> (Counted, Vec<(NodeId, Counted)>) {
        let mut nodes: HashMap<NodeId, Counted> = HashMap::new();
        let mut total = Counted::default();
        for ((of, node), counted) in &self.counted {
            if tenant.is_none_or(|tenant| tenant == *of) {
                add(nodes.entry(*node).or_default(), *counted);
                add(&mut total, *counted);
            }
        }
        let mut nodes: Vec<_> = nodes
            .into_iter()
            .map(|(node, counted)| (node, self.per_second(counted)))
            .filter(|(_, rate)| rate.up + rate.down > 0)
            .collect();
        nodes.sort_by_key(|(node, rate)| (std::cmp::Reverse(rate.up + rate.down), *node));
        (self.per_second(total), nodes)
    }

    fn per_second(&self, counted: Counted) -> Counted {
        let millis = self.span.as_millis().max(1);
        let rate = |bytes: u64| u64::try_from(u128::from(bytes) * 1_000 / millis);
        Counted {
            up: rate(counted.up).unwrap_or(u64::MAX),
            down: rate(counted.down).unwrap_or(u64::MAX),
        }
    }
}

impl RateWatch {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            latest: watch::Sender::new(Some(Arc::default())),
            begun: Notify::new(),
            places: moka::sync::Cache::new(MOST_TENANTS),
        }
    }

    /// Watches a tenant or all of them, from what was seen last.
    ///
    /// # Errors
    /// [`Error::TooManyWatchers`].
    pub(crate) fn watch(&self, tenant: Option<TenantId>) -> Result<Watching, Error> {
        let places = self
            .places
            .get_with(tenant, || Arc::new(Semaphore::new(MOST)));
        let place = places.try_acquire_owned();
        let watching = Watching {
            _place: place.map_err(|_| Error::TooManyWatchers)?,
            latest: self.latest.subscribe(),
        };
        self.begun.notify_one();
        Ok(watching)
    }

    /// Looks for as long as anybody watches, until `stop`.
    pub(crate) async fn keep_looking(&self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.look_on() => {}
        }
        self.latest.send_replace(None);
    }

    async fn look_on(&self) {
        let mut looks = Looks::default();
        loop {
            if self.latest.receiver_count() == 0 {
                looks = Looks::default();
                self.latest.send_replace(Some(Arc::default()));
                self.begun.notified().await;
                continue;
            }
            match self.store.recent_usage().await {
                Ok(seen) => {
                    looks.saw(seen, Instant::now());
                    let rates = looks.rates(self.store.now_ms());
                    self.latest.send_replace(Some(Arc::new(rates)));
                }
                // Watchers see what was seen last, and when that was.
                Err(error) => tracing::warn!(event = "rates.not_seen", %error),
            }
            sleep(EVERY).await;
        }
    }
}

/// The last looks: when, and by how much each node had gone on since the one before.
#[derive(Debug, Default)]
struct Looks {
    last: Option<RecentUsage>,
    grown: VecDeque<(Instant, HashMap<(TenantId, NodeId), Counted>)>,
}

impl Looks {
    fn saw(&mut self, seen: RecentUsage, at: Instant) {
        let mut grown: HashMap<(TenantId, NodeId), Counted> = HashMap::new();
        if let Some(last) = &self.last {
            for (key, counted) in &seen {
                let before = last.get(key).copied().unwrap_or_default();
                let more = Counted {
                    up: counted.up.saturating_sub(before.up),
                    down: counted.down.saturating_sub(before.down),
                };
                if more != Counted::default() {
                    add(grown.entry((key.0, key.1)).or_default(), more);
                }
            }
        }
        self.last = Some(seen);
        self.grown.push_back((at, grown));
        // What grew before the first of them is not known to belong to the span.
        while self.grown.len() > LOOKS + 1 {
            self.grown.pop_front();
        }
    }

    fn rates(&self, as_of_ms: i64) -> Rates {
        let mut counted: HashMap<_, Counted> = HashMap::new();
        for (_, grown) in self.grown.iter().skip(1) {
            for (key, more) in grown {
                add(counted.entry(*key).or_default(), *more);
            }
        }
        let span = match (self.grown.front(), self.grown.back()) {
            (Some((first, _)), Some((last, _))) => *last - *first,
            _ => Duration::ZERO,
        };
        Rates {
            as_of_ms,
            span,
            counted,
        }
    }
}

fn add(sum: &mut Counted, more: Counted) {
    sum.up = sum.up.saturating_add(more.up);
    sum.down = sum.down.saturating_add(more.down);
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn tenant(n: u8) -> TenantId {
        TenantId::new(Uuid::from_bytes([n; 16]))
    }

    fn node(n: u8) -> NodeId {
        NodeId::new(Uuid::from_bytes([n; 16]))
    }

    fn look(rows: &[(u8, u8, i64, u64)]) -> RecentUsage {
        rows.iter()
            .map(|(of, at, quarter, down)| {
                let counted = Counted { up: 0, down: *down };
                ((tenant(*of), node(*at), *quarter), counted)
            })
            .collect()
    }

    #[test]
    fn rates_are_what_grew_over_the_time_in_which_it_did() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        looks.saw(look(&[(1, 1, 0, 5_000), (2, 1, 0, 70)]), at(0));
        assert_eq!(looks.rates(0).of(None).0.down, 0, "nothing is known yet");
        // The node goes on, in the same quarter and in the next; another one begins.
        looks.saw(look(&[(1, 1, 0, 6_000), (2, 1, 0, 70)]), at(2));
        looks.saw(
            look(&[
                (1, 1, 0, 6_000),
                (1, 1, 1, 500),
                (1, 2, 1, 4_500),
                (2, 1, 0, 70),
            ]),
            at(4),
        );
        let rates = looks.rates(0);
        assert_eq!(rates.span, Duration::from_secs(4));
        let (total, nodes) = rates.of(Some(tenant(1)));
        assert_eq!(total.down, (1_000 + 500 + 4_500) / 4);
        assert_eq!(nodes[0].0, node(2));
        assert_eq!((nodes[1].0, nodes[1].1.down), (node(1), 1_500 / 4));
        let (other, nodes) = rates.of(Some(tenant(2)));
        assert_eq!((other.down, nodes.len()), (0, 0));
    }

    #[test]
    fn what_grew_long_ago_is_in_no_rate() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        looks.saw(look(&[(1, 1, 0, 0)]), start);
        looks.saw(look(&[(1, 1, 0, 9_000)]), start + EVERY);
        for n in 2..20 {
            looks.saw(look(&[(1, 1, 0, 9_000)]), start + EVERY * n);
        }
        let rates = looks.rates(0);
        assert_eq!(rates.span, EVERY * LOOKS as u32);
        assert_eq!(rates.of(None).0.down, 0);
    }
}
