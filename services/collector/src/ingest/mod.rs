//! Usage on its way into the database. Streams hand in what they have and wait; a writer takes all
//! that has gathered meanwhile and commits it in one transaction, so that the more there is to do, the
//! less each row costs. What waits is bounded in rows, and a stream that waits reads no further
//! frames: the rest stays on the agents' disks.

mod intake;
mod slice;
mod writer;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use vpnpanel_link::collector::ingest::{Reply, Submission};

pub(crate) use intake::Intake;
pub(crate) use writer::Writer;

use crate::{error::Error, metrics::Metrics};

/// Submissions that wait, at most. Their rows are bounded apart; this bounds those without rows.
const QUEUED: usize = 4_096;

/// The streams' end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Ingest {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    capacity: u32,
    metrics: Metrics,
}

/// A submission in the queue, with the room it takes.
#[derive(Debug)]
struct Queued {
    submission: Submission,
    rows: u32,
    room: OwnedSemaphorePermit,
    reply: oneshot::Sender<Reply>,
}

/// A queue for `capacity` rows, and the end that writers take from.
pub(crate) fn queue(capacity: u32, metrics: Metrics) -> (Ingest, Intake) {
    let (sender, receiver) = mpsc::channel(QUEUED);
    let room = Arc::new(Semaphore::new(capacity as usize));
    (
        Ingest {
            queue: sender,
            room,
            capacity,
            metrics,
        },
        Intake::new(receiver),
    )
}

impl Ingest {
    /// Waits for room, then for the commit. What comes back is what the stream is to be told.
    ///
    /// # Errors
    /// [`Error::Stopping`] when the writers have ended; nothing may have been committed then, and the
    /// agent sends it again.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Reply, Error> {
        let rows = rows(&submission);
        // a single submission may be larger than the queue: it then has it for itself
        let room = Arc::clone(&self.room)
            .acquire_many_owned(rows.min(self.capacity))
            .await
            .map_err(|_| Error::Stopping)?;
        let (reply, answer) = oneshot::channel();
        self.metrics.queued(rows);
        let queued = Queued {
            submission,
            rows,
            room,
            reply,
        };
        if self.queue.send(queued).await.is_err() {
            self.metrics.taken(rows);
            return Err(Error::Stopping);
        }
        answer.await.map_err(|_| Error::Stopping)
    }
}

/// What a submission weighs; at least one, so that every one takes room.
fn rows(submission: &Submission) -> u32 {
    let batches = submission.batches.iter().map(|batch| match &batch.payload {
        Ok(payload) => payload.rows.len(),
        Err(_) => 1,
    });
    let segments = submission
        .segments
        .iter()
        .map(|segments| segments.rows.len());
    let rows: usize = batches.chain(segments).sum::<usize>() + submission.leases.len();
    u32::try_from(rows.max(1)).unwrap_or(u32::MAX)
}
