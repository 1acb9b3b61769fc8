//! Signals among replicas: a capped stream that every replica appends to and follows. A stream,
//! and not PUBLISH, because a reader that was cut off for a moment goes on where it was, and a
//! reader that gets no answer knows that it is not listening.
//!
//! Whatever may have been missed (a connection that was lost, a stream that was wiped, a reader that
//! was too slow) is told to the listeners as [`Signal::Everything`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fred::interfaces::{KeysInterface, StreamsInterface};
use fred::types::{Value, streams::XReadResponse};
use tokio::sync::{Mutex, mpsc};
use vpnpanel_auth::signals::{Listener, LocalSignals, Signal, Signals, TRUST};

use super::{
    link::{Away, Link},
    script::Script,
};
use crate::metrics::CacheMetrics;

/// Signals that wait to be told; beyond that, one says that everything has changed.
const MAX_WAITING: usize = 4_096;
/// Signals that the stream keeps, about.
const STREAM_LENGTH: i64 = 10_000;
/// Signals that are read at a time. Who is that far behind may have missed some.
const BATCH: u64 = 1_000;
/// How long Redis holds a question for news.
const HOLD: Duration = Duration::from_millis(400);
/// How long its answer is waited for.
const PATIENCE: Duration = Duration::from_millis(1_000);
const RETRY: Duration = Duration::from_millis(100);

/// Entries by stream.
type News = XReadResponse<String, String, String, String>;

/// The life of the stream, which ends when it is wiped, and its last entry.
const POSITION: &str = r"
local life = redis.call('GET', KEYS[1])
if not life then
  life = ARGV[1]
  redis.call('SET', KEYS[1], life)
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
return {life, last[1] and last[1][1] or '0-0'}
";

pub(crate) struct RedisSignals {
    telling: Link,
    following: Link,
    position: Script,
    /// Names this replica, so that it does not hear itself.
    replica: String,
    listeners: LocalSignals,
    waiting: mpsc::Sender<(Signal, Instant)>,
    queue: Mutex<mpsc::Receiver<(Signal, Instant)>>,
    overflown: AtomicBool,
    metrics: CacheMetrics,
}

impl RedisSignals {
    pub(super) fn new(telling: Link, following: Link, metrics: CacheMetrics) -> Self {
        let (waiting, queue) = mpsc::channel(MAX_WAITING);
        Self {
            telling,
            following,
            position: Script::new(POSITION),
            replica: uuid::Uuid::new_v4().simple().to_string(),
            listeners: LocalSignals::default(),
            waiting,
            queue: Mutex::new(queue),
            overflown: AtomicBool::new(false),
            metrics,
        }
    }

    pub(super) fn links(&self) -> [&Link; 2] {
        [&self.telling, &self.following]
    }

    /// Tells other replicas what waits. What could not be told in time is dropped: by then, nobody
    /// believes any more what it would make them forget.
    pub(super) async fn tell_others(&self) {
        let mut queue = self.queue.lock().await;
        while let Some((mut signal, rung)) = queue.recv().await {
            if self.overflown.swap(false, Ordering::AcqRel) {
                signal = Signal::Everything;
            }
            while self.tell(signal).await.is_err() {
                if rung.elapsed() > TRUST {
                    self.metrics.lost_signal();
                    break;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn tell(&self, signal: Signal) -> Result<(), Away> {
        let stream = self.telling.key("stream");
        let told = self.telling.ask(async |connection| {
            let fields = vec![
                ("signal", signal.to_string()),
                ("from", self.replica.clone()),
            ];
            let cap = ("MAXLEN", "~", STREAM_LENGTH);
            let _id: String = connection.xadd(stream, false, cap, "*", fields).await?;
            Ok(())
        });
        told.await
    }

    /// Tells the listeners what other replicas tell.
    pub(super) async fn follow(&self) {
        loop {
            let Err(Away) = self.follow_life().await;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// As long as the connection holds and the stream is the same.
    async fn follow_life(&self) -> Result<std::convert::Infallible, Away> {
        let (life, mut last) = self.position().await?;
        // In this order: what comes after the position is read, what came before is covered.
        self.listeners.ring(Signal::Everything);
        let mut looked = Instant::now();
        loop {
            last = self.read_on(last).await?;
            if looked.elapsed() >= HOLD {
                looked = Instant::now();
                if self.life().await?.as_deref() != Some(life.as_str()) {
                    return Err(Away);
                }
            }
        }
    }

    async fn position(&self) -> Result<(String, String), Away> {
        let keys = vec![self.following.key("life"), self.following.key("stream")];
        let fresh = uuid::Uuid::new_v4().simple().to_string();
        let position = self.following.ask(async |connection| {
            let arguments = vec![fresh.into()];
            self.position.run(connection, keys, arguments).await
        });
        position.await
    }

    async fn life(&self) -> Result<Option<String>, Away> {
        let key = self.following.key("life");
        let life = self.following.ask(async |connection| {
            let life: Option<String> = connection.get(key).await?;
            Ok(life)
        });
        life.await
    }

    /// Waits for what comes after `last`; returns the last that came.
    async fn read_on(&self, last: String) -> Result<String, Away> {
        let stream = self.following.key("stream");
        let read = self.following.ask_within(PATIENCE, async |connection| {
            let hold = u64::try_from(HOLD.as_millis()).unwrap_or(0);
            let news: Value = connection
                .xread(Some(BATCH), Some(hold), stream, last.clone())
                .await?;
            if news.is_null() {
                return Ok(News::new());
            }
            news.into_xread_response()
        });
        let mut last = last.clone();
        let entries: Vec<_> = read.await?.into_values().flatten().collect();
        let behind = entries.len() as u64 >= BATCH;
        for (id, fields) in entries {
            last = id;
            if fields.get("from") != Some(&self.replica) {
                // What a later version says is taken for more than it may mean.
                let signal = fields.get("signal").and_then(|text| text.parse().ok());
                self.listeners.ring(signal.unwrap_or(Signal::Everything));
            }
        }
        if behind {
            self.listeners.ring(Signal::Everything);
        }
        Ok(last)
    }
}

impl Signals for RedisSignals {
    fn ring(&self, signal: Signal) {
        self.listeners.ring(signal);
        if self.waiting.try_send((signal, Instant::now())).is_err() {
            self.overflown.store(true, Ordering::Release);
        }
    }

    fn listen(&self, listener: Arc<dyn Listener>) {
        self.listeners.listen(listener);
    }
}
