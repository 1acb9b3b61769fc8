//! The collector: the control plane's end of every node's stream. Usage comes in and is committed in
//! groups; desired state goes out by revision; hosts enrol. It holds no CA key and no state of worth:
//! everything durable is in the store, and any number of replicas may run.

mod allowances;
mod desired;
mod enrolment;
mod error;
mod gather;
mod ingest;
mod metrics;
mod renewal;
mod restore;
mod revocation;
mod settings;
mod states;
mod stream;

use std::{convert::Infallible, error::Error as StdError, sync::Arc};

use bytes::Bytes;
use http_body::Body as HttpBody;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{body::Body, client::GrpcService, service::Routes};
use vpnpanel_api::{
    FILE_DESCRIPTOR_SET, Guard, Guarded,
    agent::v1::{
        enrollment_service_server::EnrollmentServiceServer,
        node_link_service_server::NodeLinkServiceServer,
    },
    pki::v1::signer_service_client::SignerServiceClient,
};
use vpnpanel_auth::AuthLayer;
use vpnpanel_pki::Sealer;
use vpnpanel_runtime::{Grpc, Service, reflection, rpc::MAX_MESSAGE_BYTES, tls::ServerTls};
use vpnpanel_store::Store;

pub use enrolment::Enrollment;
pub use error::Error;
pub use settings::Settings;
pub use stream::NodeLink;

/// What the collector stands on.
#[derive(Debug)]
pub struct Dependencies<G, T> {
    /// The database.
    pub store: Store,
    /// Opens the keys that nodes are sent.
    pub sealer: Arc<Sealer>,
    /// Decides who may call.
    pub guard: G,
    /// control-api: a channel by the collector's certificate, or its router in the same process.
    pub signer: T,
    /// The node link's listener: mutual TLS.
    pub link_tls: ServerTls,
    /// Guards reflection, where there is any.
    pub reflection: Option<AuthLayer>,
    /// The enrolment listener: server TLS, with the authority in the chain for those who pin it.
    pub enrolment_tls: ServerTls,
}

/// Builds the collector. Its gRPC routers are `link` and `enrolment`.
///
/// # Errors
/// When the change log cannot be read.
pub async fn build<G, T>(
    settings: Settings,
    dependencies: Dependencies<G, T>,
) -> Result<Service, Error>
where
    G: Guard + Clone,
    T: GrpcService<Body> + Clone + Send + Sync + 'static,
    T::Error: Into<Box<dyn StdError + Send + Sync>>,
    T::Future: Send,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    let Dependencies {
        store,
        sealer,
        guard,
        signer,
        link_tls,
        reflection,
        enrolment_tls,
    } = dependencies;
    let mut service = Service::new("collector");
    service.admin(settings.admin_listen);
    service.check("database", {
        let store = store.clone();
        move || {
            let store = store.clone();
            async move { store.ping().await }
        }
    });
    let settings = Arc::new(settings);
    let signer = SignerServiceClient::new(signer);
    let renewals = renewal::Renewals::new(signer.clone());
    let parts = parts(&mut service, &store, sealer, renewals, &settings).await?;
    let link = NodeLinkServiceServer::new(Guarded::new(NodeLink::new(parts), guard.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let link = reflected(Routes::new(link), reflection.clone())?;
    service.grpc("link", link.listen(settings.listen).tls(link_tls));
    let enrolment = Enrollment::new(signer, settings.link_endpoint.clone());
    let enrolment = EnrollmentServiceServer::new(Guarded::new(enrolment, guard));
    let enrolment = reflected(Routes::new(enrolment), reflection)?;
    service.grpc(
        "enrolment",
        enrolment
            .listen(settings.enrolment_listen)
            .tls(enrolment_tls),
    );
    Ok(service)
}

/// Adds reflection behind its layer.
fn reflected(routes: Routes, layer: Option<AuthLayer>) -> Result<Grpc, Error> {
    let Some(layer) = layer else {
        return Ok(Grpc::new(routes));
    };
    let router = reflection::mount(routes.into_axum_router(), FILE_DESCRIPTOR_SET)?;
    Ok(Grpc::new(router.layer(layer)))
}

/// What streams share, and the tasks behind it.
async fn parts(
    service: &mut Service,
    store: &Store,
    sealer: Arc<Sealer>,
    renewals: renewal::Renewals,
    settings: &Arc<Settings>,
) -> Result<stream::Parts, Error> {
    let metrics = metrics::Metrics::register(service.metrics());
    let hub = Arc::new(stream::Hub::default());
    let (ingest, intake) = ingest::queue(settings.ingest_queue_rows, metrics.clone());
    let (allowances, asked) =
        allowances::Allowances::new(store.clone(), Arc::clone(&hub), settings.policy());
    let allowances = Arc::new(allowances);
    let states = states::States::new(&settings.name(), settings.pace());
    let tail = desired::Tail::new(
        store.clone(),
        Arc::clone(&hub),
        Arc::clone(&allowances),
        metrics.clone(),
        settings.change_poll.0,
    )
    .await?;
    let streams = TaskTracker::new();
    let (deltas, reader) = desired::Deltas::new(store.clone(), Arc::clone(&sealer));
    let snapshots = desired::Snapshots::new(store.clone(), sealer, deltas, settings.max_snapshots);
    let most = settings.max_opening as usize;
    let greeter = stream::Greeter::start(service, store, settings.pace(), states.collector(), most);
    // nobody else of this name is there, and we have no stream yet
    store.disconnect_all(&states.collector()).await?;
    let intake = Arc::new(intake);
    for _ in 0..ingest::Writer::count(store, settings) {
        let writer = ingest::Writer::new(
            store.clone(),
            &intake,
            settings,
            Arc::clone(&allowances),
            metrics.clone(),
        );
        service.task("ingest", move |stop| async move {
            writer.run(stop).await;
            Ok::<(), Infallible>(())
        });
    }
    service.task("allowances", {
        let allowances = Arc::clone(&allowances);
        move |stop| async move {
            allowances.run(stop).await;
            Ok::<(), Infallible>(())
        }
    });
    service.task("allowances of nodes", {
        let allowances = Arc::clone(&allowances);
        move |stop| async move {
            allowances.look_up(asked, stop).await;
            Ok::<(), Infallible>(())
        }
    });
    service.task("allowances ahead", {
        let allowances = Arc::clone(&allowances);
        move |stop| async move {
            allowances.look_ahead(stop).await;
            Ok::<(), Infallible>(())
        }
    });
    service.task("desired changes", move |stop| async move {
        reader.run(stop).await;
        Ok::<(), Infallible>(())
    });
    service.task("changes", move |stop| async move {
        tail.run(stop).await;
        Ok::<(), Infallible>(())
    });
    service.task("states", {
        let (states, store) = (states.clone(), store.clone());
        move |stop| async move {
            states.write(store, stop).await;
            Ok::<(), Infallible>(())
        }
    });
    service.task("restore", {
        let (hub, store, metrics) = (Arc::clone(&hub), store.clone(), metrics.clone());
        move |stop| async move {
            let watch = restore::Watch {
                store,
                hub,
                metrics,
            };
            watch.run(stop).await;
            Ok::<(), Infallible>(())
        }
    });
    service.task("revocation", {
        let (hub, store, every) = (Arc::clone(&hub), store.clone(), settings.serial_check.0);
        move |stop| async move {
            revocation::watch(store, hub, every, stop).await;
            Ok::<(), Infallible>(())
        }
    });
    Ok(stream::Parts {
        store: store.clone(),
        renewals,
        allowances,
        snapshots,
        slots: Arc::new(Semaphore::new(settings.max_streams as usize)),
        greeter,
        memory: Arc::new(Semaphore::new(settings.batch_memory())),
        settings: Arc::clone(settings),
        draining: service.draining(),
        metrics,
        hub,
        ingest,
        states,
        streams,
    })
}
