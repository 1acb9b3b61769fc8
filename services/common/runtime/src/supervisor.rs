//! Starts services and ends them: in order, within a deadline, and all of them as soon as one that
//! they cannot do without has failed.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::Instrument as _;

use crate::readiness::Readiness;
use crate::serve::{ConnectionLimits, Ending, Listener, Protocol};
use crate::service::{Bounds, Server, Service, Task};
use crate::settings::CidrList;
use crate::{admin, logs};

/// How often readiness is looked at for those who watch grpc.health.v1.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
#[error("{service}: cannot listen on {address} ({listener}): {source}")]
pub struct StartError {
    service: &'static str,
    listener: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Why the process ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task that the service cannot do without.
    #[error("{service}: {task} failed: {reason}")]
    Task {
        /// The service.
        service: &'static str,
        /// The task.
        task: &'static str,
        /// What it said.
        reason: String,
    },
    /// Something did not end in time and was cut.
    #[error("not everything stopped within {0:?}")]
    Deadline(Duration),
}

/// Where the listeners of a started service are: the real ports, where settings said 0.
#[derive(Debug, Clone, Default)]
pub struct Addresses(Vec<(&'static str, SocketAddr)>);

impl Addresses {
    /// The address of the listener `name`; the admin listener's name is `admin`.
    pub fn of(&self, name: &str) -> Option<SocketAddr> {
        self.0
            .iter()
            .find(|(listener, _)| *listener == name)
            .map(|(_, address)| *address)
    }
}

#[derive(Debug)]
struct Ended {
    service: &'static str,
    task: &'static str,
    result: Result<(), String>,
}

#[derive(Debug)]
struct Running {
    service: &'static str,
    readiness: Readiness,
    health: HealthReporter,
    ending: Ending,
    /// Cancelled when the listeners are done.
    stop: CancellationToken,
    listeners: TaskTracker,
    tasks: TaskTracker,
    /// The admin listener ends last: it tells that the service is stopping.
    admin: TaskTracker,
    admin_ending: Ending,
}

/// Runs the services of one process.
#[derive(Debug)]
pub struct Supervisor {
    running: Vec<Running>,
    ended: mpsc::UnboundedReceiver<Ended>,
    report: mpsc::UnboundedSender<Ended>,
    deadline: Duration,
    drain_delay: Duration,
    connections: ConnectionLimits,
}

impl Supervisor {
    /// `deadline` bounds the whole of a stop; `drain_delay` is how long services go on serving as
    /// "not ready" before that.
    pub fn new(deadline: Duration, drain_delay: Duration) -> Self {
        // Unbounded in type only: each task reports once, and tasks are added by `start` alone.
        let (report, ended) = mpsc::unbounded_channel();
        Self {
            running: Vec::new(),
            ended,
            report,
            deadline,
            drain_delay,
            connections: ConnectionLimits::default(),
        }
    }

    /// Bounds the connections of each listener that has no bounds of its own.
    #[must_use]
    pub fn connection_limits(mut self, limits: ConnectionLimits) -> Self {
        self.connections = limits;
        self
    }

    /// Binds the service's listeners, then runs everything. Services stop in the reverse order of
    /// their start.
    ///
    /// # Errors
    /// When an address cannot be bound; nothing of the service runs then.
    pub async fn start(&mut self, mut service: Service) -> Result<Addresses, StartError> {
        let name = service.name;
        let mut addresses = Addresses::default();
        let mut bound = Vec::new();
        for server in std::mem::take(&mut service.servers) {
            bound.push(self.bind(&service, server, &mut addresses).await?);
        }
        let admin = match service.admin {
            Some(listen) => {
                let router = admin::router(service.readiness.clone(), service.metrics.clone());
                let server = Server {
                    name: "admin",
                    router,
                    listen,
                    protocol: Protocol::Http,
                    tls: None,
                    bounds: Bounds::Own(Box::new(ConnectionLimits {
                        max_connections: 64,
                        max_connections_per_address: 32,
                        ..self.connections.clone()
                    })),
                    proxies: CidrList::default(),
                };
                Some(self.bind(&service, server, &mut addresses).await?)
            }
            None => None,
        };
        let tasks = std::mem::take(&mut service.tasks);
        let health = report_health(&service);
        let running = Running {
            service: name,
            ending: Ending {
                drain: service.draining,
                cut: CancellationToken::new(),
            },
            readiness: service.readiness,
            health: service.health,
            stop: CancellationToken::new(),
            listeners: TaskTracker::new(),
            tasks: TaskTracker::new(),
            admin: TaskTracker::new(),
            admin_ending: Ending::default(),
        };
        for (listener, router) in bound {
            let serve = listener.serve(router, running.ending.clone());
            running
                .listeners
                .spawn(serve.instrument(logs::service_span(name)));
        }
        if let Some((listener, router)) = admin {
            let serve = listener.serve(router, running.admin_ending.clone());
            running
                .admin
                .spawn(serve.instrument(logs::service_span(name)));
        }
        for task in tasks {
            self.spawn(&running, task);
        }
        self.spawn(&running, health);
        for (listener, address) in &addresses.0 {
            tracing::info!(service = name, listener, %address, "listening");
        }
        self.running.push(running);
        Ok(addresses)
    }

    /// Runs until `asked_to_stop` completes or a task fails, then stops everything.
    ///
    /// # Errors
    /// The task that failed, or that the deadline passed.
    pub async fn run(mut self, asked_to_stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let failure = tokio::select! {
            () = asked_to_stop => None,
            failure = self.first_failure() => Some(failure),
        };
        let stopped = self.stop().await;
        failure.map_or(stopped, Err)
    }

    /// Stops everything, services last started first.
    ///
    /// # Errors
    /// When the deadline passed, and what was left was cut.
    pub async fn stop(self) -> Result<(), RunError> {
        for running in &self.running {
            running.readiness.stop();
            running
                .health
                .set_service_status("", ServingStatus::NotServing)
                .await;
        }
        if !self.drain_delay.is_zero() {
            tokio::time::sleep(self.drain_delay).await;
        }
        let until = Instant::now() + self.deadline;
        let mut late = false;
        for running in self.running.iter().rev() {
            late |= !running.stop(until).await;
        }
        for running in &self.running {
            running.admin_ending.drain.cancel();
            running.admin_ending.cut.cancel();
            running.admin.close();
            running.admin.wait().await;
        }
        if late {
            Err(RunError::Deadline(self.deadline))
        } else {
            Ok(())
        }
    }

    async fn first_failure(&mut self) -> RunError {
        loop {
            // `self.report` is held here, so the channel does not close.
            let Some(Ended {
                service,
                task,
                result,
            }) = self.ended.recv().await
            else {
                return std::future::pending().await;
            };
            if let Err(reason) = result {
                tracing::error!(service, task, reason, "task failed, the process stops");
                return RunError::Task {
                    service,
                    task,
                    reason,
                };
            }
        }
    }

    async fn bind(
        &self,
        service: &Service,
        server: Server,
        addresses: &mut Addresses,
    ) -> Result<(Listener, axum::Router), StartError> {
        let (listener, address) = (server.name, server.listen.0);
        let failed = |source| StartError {
            service: service.name,
            listener,
            address,
            source,
        };
        let limits = ConnectionLimits {
            proxies: server.proxies,
            ..server.bounds.limits(&self.connections)
        };
        let bound = Listener::bind(
            server.listen,
            server.protocol,
            server.tls,
            limits,
            service.metrics.listener(listener),
        )
        .await
        .map_err(failed)?;
        addresses
            .0
            .push((listener, bound.local_addr().map_err(failed)?));
        Ok((bound, server.router))
    }

    fn spawn(&self, running: &Running, task: Task) {
        let (service, report) = (running.service, self.report.clone());
        let stop = running.stop.clone();
        let name = task.name;
        let work = (task.run)(stop.clone());
        running.tasks.spawn(
            async move {
                let result = match AssertUnwindSafe(work).catch_unwind().await {
                    Ok(Ok(())) if !task.finite && !stop.is_cancelled() => {
                        Err("ended before it was asked to".to_owned())
                    }
                    Ok(result) => result,
                    Err(_panic) => Err("panicked".to_owned()),
                };
                // After the supervisor is gone nobody is left to be told.
                let _unheard = report.send(Ended {
                    service,
                    task: name,
                    result,
                });
            }
            .instrument(logs::service_span(service)),
        );
    }
}

impl Running {
    /// Listeners first, then tasks; false when the deadline passed.
    async fn stop(&self, until: Instant) -> bool {
        let service = self.service;
        self.ending.drain.cancel();
        self.listeners.close();
        let drained = tokio::time::timeout_at(until, self.listeners.wait())
            .await
            .is_ok();
        if !drained {
            tracing::warn!(service, "connections cut at the deadline");
            self.ending.cut.cancel();
            self.listeners.wait().await;
        }
        self.stop.cancel();
        self.tasks.close();
        // A task has its own short while even if listeners used up the time.
        let until = until.max(Instant::now() + Duration::from_millis(500));
        let ended = tokio::time::timeout_at(until, self.tasks.wait())
            .await
            .is_ok();
        if !ended {
            tracing::warn!(
                service,
                left = self.tasks.len(),
                "tasks left behind at the deadline"
            );
        }
        tracing::info!(service, "stopped");
        drained && ended
    }
}

/// Keeps grpc.health.v1 in step with the checks.
fn report_health(service: &Service) -> Task {
    let (readiness, health) = (service.readiness.clone(), service.health.clone());
    let run = move |stop: CancellationToken| async move {
        loop {
            let report = readiness.report().await;
            let status = if report.ready {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            health.set_service_status("", status).await;
            for (check, result) in report.checks {
                if let Err(reason) = result {
                    tracing::warn!(check, reason, "not ready");
                }
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(HEALTH_INTERVAL))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
    };
    Task {
        name: "health",
        run: Box::new(move |stop| Box::pin(run(stop))),
        finite: false,
    }
}
