//! The scheduler: periodic jobs on leased rows of the store, run by any number of replicas with
//! effects that commit once (docs/adr/0005), and the API that shows and starts them.

mod audit;
mod chainer;
mod error;
mod fleet;
pub mod jobs;
mod metrics;
mod runner;
mod service;
mod settings;

use tonic::service::Routes;
use vpnpanel_api::{
    FILE_DESCRIPTOR_SET, Guarded, scheduler::v1::scheduler_service_server::SchedulerServiceServer,
};
use vpnpanel_auth::AuthGuard;
use vpnpanel_runtime::{Grpc, Service, reflection, rpc::RpcLimits};
use vpnpanel_store::Store;

pub use chainer::Chainer;
pub use error::Error;
pub use jobs::SigningKeys;
pub use metrics::Metrics;
pub use runner::Runner;
pub use service::Scheduler;
pub use settings::Settings;

/// Builds the scheduler (its gRPC router is `api`) over `store`; `guard` decides who may call its
/// API, and `keys` are what the rotation of signing keys stands on. In `development` reflection needs no permission.
///
/// # Errors
/// When the rows of new jobs cannot be written.
pub async fn build(
    settings: Settings,
    store: Store,
    guard: AuthGuard,
    keys: SigningKeys,
    development: bool,
) -> Result<Service, Error> {
    let mut service = Service::new("scheduler");
    service.admin(settings.admin_listen);
    service.check("database", {
        let store = store.clone();
        move || {
            let store = store.clone();
            async move { store.ping().await }
        }
    });
    let metrics = Metrics::register(service.metrics());
    let listen = settings.listen;
    let limits = RpcLimits {
        trusted_proxies: settings.trusted_proxies.clone(),
        ..RpcLimits::default()
    };
    service.task("fleet", {
        let (store, figures) = (store.clone(), metrics.fleet.clone());
        move |stop| async move {
            fleet::watch(store, figures, stop).await;
            Ok::<(), Error>(())
        }
    });
    let chainer = Chainer::new(store.clone(), &settings, &metrics);
    chainer.register().await?;
    let runner = Runner::new(store.clone(), jobs::all(&settings, keys), settings, metrics);
    runner.register().await?;
    let handlers = Scheduler::new(store, runner.bell());
    service.task("jobs", move |stop| async move {
        runner.run(stop).await;
        Ok::<(), Error>(())
    });
    service.task("audit-chain", move |stop| async move {
        chainer.run(stop).await;
        Ok::<(), Error>(())
    });
    let layer = guard.layer(development);
    let routes = Routes::new(SchedulerServiceServer::new(Guarded::new(handlers, guard)));
    let router = reflection::mount(routes.into_axum_router(), FILE_DESCRIPTOR_SET)?;
    let grpc = Grpc::new(router.layer(layer)).listen(listen);
    service.grpc("api", grpc.rpc_limits(limits));
    Ok(service)
}
