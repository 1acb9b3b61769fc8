//! A process around services: crypto provider, logs, traces, signals, exit code. The only place
//! that touches what is global.

use std::fmt;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::logs::{self, Output};
use crate::readiness::Readiness;
use crate::service::Service;
use crate::settings::ProcessSettings;
use crate::supervisor::{Addresses, StartError, Supervisor};
use crate::traces::Traces;

/// A failure of the process's own beginnings.
#[derive(Debug, thiserror::Error)]
enum ProcessError {
    #[error(transparent)]
    Logs(#[from] logs::LogError),
    #[error(transparent)]
    Traces(#[from] crate::traces::TraceError),
    #[error("async runtime: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Build(String),
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Run(#[from] crate::supervisor::RunError),
}

impl ProcessError {
    fn of(fault: &impl Fault) -> Self {
        let text = fault.to_string();
        match fault.is_configuration() {
            true => Self::Settings(text),
            false => Self::Build(text),
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Settings(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Why what a process was started for came to nothing.
pub trait Fault: fmt::Display {
    /// Whether the settings are at fault, so that starting it again changes nothing: the exit code
    /// is 2 then, as it is for settings that do not parse.
    fn is_configuration(&self) -> bool {
        false
    }
}

impl Fault for Box<dyn std::error::Error> {}

/// A process whose services are being started.
#[derive(Debug)]
pub struct Process {
    supervisor: Supervisor,
    started: Vec<Readiness>,
}

impl Process {
    /// Starts a service. It is ready no sooner than the process has started all of them.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn start(&mut self, service: Service) -> Result<Addresses, StartError> {
        let readiness = service.readiness.clone();
        readiness.starting(true);
        let addresses = self.supervisor.start(service).await?;
        self.started.push(readiness);
        Ok(addresses)
    }
}

/// Runs a process: sets it up, lets `build` start the services, serves until SIGTERM or SIGINT (a
/// second one ends it at once), stops in order. The exit code is 0 after an asked-for stop that
/// went well, 2 where the settings are at fault, 1 otherwise.
pub fn run<E: Fault>(
    name: &'static str,
    settings: ProcessSettings,
    build: impl AsyncFnOnce(&mut Process) -> Result<(), E>,
) -> ExitCode {
    let supervisor = || {
        Supervisor::new(settings.shutdown_deadline.0, settings.drain_delay.0)
            .connection_limits(settings.listeners.limits())
    };
    around(name, &settings, Output::Stdout, async {
        tracing::info!(version = crate::VERSION, "starting");
        serve(supervisor(), build).await
    })
}

/// Runs a process that has one thing to do. Its stdout is for what it was run for: it logs to
/// stderr.
pub fn run_once<E: Fault>(
    name: &'static str,
    settings: ProcessSettings,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    around(name, &settings, Output::Stderr, async {
        work.await.map_err(|error| ProcessError::of(&error))
    })
}

fn around(
    name: &'static str,
    settings: &ProcessSettings,
    output: Output,
    work: impl Future<Output = Result<(), ProcessError>>,
) -> ExitCode {
    crate::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&ProcessError::Io(error)),
    };
    let traces = match runtime.block_on(async { set_up(name, settings, output) }) {
        Ok(traces) => traces,
        Err(error) => return fail(&error),
    };
    let result = runtime.block_on(work);
    traces.finish();
    // Tasks that did not end in time are left to the kernel.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the process failed");
            error.exit_code()
        }
    }
}

fn set_up(
    name: &'static str,
    settings: &ProcessSettings,
    output: Output,
) -> Result<Traces, ProcessError> {
    let traces = Traces::start(name, &settings.traces)?;
    logs::install(name, settings, &traces, output)?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("(no message)");
        tracing::error!(location, message_text = message, "panic");
    }));
    Ok(traces)
}

async fn serve<E: Fault>(
    supervisor: Supervisor,
    build: impl AsyncFnOnce(&mut Process) -> Result<(), E>,
) -> Result<(), ProcessError> {
    let mut stop = StopSignals::new()?;
    let mut process = Process {
        supervisor,
        started: Vec::new(),
    };
    let built = tokio::select! {
        built = build(&mut process) => Some(built),
        () = stop.next() => None,
    };
    match built {
        None => return Ok(process.supervisor.stop().await?),
        Some(Err(error)) => {
            let error = ProcessError::of(&error);
            // The first failure is the one to tell.
            if let Err(late) = process.supervisor.stop().await {
                tracing::warn!(error = %late, "stopping after a failed start");
            }
            return Err(error);
        }
        Some(Ok(())) => {
            process
                .started
                .iter()
                .for_each(|readiness| readiness.starting(false));
            tracing::info!("ready to serve");
        }
    }
    let running = process.supervisor.run(async {
        stop.next().await;
    });
    tokio::pin!(running);
    // `run` borrows the first signal; a second pair of streams sees the next.
    let mut impatient = StopSignals::new()?;
    tokio::select! {
        result = running.as_mut() => return Ok(result?),
        () = impatient.next() => {}
    }
    tokio::select! {
        result = running => Ok(result?),
        () = impatient.next() => Err(ProcessError::Build("stopped at once by a second signal".to_owned())),
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!(signal = "SIGTERM", "asked to stop"),
            _ = self.interrupt.recv() => tracing::info!(signal = "SIGINT", "asked to stop"),
        }
    }
}

/// Before logs are set up there is only stderr.
fn fail(error: &ProcessError) -> ExitCode {
    use std::io::Write as _;
    let _unheard = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}
