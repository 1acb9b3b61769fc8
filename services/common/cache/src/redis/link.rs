//! A connection that nobody waits for. Every command has a deadline; after one that failed, the
//! next ones are not even tried for a while, so that a Redis that is slow makes nobody else slow.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fred::{
    clients::{Client, WithOptions},
    error::Error as RedisError,
    interfaces::{ClientLike, EventInterface},
    types::{
        ConnectHandle,
        config::{
            Config, ConnectionConfig, Options, PerformanceConfig, ReconnectPolicy, TcpConfig,
            UnresponsiveConfig,
        },
    },
};

use tokio::{sync::broadcast::error::RecvError, task::JoinHandle};

use crate::{CacheSettings, keyspace::Concern, metrics::CacheMetrics};

/// How long a Redis that failed is left alone; then one command tries it.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two attempts to connect, and as much again by chance.
const RECONNECT_MS: u32 = 200;
/// A connection without an answer for so long is given up.
const UNRESPONSIVE: Duration = Duration::from_secs(2);
/// Commands that wait for the connection at a time.
const MAX_QUEUED: usize = 4_096;
const CLOSING: Duration = Duration::from_millis(500);

/// Redis did not answer, or not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away;

pub(crate) type Connection = WithOptions<Client>;

pub(crate) struct Link {
    client: Client,
    concern: Concern,
    prefix: String,
    timeout: Duration,
    started: Instant,
    /// Milliseconds since `started` before which no command is tried.
    paused_until: AtomicU64,
    up: AtomicBool,
    connecting: OnceLock<(ConnectHandle, JoinHandle<()>)>,
    /// Why the last attempt to connect failed.
    refusal: Arc<Mutex<Option<String>>>,
    metrics: CacheMetrics,
}

impl Link {
    pub(crate) fn new(
        config: &Config,
        settings: &CacheSettings,
        concern: Concern,
        metrics: CacheMetrics,
    ) -> Self {
        let mut config = config.clone();
        config.database = (!config.server.is_clustered()).then_some(concern.database());
        let performance = PerformanceConfig {
            default_command_timeout: settings.redis_timeout.0,
            ..PerformanceConfig::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: UNRESPONSIVE,
            internal_command_timeout: UNRESPONSIVE,
            max_command_attempts: 1,
            max_command_buffer_len: MAX_QUEUED,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(UNRESPONSIVE),
                interval: Duration::from_millis(500),
            },
            tcp: TcpConfig {
                nodelay: Some(true),
                ..TcpConfig::default()
            },
            ..ConnectionConfig::default()
        };
        let mut policy = ReconnectPolicy::new_constant(0, RECONNECT_MS);
        policy.set_jitter(RECONNECT_MS);
        metrics.up(concern, false);
        Self {
            client: Client::new(config, Some(performance), Some(connection), Some(policy)),
            concern,
            prefix: concern.key_prefix(&settings.redis_prefix),
            timeout: settings.redis_timeout.0,
            started: Instant::now(),
            paused_until: AtomicU64::new(0),
            up: AtomicBool::new(true),
            connecting: OnceLock::new(),
            refusal: Arc::default(),
            metrics,
        }
    }

    /// Begins to connect, and to connect again whenever the connection is lost.
    pub(crate) fn connect(&self) {
        self.connecting.get_or_init(|| {
            let mut errors = self.client.error_rx();
            let refusal = Arc::clone(&self.refusal);
            let noting = tokio::spawn(async move {
                loop {
                    match errors.recv().await {
                        Ok((error, _)) => {
                            let mut noted = refusal.lock().unwrap_or_else(PoisonError::into_inner);
                            *noted = Some(error.to_string());
                        }
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    }
                }
            });
            (self.client.connect(), noting)
        });
    }

    pub(crate) async fn close(&self) {
        let closed = tokio::time::timeout(CLOSING, self.client.quit()).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::debug!(concern = self.concern.name(), "Redis connection cut");
        }
        if let Some((connecting, noting)) = self.connecting.get() {
            connecting.abort();
            noting.abort();
        }
    }

    /// The full name of a key.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Asks Redis something within the time that the settings permit.
    pub(crate) async fn ask<T>(
        &self,
        command: impl AsyncFnOnce(&Connection) -> Result<T, RedisError>,
    ) -> Result<T, Away> {
        self.ask_within(self.timeout, command).await
    }

    /// Asks Redis something that takes longer by its nature.
    pub(crate) async fn ask_within<T>(
        &self,
        timeout: Duration,
        command: impl AsyncFnOnce(&Connection) -> Result<T, RedisError>,
    ) -> Result<T, Away> {
        if !self.client.is_connected() {
            if self.started.elapsed() > UNRESPONSIVE {
                let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
                let refusal = refusal.clone().unwrap_or_default();
                self.is_down(&format_args!("not connected: {refusal}"));
            }
            return Err(Away);
        }
        if !self.is_tried(timeout) {
            return Err(Away);
        }
        let connection = self.client.with_options(&Options {
            max_attempts: Some(1),
            timeout: Some(timeout),
            fail_fast: true,
            ..Options::default()
        });
        // The library's futures are large, and its own deadline does not hold for what waits for a
        // connection.
        match tokio::time::timeout(timeout, Box::pin(command(&connection))).await {
            Ok(Ok(answer)) => {
                self.answered();
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(elapsed) => Err(self.failed(&elapsed)),
        }
    }

    /// During a pause nothing is tried; at its end one command is, and the pause goes on for the
    /// others until it has come back.
    fn is_tried(&self, timeout: Duration) -> bool {
        let until = self.paused_until.load(Ordering::Acquire);
        if until == 0 {
            return true;
        }
        let now = self.millis();
        let (further, set) = (now + millis(timeout) + 1, Ordering::AcqRel);
        now >= until
            && self
                .paused_until
                .compare_exchange(until, further, set, Ordering::Acquire)
                .is_ok()
    }

    fn answered(&self) {
        self.paused_until.store(0, Ordering::Release);
        if !self.up.swap(true, Ordering::AcqRel) {
            tracing::info!(event = "redis_back", concern = self.concern.name());
        }
        self.metrics.up(self.concern, true);
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Away {
        let until = self.millis() + millis(PAUSE);
        self.paused_until.store(until, Ordering::Release);
        self.metrics.failed(self.concern);
        self.is_down(error);
        Away
    }

    fn is_down(&self, error: &dyn std::fmt::Display) {
        self.metrics.up(self.concern, false);
        if self.up.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                event = "redis_away",
                concern = self.concern.name(),
                %error,
                "going on without Redis"
            );
        }
    }

    /// At least 1: 0 stands for no pause.
    fn millis(&self) -> u64 {
        millis(self.started.elapsed()) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}
