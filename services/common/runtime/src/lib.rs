//! What every service does the same way, so that a service's own code is only its subject:
//! settings, logs, metrics, traces, health, reflection, TLS accept, ordered shutdown.
//!
//! # The shape of a service
//!
//! A service crate exposes its settings and one function that builds it. Nothing is listening,
//! and no task runs, until the process starts what `build` returned:
//!
//! ```ignore
//! #[derive(Debug, Clone, clap::Args)]
//! #[group(skip)]
//! pub struct SchedulerSettings {
//!     /// Where the scheduler's gRPC server listens.
//!     #[arg(id = "scheduler_listen", long = "scheduler-listen",
//!           env = "VPNPANEL_SCHEDULER_LISTEN", default_value = "127.0.0.1:50054")]
//!     pub listen: ListenAddr,
//! }
//!
//! pub async fn build(settings: SchedulerSettings, store: Store) -> Result<Service, Error> {
//!     let mut service = Service::new("scheduler");
//!     service.admin(settings.admin_listen);
//!     service.check("database", { let store = store.clone(); move || store.ping() });
//!     let jobs = Jobs::new(store, service.metrics());
//!     service.task("jobs", { let jobs = jobs.clone(); move |stop| jobs.run(stop) });
//!     service.grpc("api", Grpc::new(Routes::new(SchedulerServer::new(jobs)))
//!         .listen(settings.listen));
//!     Ok(service)
//! }
//! ```
//!
//! and its process reads like a list of what it is made of:
//!
//! ```ignore
//! fn main() -> ExitCode {
//!     let cli = settings::parse_or_exit::<Cli>();
//!     process::run("scheduler", cli.process, async |process| {
//!         let store = Store::open(cli.store).await?;
//!         process.start(scheduler::build(cli.scheduler, store).await?).await?;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! Two rules keep several services in one process (`vpnpanel up`) possible: argument ids are unique
//! across services (prefix them with the service's name, `#[group(skip)]` on the struct), and
//! nothing global is touched outside [`process`].
//!
//! [`Service::router`] is an added gRPC router with every layer on it: calling it directly is the
//! same as calling the service over a socket, without HTTP/2 in between.

pub mod admin;
pub mod clock;
mod crypto;
pub mod identity;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod readiness;
pub mod reflection;
pub mod rpc;
pub mod serve;
mod service;
pub mod settings;
mod shares;
pub mod status;
mod subscriber;
pub mod supervisor;
pub mod tls;
pub mod traces;

pub use crypto::install_crypto_provider;
pub use identity::{PeerIdentity, TrustDomain};
pub use service::{Grpc, Http, Service};
pub use shares::{Share, Shares};
pub use subscriber::subscriber;
pub use supervisor::Supervisor;

/// The version every service reports in `service_info` and in its traces.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
