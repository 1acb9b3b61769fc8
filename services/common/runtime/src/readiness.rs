//! Whether a service should get traffic: every named check passes, and nobody asked it to stop.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const CHECK_DEADLINE: Duration = Duration::from_secs(2);
/// A report this fresh is given again: probes must not become load.
const FRESH: Duration = Duration::from_millis(250);

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The checks of one service.
#[derive(Clone)]
pub struct Readiness(Arc<State>);

impl Default for Readiness {
    fn default() -> Self {
        Self::with_deadline(CHECK_DEADLINE)
    }
}

struct State {
    /// A check that takes longer has failed.
    deadline: Duration,
    checks: Mutex<Vec<Check>>,
    /// The rest of the process is not there yet.
    starting: AtomicBool,
    stopping: AtomicBool,
    latest: tokio::sync::Mutex<Option<(Instant, Report)>>,
}

#[derive(Clone)]
struct Check {
    name: &'static str,
    run: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
}

/// What the checks said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether traffic is welcome.
    pub ready: bool,
    /// Each check by name, with what is wrong.
    pub checks: Vec<(&'static str, Result<(), String>)>,
}

impl Readiness {
    fn with_deadline(deadline: Duration) -> Self {
        Self(Arc::new(State {
            deadline,
            checks: Mutex::default(),
            starting: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            latest: tokio::sync::Mutex::default(),
        }))
    }

    /// Adds a check; its error says what is wrong, in words fit for the open admin port.
    pub fn check<F, E>(&self, name: &'static str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let run = move || -> CheckFuture {
            let check = check();
            Box::pin(async move { check.await.map_err(|error| error.to_string()) })
        };
        self.lock().push(Check {
            name,
            run: Arc::new(run),
        });
    }

    /// Says whether the rest of the process is still being started; the service is not ready then.
    pub fn starting(&self, starting: bool) {
        self.0.starting.store(starting, Ordering::SeqCst);
    }

    /// From here on the service is not ready, whatever the checks say.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
    }

    /// Runs the checks, all at once.
    pub async fn report(&self) -> Report {
        // Whoever comes while checks run waits for their outcome instead of running them again.
        let mut latest = self.0.latest.lock().await;
        let report = match latest.take() {
            Some((at, report)) if at.elapsed() < FRESH => {
                *latest = Some((at, report.clone()));
                report
            }
            _ => {
                let report = self.run().await;
                *latest = Some((Instant::now(), report.clone()));
                report
            }
        };
        let mut report = report;
        for (name, flag) in [
            ("starting", &self.0.starting),
            ("stopping", &self.0.stopping),
        ] {
            if flag.load(Ordering::SeqCst) {
                report.ready = false;
                report
                    .checks
                    .push((name, Err(format!("the process is {name}"))));
            }
        }
        report
    }

    async fn run(&self) -> Report {
        let checks: Vec<Check> = self.lock().clone();
        let deadline = self.0.deadline;
        let results = futures::future::join_all(checks.into_iter().map(|check| async move {
            let result = match tokio::time::timeout(deadline, (check.run)()).await {
                Ok(result) => result,
                Err(_elapsed) => Err(format!("no answer within {deadline:?}")),
            };
            (check.name, result)
        }))
        .await;
        Report {
            ready: results.iter().all(|(_, result)| result.is_ok()),
            checks: results,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Check>> {
        self.0.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.lock().iter().map(|check| check.name).collect();
        f.debug_struct("Readiness").field("checks", &names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_failing_check_is_enough() {
        let readiness = Readiness::default();
        readiness.check("cache", || async { Ok::<_, String>(()) });
        assert!(readiness.report().await.ready);
        let readiness = Readiness::default();
        readiness.check("cache", || async { Ok::<_, String>(()) });
        readiness.check("database", || async { Err("refused") });
        let report = readiness.report().await;
        assert!(!report.ready);
        assert_eq!(report.checks[1], ("database", Err("refused".to_owned())));
    }

    #[tokio::test]
    async fn a_stopping_service_is_not_ready_at_once() {
        let readiness = Readiness::default();
        assert!(readiness.report().await.ready);
        readiness.stop();
        assert!(!readiness.report().await.ready);
    }

    #[tokio::test]
    async fn a_service_waits_for_the_rest_of_its_process() {
        let readiness = Readiness::default();
        readiness.starting(true);
        assert!(!readiness.report().await.ready);
        readiness.starting(false);
        assert!(readiness.report().await.ready);
    }

    #[tokio::test]
    async fn a_check_that_hangs_has_failed() {
        let readiness = Readiness::with_deadline(Duration::from_millis(5));
        readiness.check("database", std::future::pending::<Result<(), String>>);
        assert_eq!(
            readiness.report().await.checks[0].1,
            Err("no answer within 5ms".to_owned())
        );
    }
}
