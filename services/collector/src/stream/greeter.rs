//! Lets streams in, many in one transaction, and takes their first look at what their nodes are to be
//! told. After an outage everybody comes at once: what that costs is a few statements for hundreds of
//! streams.

use std::{convert::Infallible, sync::Arc};

use tracing::warn;
use vpnpanel_domain::NodeId;
use vpnpanel_link::{Generation, Hello, Pace, Revision, collector::open::Opening};
use vpnpanel_runtime::Service;
use vpnpanel_store::{FirstLook, Greeting, Seen, Store, StoreError};

use crate::{
    error::Error,
    gather::{Gatherer, gatherer},
};

/// What a Hello names weighs as much as another stream when there is so much of it: leases, epochs,
/// counters without a baseline.
const NAMED: usize = 64;

type Opened = Result<Opening, StoreError>;
type Looked = Result<Option<Seen>, StoreError>;

/// The streams' end.
#[derive(Debug, Clone)]
pub(crate) struct Greeter {
    openings: Gatherer<Greeting, Opened>,
    looks: Gatherer<FirstLook, Looked>,
}

impl Greeter {
    /// Starts the tasks behind it, which take up to `most` streams at a time.
    pub(crate) fn start(
        service: &mut Service,
        store: &Store,
        pace: Pace,
        collector: Arc<str>,
        most: usize,
    ) -> Self {
        let (openings, opened) = gatherer(most, weigh);
        let (looks, looked) = gatherer(most, |_| 1);
        service.task("greeter", {
            let store = store.clone();
            move |stop| async move {
                let work = |greetings| open(store.clone(), greetings, pace, Arc::clone(&collector));
                opened.run(stop, work).await;
                Ok::<(), Infallible>(())
            }
        });
        service.task("first looks", {
            let store = store.clone();
            move |stop| async move {
                looked
                    .run(stop, |streams| look(store.clone(), streams))
                    .await;
                Ok::<(), Infallible>(())
            }
        });
        Self { openings, looks }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`Error::Stopping`], and those of [`Store::open_stream`].
    pub(super) async fn open(&self, node: NodeId, hello: Box<Hello>) -> Result<Opening, Error> {
        Ok(self.openings.submit(Greeting { node, hello }).await??)
    }

    /// Looks at what has changed for the node of a stream that has just entered the hub: whatever
    /// changes from then on is signalled.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`], [`Error::Stopping`], and those of the database.
    pub(super) async fn look(
        &self,
        node: NodeId,
        generation: Generation,
        since: Option<Revision>,
    ) -> Result<Seen, Error> {
        let look = FirstLook {
            node,
            generation,
            since,
        };
        let seen = self.looks.submit(look).await??;
        Ok(seen.ok_or(StoreError::StreamSuperseded)?)
    }
}

fn weigh(greeting: &Greeting) -> usize {
    let hello = &greeting.hello;
    let named = hello.leases.len() + hello.epochs.len() + hello.unknown_baselines.len();
    1 + named / NAMED
}

/// What the database refuses of one stream is not the others' fault: then each is tried alone.
async fn open(
    store: Store,
    greetings: Vec<Greeting>,
    pace: Pace,
    collector: Arc<str>,
) -> Vec<Opened> {
    match store.open_streams(&greetings, pace, &collector).await {
        Ok(answers) => answers,
        Err(error) if error.is_transient() || greetings.len() == 1 => {
            vec![Err(error); greetings.len()]
        }
        Err(error) => {
            warn!(
                event = "link.opened_apart",
                %error,
                streams = greetings.len(),
                "streams could not be opened together: each is tried by itself"
            );
            let mut answers = Vec::with_capacity(greetings.len());
            for greeting in greetings {
                let (node, hello) = (greeting.node, &greeting.hello);
                answers.push(store.open_stream(node, hello, pace, &collector).await);
            }
            answers
        }
    }
}

async fn look(store: Store, streams: Vec<FirstLook>) -> Vec<Looked> {
    match store.first_looks(&streams).await {
        Ok(seen) => seen.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error); streams.len()],
    }
}
